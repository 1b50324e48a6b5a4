"""``zoo inspect``: what a checkpoint is, told by names and shapes alone."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import pytest
import torch
import torchvision
from click.testing import CliRunner
from safetensors.torch import save_file

import zoo_core as zoo
from zoo_core.cli.group import zoo as commands
from zoo_core.errors import Unreadable
from zoo_core.registry.zoo import current_zoo
from zoo_core.weights.checkpoint.describe import describe, ends_of
from zoo_core.weights.checkpoint.read import open_checkpoint, open_outline
from zoo_core.weights.checkpoint.signatures import all_signatures, match, sign, write_signatures
from zoo_core.weights.formats.outline import outline_of

NAME = "tiny/glyphnet"
with torch.device("meta"):
    RESNET = {name: tuple(each.shape) for name, each in torchvision.models.resnet50().state_dict().items()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "last.ckpt"


def inspect(path):
    answer = CliRunner().invoke(commands, ["inspect", str(path), "--json"], catch_exceptions=False)
    return json.loads(answer.output)["state_dicts"]


def test_a_file_is_told_by_its_names_and_shapes_and_loaded_by_the_line_that_is_shown(path):
    net = zoo.get(NAME, weights=None, num_classes=9, in_channels=4, seed=1)
    torch.save({"state_dict": {f"model._orig_mod.{name}": each for name, each in net.state_dict().items()}}, path)
    (found,) = inspect(path)
    assert (found["keys"], found["prefix"], found["classes"], found["channels"]) == (["state_dict"], "model.", 9, 4)
    assert found["matches"][0] == {"name": NAME, "score": 1.0}
    model = eval(found["load"], {"zoo": zoo})
    assert all(torch.equal(model.state_dict()[name], each) for name, each in net.state_dict().items())


def test_averaged_weights_come_first_and_the_others_have_a_line_of_their_own(path):
    raw = zoo.get(NAME, weights=None, num_classes=9, seed=1).state_dict()
    torch.save({"model": raw, "model_ema": {name: each + 1 for name, each in raw.items()}}, path)
    averaged, other = inspect(path)
    assert averaged["averaged"]
    model = eval(other["load"], {"zoo": zoo})
    assert torch.equal(model.fc.bias, raw["fc.bias"])


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("timm/test_vit", {"num_classes": 5, "options": {"img_size": 96}}, {"image_size": 96, "head": "head: 64 to 5"}),
        ("timm/test_vit", {"num_classes": 7, "in_channels": 1}, {"image_size": 160, "channels": 1, "classes": 7}),
        ("tiny/glyphnet", {"head": zoo.mlp_head(4, hidden=(16,))}, {"head": "fc: 64 to 16 to 4", "classes": 4}),
        ("tiny/glyphnet", {"head": {"kind": 3, "size": 5}}, {"head": "fc: 2 layers, of 3, 5 outputs"}),
        ("tiny/glyphnet", {"num_classes": 3, "dtype": "float16"}, {"dtypes": {"float16": 47, "int64": 9}}),
    ],
)
def test_sizes_and_the_form_of_the_head_are_told(path, name, options, expected):
    torch.save({"model": zoo.get(name, weights=None, **options).state_dict()}, path)
    (found,) = inspect(path)
    assert {each: found[each] for each in expected} == expected


def test_the_keypoints_of_a_detector_are_told():
    shapes = {"keypoint.kps_score_lowres.weight": (512, 5, 4, 4), "conv1.weight": (64, 3, 7, 7)}
    assert ends_of(shapes).keypoints == 5


def test_of_models_that_are_alike_the_one_that_the_file_names_comes_first(path):
    state = {name: torch.zeros(()).expand(shape) for name, shape in RESNET.items()}
    for note, expected in (({}, "torchvision/resnet50"), ({"arch": "resnetblur50"}, "timm/resnetblur50")):
        torch.save({"state_dict": state, **note}, path)
        assert inspect(path)[0]["matches"][0] == {"name": expected, "score": 1.0}


def test_nothing_of_torch_is_imported_for_what_is_written_today(path):
    torch.save({"state_dict": zoo.get(NAME, weights=None).state_dict()}, path)
    script = f"import sys; from zoo_core.cli import main; sys.argv[1:] = ['inspect', {str(path)!r}]\n"
    script += "try: main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "tiny/glyphnet 100%" in answer.stdout


@pytest.mark.parametrize("form", ["zip", "protocol 4", "stream", "safetensors", "module"])
def test_an_outline_is_of_what_is_read(path, form):
    net = zoo.get(NAME, weights=None, seed=0)
    if form == "safetensors":
        save_file(net.state_dict(), path)
    elif form == "module":
        torch.save({"model": net.half(), "epoch": 3}, path)
    else:
        how = {"protocol 4": {"pickle_protocol": 4}, "stream": {"_use_new_zipfile_serialization": False}}.get(form, {})
        torch.save({"model": net.state_dict(), "ema": net.state_dict(), "args": argparse.Namespace(lr=1)}, path, **how)
    assert describe(open_outline(path)) == describe(open_checkpoint(path))


@pytest.mark.parametrize("keep", [10, 1000, 30_000])
def test_a_file_that_was_cut_off_is_no_outline_and_the_reader_says_why(path, keep):
    torch.save(zoo.get(NAME, weights=None).state_dict(), path)
    path.write_bytes(path.read_bytes()[:keep])
    assert outline_of(path) is None
    with pytest.raises(Unreadable):
        open_outline(path)


def test_odd_tensors_are_named(path):
    torch.save({"fc.weight": torch.eye(2).to_sparse(), "conv.weight": torch.ones(2)}, path)
    (found,) = inspect(path)
    assert found["odd"] == {"fc.weight": "sparse tensor"}
    assert found["load"] is None


def test_a_larger_model_is_not_taken_for_the_smaller_one_in_it():
    small = {f"layer{n}.weight": (8, 8) for n in range(20)}
    large = {f"layer{n}.weight": (8, 8) for n in range(40)}
    known = [sign("small", small), sign("large", large)]
    assert match(large, known)[0].name == "large"
    assert match(small, known)[0].name == "small"


def test_patches_and_heads_tell_models_that_are_the_same_in_all_else():
    def shapes(patch, classes, channels=3):
        return {"stem.weight": (8, channels, patch, patch), "body.weight": (8, 8), "fc.weight": (classes, 8)}

    made = {name: shapes(*sizes) for name, sizes in {"p16": (16, 9), "p14": (14, 9), "p14_512": (14, 512)}.items()}
    known = [sign(name, each, ["stem.weight", "fc"]) for name, each in made.items()]
    assert [match(each, known)[0].name for each in made.values()] == [*made]
    trained = match(shapes(16, 7, channels=4), known)[0]
    assert (trained.name, trained.score) == ("p16", 1.0)
    assert {each.name for each in match(shapes(14, 7), known) if each.score == 1.0} == {"p14", "p14_512"}


def test_signatures_are_small_and_of_models_that_there_are():
    names = [each.name for each in all_signatures()]
    assert "tiny/glyphnet" in names
    assert len({*names}) == len(names)
    assert all(current_zoo().resolve(name)[0].id == name for name in names)
    assert len(write_signatures(all_signatures())) < 1 << 20


@pytest.mark.parametrize("name", ["timm/test_vit", "pretrainedmodels/squeezenet1_1", "torchvision/squeezenet1_1"])
def test_a_model_of_every_library_is_named_by_a_file_with_other_classes(path, name):
    net = zoo.get(name, weights=None, num_classes=9)
    torch.save({"model": {f"module.{key}": each for key, each in net.state_dict().items()}}, path)
    (found,) = inspect(path)
    assert found["matches"][0] == {"name": name, "score": 1.0}


def test_every_family_of_ours_ships_the_signatures_of_its_models():
    known = {each.name for each in all_signatures()}
    ours = ("timm", "torchvision", "pretrainedmodels", "efficientnet_pytorch", "tiny")
    cards = [card for name in ours for card in current_zoo().member(name).cards.values()]
    assert [card.id for card in cards if card.id not in known] == []

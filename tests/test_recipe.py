"""Saving a model that surgery has changed, and getting it back."""

from __future__ import annotations

import contextlib
import copy
import errno
import fcntl
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import zoo_core as zoo
from zoo_core import errors
from zoo_core.recipe import save_folder
from zoo_core.recipe.edits import from_plain, to_plain
from zoo_core.recipe.record import FORMAT
from zoo_core.recipe.state import covering
from zoo_core.registry.plugins import load_plugin
from zoo_core.surgery.hold import is_held
from zoo_core.surgery.metadata import metadata_of
from zoo_core.weights.download.ownership import own_name


def glyphnet(**arguments):
    return zoo.get("tiny/glyphnet", seed=0, **arguments)


def image(channels=1):
    return torch.randn(2, channels, 32, 32, generator=torch.Generator().manual_seed(0))


def same_tensors(one, other):
    a, b = one.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


def equal(one, other):
    """Whether two answers are one, bit for bit: tensors, or dicts or lists of them."""
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return torch.equal(one, other)


def came_back(model, folder, x, **arguments):
    """Save, load, and check what a save promises; returns the model that came back."""
    loaded = zoo.load(zoo.save(model, folder), **arguments)
    assert type(loaded) is type(model)
    assert same_tensors(model, loaded)
    assert equal(copy.deepcopy(model).eval()(x), copy.deepcopy(loaded).eval()(x))
    return loaded


def edit_recipe(folder, **changes):
    path = folder / "recipe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# --- what comes back


SURGERY = {
    "nothing": lambda model: model,
    "a number of classes": lambda model: zoo.swap_head(model, 9),
    "a deep head": lambda model: zoo.swap_head(
        model, zoo.mlp_head(1, hidden=(8, 4), batch_norm=True, dropout=0.2, activation="sigmoid", squeeze=True)
    ),
    "a head of standard layers": lambda model: zoo.swap_head(
        model, nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 8, bias=False), nn.GELU("tanh"), nn.Linear(8, 3))
    ),
    "a head on the map": lambda model: zoo.swap_head(
        model,
        nn.Sequential(nn.ConvTranspose2d(64, 8, 2, stride=2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 4)),
        at="features",
    ),
    "two heads": lambda model: zoo.swap_head(model, {"colour": 3, "shape": nn.Linear(64, 5)}),
    "two branches": lambda model: zoo.branch(
        model, at="layer3", heads={"colour": 3, "shape": zoo.mlp_head(5, hidden=(8,))}
    ),
    "a front": lambda model: zoo.truncate(model, after="layer2"),
    "two acts": lambda model: zoo.swap_head(zoo.swap_head(model, nn.Linear(64, 5, bias=False)), 4),
}


@pytest.mark.parametrize("surgery", SURGERY)
def test_a_model_comes_back_with_the_same_keys_and_the_same_scores(surgery, tmp_path):
    came_back(SURGERY[surgery](glyphnet()), tmp_path / "save", image())


@pytest.mark.parametrize("policy", ["mean", "repeat", "zero", "random"])
def test_other_channels_come_back(policy, tmp_path):
    model = zoo.adapt_stem(glyphnet(num_classes=9), 3, policy=policy)
    assert came_back(model, tmp_path / "save", image(3)).stem[0].in_channels == 3


def test_a_map_of_channels_comes_back(tmp_path):
    model = zoo.adapt_stem(zoo.adapt_stem(glyphnet(), 2), 3, map={0: 1, 2: (0, 1)})
    loaded = came_back(model, tmp_path / "save", image(3))
    assert metadata_of(loaded).edits == metadata_of(model).edits


def test_the_input_transform_that_was_folded_stays_off(tmp_path):
    options = {"transform_input": True, "aux_logits": False, "init_weights": False}
    model = zoo.get("googlenet", weights=None, options=options, in_channels=1)
    assert came_back(model, tmp_path / "save", torch.randn(1, 1, 64, 64)).transform_input is False


def test_trained_values_come_back_and_not_those_of_the_weights(tmp_path):
    model = glyphnet(num_classes=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(image()).square().sum().backward()
    optimizer.step()
    came_back(model, tmp_path / "save", image())


def test_what_was_frozen_comes_back_frozen(tmp_path):
    model = zoo.unfreeze(glyphnet(num_classes=9, freeze="backbone"), "layer3.conv2.weight", "layer2.bn1")
    loaded = came_back(model, tmp_path / "save", image())
    trainable = {name: each.requires_grad for name, each in model.named_parameters()}
    assert {name: each.requires_grad for name, each in loaded.named_parameters()} == trainable
    held = {path: is_held(module) for path, module in model.named_modules()}
    assert {path: is_held(module) for path, module in loaded.named_modules()} == held
    assert any(held.values())
    assert not held["layer2.bn1"]


def test_norms_that_were_left_to_train_are_not_held(tmp_path):
    model = zoo.freeze(glyphnet(), norm="train")
    loaded = came_back(model, tmp_path / "save", image())
    assert not any(is_held(module) for module in loaded.modules())
    assert [name for name, each in loaded.named_parameters() if each.requires_grad] == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_comes_back(training, tmp_path):
    assert zoo.load(zoo.save(glyphnet().train(training), tmp_path / "save")).training is training


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_dtype_comes_back(dtype, tmp_path):
    came_back(glyphnet().to(dtype), tmp_path / "save", image().to(dtype))


def test_a_mixture_of_dtypes_comes_back(tmp_path):
    model = glyphnet()
    model.layer1.half()
    loaded = zoo.load(zoo.save(model, tmp_path / "save"))
    assert same_tensors(model, loaded)


def test_the_memory_format_comes_back(tmp_path):
    model = glyphnet().to(memory_format=torch.channels_last)
    loaded = came_back(model, tmp_path / "save", image())
    assert loaded.layer1.conv1.weight.stride() == model.layer1.conv1.weight.stride()


def test_class_names_that_are_not_utf_8_come_back(tmp_path):
    names = [os.fsdecode(b"caf\xe9"), "tea"]
    folder = zoo.save(zoo.get("tiny/glyphnet", weights=None, num_classes=2), tmp_path / "saved", class_names=names)
    assert list(zoo.class_names(zoo.load(folder))) == names


def test_tensors_that_were_one_are_one_again(tmp_path):
    model = zoo.get("resnet18", weights=None)
    model.layer1[0].conv2.weight = model.layer1[0].conv1.weight
    loaded = came_back(model, tmp_path / "save", torch.randn(1, 3, 32, 32))
    assert loaded.layer1[0].conv2.weight is loaded.layer1[0].conv1.weight
    assert json.loads((tmp_path / "save" / "recipe.json").read_text())["ties"] == {
        "layer1.0.conv2.weight": "layer1.0.conv1.weight"
    }


@pytest.mark.skipif(os.name == "nt", reason="needs a umask")
def test_saved_tensors_have_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        zoo.save(zoo.get("tiny/glyphnet", weights=None), tmp_path / "saved")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "saved").iterdir()} == {0o640}


def test_views_of_one_memory_are_saved_each_for_itself(tmp_path):
    model = glyphnet(num_classes=2)
    memory = torch.randn(4, 64)
    model.fc.weight.data = memory[1:3]
    came_back(model, tmp_path / "save", image())


def test_class_names_come_back(tmp_path):
    model = glyphnet(num_classes=2)
    folder = zoo.save(model, tmp_path / "save", class_names=["cat", "dög"])
    loaded = zoo.load(folder)
    assert zoo.class_names(loaded) == ("cat", "dög")
    assert zoo.class_names(zoo.load(zoo.save(loaded, tmp_path / "again"))) == ("cat", "dög")


def test_the_class_names_of_the_weights_stay_while_their_head_does(tmp_path):
    assert zoo.class_names(zoo.load(zoo.save(glyphnet(), tmp_path / "a")))[0] == "A"
    assert zoo.class_names(zoo.load(zoo.save(glyphnet(num_classes=9), tmp_path / "b"))) == ()


def test_surgery_goes_on_after_a_load(tmp_path):
    loaded = zoo.load(zoo.save(glyphnet(num_classes=9, in_channels=3), tmp_path / "save"))
    model = zoo.swap_head(zoo.freeze(loaded, "backbone"), 4)
    came_back(model, tmp_path / "again", image(3))


def test_the_receipt_says_where_the_tensors_came_from_and_that_only_the_folder_vouches_for_them(tmp_path):
    loaded = zoo.load(zoo.save(glyphnet(), tmp_path / "save"))
    receipt = zoo.receipt(loaded)
    assert (receipt.tag, receipt.strength) == ("GLYPHS_V1", "as saved")
    assert receipt.counts == {"loaded": len(loaded.state_dict())}
    assert hashlib.sha256(Path(receipt.path).read_bytes()).hexdigest() == receipt.sha256


def test_the_recipe_says_what_the_model_began_with(tmp_path):
    folder = zoo.save(glyphnet(num_classes=9), tmp_path / "save")
    recipe = json.loads((folder / "recipe.json").read_text())
    assert recipe["weights"]["tag"] == "GLYPHS_V1"
    assert recipe["weights"]["sha256"] == zoo.info("tiny/glyphnet").find().sha256
    assert recipe["edits"] == [{"verb": "swap_head", "head": 9}]
    assert set(recipe["versions"]) == {"zoo-core", "torch", "zoo-tiny"}


def test_a_loaded_model_still_says_what_it_began_with_when_it_is_saved_again(tmp_path):
    first = zoo.save(glyphnet(num_classes=9), tmp_path / "first")
    second = zoo.save(zoo.load(first), tmp_path / "second")
    began = [json.loads((folder / "recipe.json").read_text())["weights"] for folder in (first, second)]
    assert began[0] == began[1]


def test_wrappers_are_looked_through(tmp_path):
    model = glyphnet(num_classes=9)
    came_back(model, tmp_path / "a", image())
    assert same_tensors(model, zoo.load(zoo.save(torch.compile(model, backend="eager"), tmp_path / "b")))
    assert same_tensors(model, zoo.load(zoo.save(nn.DataParallel(model), tmp_path / "c")))


def test_the_global_random_state_stays_as_it_was(tmp_path):
    model = glyphnet(num_classes=9)
    state = torch.get_rng_state()
    zoo.load(zoo.save(model, tmp_path / "save"))
    assert torch.equal(torch.get_rng_state(), state)


def test_another_process_gets_the_same_scores_without_the_network(tmp_path):
    model = zoo.swap_head(glyphnet(in_channels=3), zoo.mlp_head(5, hidden=(8,))).eval()
    zoo.save(model, tmp_path / "save")
    torch.save(model(image(3)), tmp_path / "scores.pt")
    code = (
        "import sys, torch, zoo_core as zoo; torch.set_num_threads(1)\n"
        "x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))\n"
        "assert torch.equal(zoo.load(sys.argv[1])(x), torch.load(sys.argv[2], weights_only=True))"
    )
    paths = [str(tmp_path / "save"), str(tmp_path / "scores.pt")]
    environment = {**os.environ, "ZOO_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", code, *paths], check=True, env=environment)


def test_a_folder_can_be_moved(tmp_path):
    zoo.save(glyphnet(), tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert zoo.load(tmp_path / "there")


@pytest.mark.gpu
def test_a_model_on_a_gpu_comes_back_on_the_device_that_is_asked_for(tmp_path):
    model = glyphnet(num_classes=9, device="cuda")
    loaded = zoo.load(zoo.save(model, tmp_path / "save"), device="cuda")
    assert loaded.fc.weight.is_cuda
    assert same_tensors(model, loaded)


# --- adopted models


def test_a_model_adopted_by_name_comes_back(tmp_path):
    from torchvision.models import resnet18

    model = zoo.adopt(resnet18(), family="torchvision", name="resnet18")
    came_back(zoo.swap_head(model, 9), tmp_path / "save", torch.randn(1, 3, 32, 32))


def test_a_model_adopted_with_options_comes_back(tmp_path):
    from torchvision.models import resnet18

    options = {"norm_layer": nn.InstanceNorm2d, "replace_stride_with_dilation": [False, False, False]}
    model = zoo.adopt(resnet18(**options), family="torchvision", name="resnet18", options=options)
    came_back(model, tmp_path / "save", torch.randn(1, 3, 64, 64))


def test_a_model_adopted_without_a_name_cannot_be_saved(tmp_path):
    from torchvision.models import resnet18

    with pytest.raises(errors.NotSupported, match="name="):
        zoo.save(zoo.adopt(resnet18(), family="torchvision"), tmp_path / "save")
    assert not (tmp_path / "save").exists()


def test_a_model_adopted_under_another_name_cannot_be_saved(tmp_path):
    from torchvision.models import resnet34

    with pytest.raises(errors.NotSupported, match="another name"):
        zoo.save(zoo.adopt(resnet34(), family="torchvision", name="resnet18"), tmp_path / "save")


def test_adopting_by_a_name_that_does_not_exist_lists_close_matches():
    from torchvision.models import resnet18

    with pytest.raises(errors.UnknownModel, match="resnet18"):
        zoo.adopt(resnet18(), family="torchvision", name="resnet19")


def test_a_module_that_zoo_does_not_know_cannot_be_saved(tmp_path):
    with pytest.raises(errors.NotAZooModel):
        zoo.save(nn.Linear(2, 2), tmp_path / "save")


# --- heads that only their own code can build


class Cosine(nn.Module):
    """A head that is no standard layer."""

    def __init__(self, width, classes):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(classes, width))

    def forward(self, x):
        return nn.functional.normalize(x) @ nn.functional.normalize(self.centres).T


def test_a_head_of_its_own_code_is_refused_with_the_way_out(tmp_path):
    model = zoo.swap_head(glyphnet(), Cosine(64, 3))
    with pytest.raises(errors.NotSupported, match=r"custom_heads=True.*heads=\{\"main\": module\}"):
        zoo.save(model, tmp_path / "save")
    assert not (tmp_path / "save").exists()


def test_a_head_of_its_own_code_comes_back_when_it_is_given(tmp_path):
    model = zoo.swap_head(glyphnet(), nn.Sequential(Cosine(64, 3), nn.Softmax(1))).eval()
    folder = zoo.save(model, tmp_path / "save", custom_heads=True)
    loaded = zoo.load(folder, heads={"main": nn.Sequential(Cosine(64, 3), nn.Softmax(1))})
    assert torch.equal(loaded(image()), model(image()))


def test_one_of_several_heads_may_be_of_its_own_code(tmp_path):
    model = zoo.swap_head(glyphnet(), {"colour": 3, "face": Cosine(64, 5)}).eval()
    folder = zoo.save(model, tmp_path / "save", custom_heads=True)
    assert equal(zoo.load(folder, heads={"face": Cosine(64, 5)})(image()), model(image()))


def test_loading_without_the_head_that_is_needed_says_which(tmp_path):
    folder = zoo.save(zoo.swap_head(glyphnet(), Cosine(64, 3)), tmp_path / "save", custom_heads=True)
    with pytest.raises(errors.UsageError, match=r"heads=\{\"main\": Cosine\(\.\.\.\)\}"):
        zoo.load(folder)


def test_a_head_that_is_not_needed_is_refused(tmp_path):
    folder = zoo.save(glyphnet(), tmp_path / "save")
    with pytest.raises(errors.UsageError, match="needs no heads"):
        zoo.load(folder, heads={"main": nn.Linear(64, 3)})


def test_a_head_of_another_shape_than_the_saved_one_is_refused(tmp_path):
    folder = zoo.save(zoo.swap_head(glyphnet(), Cosine(64, 3)), tmp_path / "save", custom_heads=True)
    with pytest.raises(errors.LoadMismatch):
        zoo.load(folder, heads={"main": Cosine(64, 4)})


# --- what cannot be saved


@pytest.mark.parametrize("device", ["abacus", "cuda:99", 3.5])
def test_a_device_that_this_machine_does_not_have_is_refused(tmp_path, device):
    folder = zoo.save(zoo.get("tiny/glyphnet"), tmp_path / "saved")
    with pytest.raises(errors.UsageError, match=r"device cannot be (.|\n)*expected: a device of this machine"):
        zoo.load(folder, device=device)


def test_a_model_on_the_meta_device_is_refused(tmp_path):
    with pytest.raises(errors.NotSupported, match="meta"):
        zoo.save(zoo.get("resnet18", weights=None, device="meta"), tmp_path / "save")


def test_an_option_that_is_code_is_refused(tmp_path):
    from functools import partial

    options = {"norm_layer": partial(nn.BatchNorm2d, eps=1e-3)}
    model = zoo.get("resnet18", weights=None, options=options)
    with pytest.raises(errors.UsageError, match="norm_layer"):
        zoo.save(model, tmp_path / "save")


@pytest.mark.parametrize("wrong", [["cat"], ["a", "b", "c"], "ab", [1, 2], []])
def test_class_names_that_do_not_fit_the_scores_are_refused(wrong, tmp_path):
    with pytest.raises(errors.UsageError, match="class"):
        zoo.save(glyphnet(num_classes=2), tmp_path / "save", class_names=wrong)


def test_a_folder_with_other_files_is_not_touched(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").write_text("ten years of work")
    with pytest.raises(errors.UsageError, match="something else"):
        zoo.save(glyphnet(), tmp_path / "work")
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["thesis.tex"]


def test_a_file_is_not_overwritten(tmp_path):
    (tmp_path / "save").write_text("mine")
    with pytest.raises(errors.UsageError, match="something else"):
        zoo.save(glyphnet(), tmp_path / "save")
    assert (tmp_path / "save").read_text() == "mine"


# --- a save that dies


def names(folder):
    return {path.name for path in folder.iterdir()}


def die(*_arguments, **_options):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", ["sha256_of", "sync_folder"])
def test_a_save_that_dies_leaves_no_folder(step, tmp_path, monkeypatch):
    monkeypatch.setattr(save_folder, step, die)
    with pytest.raises(errors.WeightsError, match="No space left"):
        zoo.save(glyphnet(), tmp_path / "models" / "save")
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("survived", [0, 1])
def test_a_save_that_dies_over_another_leaves_the_other(survived, tmp_path, monkeypatch):
    before = glyphnet(num_classes=3)
    folder = zoo.save(before, tmp_path / "save")
    real, calls = save_folder._settle, []

    def dies_later(*arguments):
        calls.append(arguments)
        return die() if len(calls) > survived else real(*arguments)

    monkeypatch.setattr(save_folder, "_settle", dies_later)
    with pytest.raises(errors.WeightsError):
        zoo.save(glyphnet(num_classes=4), folder)
    assert same_tensors(zoo.load(folder), before)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the child only saves
@pytest.mark.parametrize("over", [False, True], ids=["new", "over another"])
def test_the_next_save_removes_what_a_killed_one_left(over, tmp_path):
    model, parent = glyphnet(num_classes=3), tmp_path / "models"
    folder = parent / "save"
    parent.mkdir()
    if over:
        zoo.save(model, folder)
    killed = os.fork()
    if not killed:
        save_folder.sha256_of = lambda _path: os.kill(os.getpid(), signal.SIGKILL)
        zoo.save(model, folder)
    os.waitpid(killed, 0)
    assert any(name.endswith(".partial") for name in names(folder if over else parent))
    zoo.save(model, folder)
    assert names(parent) == {"save"}
    assert len(names(folder)) == 2


def test_the_next_save_leaves_what_others_are_writing_and_what_only_looks_like_it(tmp_path):
    dead = own_name("save").replace(f"-{os.getpid()}-", "-0-")
    locked = tmp_path / dead.replace("-0-", "-0-0")
    for each in (
        locked,
        tmp_path / own_name("save"),
        tmp_path / ".save.other-0-00.partial",
        tmp_path / ".save.partial",
    ):
        each.mkdir()
    (tmp_path / dead).symlink_to(tmp_path / ".save.partial")
    (tmp_path / dead.replace("-0-", "-0-f")).write_text("no folder")
    before = names(tmp_path) | {"cache"}
    descriptor = os.open(locked, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    zoo.save(glyphnet(), tmp_path / "save")
    os.close(descriptor)
    assert names(tmp_path) == before | {"save"}


def test_a_save_fills_an_empty_folder_that_cannot_be_exchanged(tmp_path, monkeypatch):
    def busy(path):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))

    (tmp_path / "volume").mkdir()
    monkeypatch.setattr(Path, "rmdir", busy)
    assert zoo.load(zoo.save(glyphnet(), tmp_path / "volume"))
    assert len(names(tmp_path / "volume")) == 2


def test_a_save_over_another_takes_its_place_and_leaves_other_files_alone(tmp_path):
    folder = zoo.save(glyphnet(num_classes=3), tmp_path / "save")
    (folder / "notes.txt").write_text("mine")
    model = glyphnet(num_classes=4)
    zoo.save(model, folder)
    assert same_tensors(zoo.load(folder), model)
    assert len(list(folder.iterdir())) == 3


def test_a_save_over_itself_keeps_its_tensors(tmp_path):
    model = glyphnet(num_classes=3)
    folder = zoo.save(model, tmp_path / "save")
    loaded = zoo.load(folder)
    assert same_tensors(zoo.load(zoo.save(loaded, folder)), model)


def test_missing_parents_and_an_empty_folder_are_fine(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "a" / "b"):
        assert zoo.load(zoo.save(glyphnet(), str(folder)))


# --- a save that is damaged


@pytest.fixture
def saved(tmp_path):
    return zoo.save(glyphnet(num_classes=3), tmp_path / "save")


def test_a_folder_that_does_not_exist_says_so(tmp_path):
    with pytest.raises(errors.Unreadable, match="no such folder"):
        zoo.load(tmp_path / "nowhere")


def test_a_folder_that_is_no_save_says_so(tmp_path):
    with pytest.raises(errors.Unreadable, match="not a model that zoo saved"):
        zoo.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', "\x00"])
def test_a_damaged_recipe_is_one_clear_error(text, saved):
    (saved / "recipe.json").write_text(text)
    with pytest.raises(errors.Unreadable, match="not a recipe"):
        zoo.load(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"family": 3},
        {"edits": {}},
        {"edits": ["swap_head"]},
        {"edits": [{"head": 9}]},
        {"tensors": {}},
        {"tensors": {"file": 3, "sha256": "0"}},
        {"frozen": [3]},
        {"surprise": 1},
        {"training": "yes"},
        {"versions": {"torch": 2}},
        {"ties": {"fc.bias": 1}},
    ],
    ids=str,
)
def test_a_recipe_with_a_wrong_entry_is_one_clear_error(change, saved):
    edit_recipe(saved, **change)
    with pytest.raises(errors.Unreadable, match="not a recipe"):
        zoo.load(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"ties": {"fc.bias": "nowhere"}},
        {"ties": {"nowhere": "fc.bias"}},
        {"edits": []},
        {"edits": [{"verb": "swap_head", "head": 4}]},
        {"edits": [{"verb": "swap_head", "head": None}]},
        {"edits": [{"verb": "swap_head", "heads": 3}]},
        {"edits": [{"verb": "swap_head"}]},
        {"edits": [{"verb": "swap_head", "head": {"$record": "zoo_core.surgery.head.mlp:MLPHead", "classes": 3}}]},
        {
            "edits": [
                {"verb": "swap_head", "head": {"$record": "zoo_core.surgery.head.describe:Layers", "kind": "Quux"}}
            ]
        },
        {"edits": [{"verb": "swap_head", "head": {"$record": "zoo_core.nowhere:Head"}}]},
        {"edits": [{"verb": "swap_head", "head": {"$dtype": "nonsense"}}]},
        {"options": {"in_channels": {"$layer": "Quux"}}},
        {"options": {"nonsense": 1}},
        {"held": ["nowhere.at.all"]},
        {"dtype": "nonsense"},
        {"name": "glyphnot"},
        {"family": "tinier"},
    ],
    ids=str,
)
def test_a_recipe_that_does_not_fit_is_an_error_of_zoo_or_harmless(change, saved):
    edit_recipe(saved, **change)
    try:
        loaded = zoo.load(saved)
    except errors.ZooError:
        return
    assert same_tensors(loaded, glyphnet(num_classes=3))


def places(value, path=()):
    """Every place in what JSON gave, by the keys that lead to it."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


LAYERS = "zoo_core.surgery.head.describe:Layers"
STRANGE = [
    *(None, True, -1, 10**30, 1.5, "", "x", "..", "\x00", "a" * 300, [], [1], ["x"], {}, {"x": 1}),
    *({"$tuple": 3}, {"$pairs": [[1]]}, {"$pairs": [[[], 1]]}, {"$dtype": "float16"}, {"$layer": "Module"}),
    *(
        {"$record": 3},
        {"$record": "zoo_core.contract.chain:Chain"},
        {"$record": "zoo_core.surgery.head.describe:Custom", "kind": 3},
    ),
    *({"$record": LAYERS, "kind": 3}, {"$record": LAYERS, "kind": "Linear", "arguments": 3}),
]


@pytest.fixture(scope="module")
def richly_saved(tmp_path_factory):
    heads = {"a": zoo.mlp_head(3, hidden=(8,)), "b": nn.Sequential(nn.Linear(64, 4), nn.ReLU())}
    model = zoo.swap_head(zoo.get("tiny/glyphnet", weights=None, seed=0), heads)
    folder = zoo.save(zoo.freeze(zoo.adapt_stem(model, 3, map={0: 0, 1: 0})), tmp_path_factory.mktemp("rich"))
    return folder, (folder / "recipe.json").read_text()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_whatever_stands_in_a_recipe_it_loads_or_is_an_error_of_zoo(richly_saved, data):
    folder, text = richly_saved
    recipe = json.loads(text)
    *way, last = data.draw(st.sampled_from(list(places(recipe))))
    inner = recipe
    for key in way:
        inner = inner[key]
    inner[last] = data.draw(st.sampled_from(STRANGE))
    (folder / "recipe.json").write_text(json.dumps(recipe))
    with warnings.catch_warnings(), contextlib.suppress(errors.ZooError):
        warnings.simplefilter("ignore", zoo.ZooWarning)
        assert isinstance(zoo.load(folder), nn.Module)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.just(torch.float16),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text(), inner)
        | st.dictionaries(st.integers(), inner)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(PLAIN)
def test_arguments_are_the_same_after_a_round_trip_through_json(value):
    assert from_plain(json.loads(json.dumps(to_plain(value, "it")))) == value


@pytest.mark.parametrize(
    "path",
    ["os:system", "zoo_core.recipe.save:Path", "zoo_core.errors:ZooError", "zoo_core.surgery.head.swap:torch.load"],
)
def test_a_recipe_can_name_nothing_but_zoos_own_records(path, saved):
    edit_recipe(saved, edits=[{"verb": "swap_head", "head": {"$record": path}}])
    with pytest.raises(errors.Unreadable, match="does not know"):
        zoo.load(saved)


@pytest.mark.parametrize("verb", ["get", "save", "use", "nonsense", "__import__", "Receipt", "plugin"])
def test_a_recipe_can_call_nothing_but_surgery(verb, saved):
    edit_recipe(saved, edits=[{"verb": verb}])
    with pytest.raises(errors.Unreadable, match="no surgery"):
        zoo.load(saved)


def test_every_act_of_surgery_that_is_noted_is_public_so_that_a_recipe_can_repeat_it():
    sources = [path.read_text() for path in Path(save_folder.__file__).parent.parent.glob("surgery/**/*.py")]
    noted = {verb for source in sources for verb in re.findall(r'(?:record_edit|editing)\(\w+, "(\w+)"', source)}
    assert {"swap_head", "adapt_stem", "branch", "truncate"} <= noted
    assert noted <= set(zoo.__all__)


def test_a_recipe_of_a_newer_zoo_says_so(saved):
    edit_recipe(saved, format=FORMAT + 1, surprise=1)
    with pytest.raises(errors.Unreadable, match="newer zoo"):
        zoo.load(saved)


def test_tensors_that_were_changed_are_refused(saved):
    file = next(saved.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(errors.DigestMismatch, match="damaged or changed"):
        zoo.load(saved)


def test_tensors_that_are_missing_are_named(saved):
    next(saved.glob("*.safetensors")).unlink()
    with pytest.raises(errors.Unreadable, match="no tensors"):
        zoo.load(saved)


def test_tensors_of_another_folder_are_not_read(saved):
    file = next(saved.glob("*.safetensors"))
    file.rename(saved.parent / file.name)
    recipe = json.loads((saved / "recipe.json").read_text())
    edit_recipe(saved, tensors={**recipe["tensors"], "file": f"../{file.name}"})
    with pytest.raises(errors.Unreadable, match="no tensors"):
        zoo.load(saved)


def test_a_file_that_is_no_safetensors_is_one_clear_error(saved):
    (saved / "model.bin").write_bytes(b"not tensors")
    digest = hashlib.sha256(b"not tensors").hexdigest()
    edit_recipe(saved, tensors={"file": "model.bin", "sha256": digest, "size": 11})
    with pytest.raises(errors.Unreadable, match="broken safetensors"):
        zoo.load(saved)


# --- other machines


def test_another_version_of_the_plugin_is_a_warning_with_both(saved):
    recipe = json.loads((saved / "recipe.json").read_text())
    here = recipe["versions"]["zoo-tiny"]
    edit_recipe(saved, versions={**recipe["versions"], "zoo-tiny": "0.0.1"})
    with pytest.warns(zoo.ZooWarning, match=f"zoo-tiny 0.0.1, here {here}"):
        zoo.load(saved)


def test_another_version_of_torch_is_no_warning(saved):
    recipe = json.loads((saved / "recipe.json").read_text())
    edit_recipe(saved, versions={**recipe["versions"], "torch": "1.0"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zoo.load(saved)


def test_a_family_that_is_not_installed_says_so(saved):
    with zoo.use(zoo.Zoo(plugins=())), pytest.raises(errors.UnknownFamily, match="tiny"):
        zoo.load(saved)


class Missing:
    """A family whose library is not installed."""

    @staticmethod
    @zoo.hookimpl
    def zoo_families():
        return [
            zoo.Family("tiny", catalog="zoo_tiny.catalog:cards", anatomy="zoo_tiny.anatomy:anatomy", requires="no-such")
        ]


def test_a_library_that_is_not_installed_says_what_to_install(saved):
    plugin = load_plugin("tiny", lambda: Missing, "zoo-tiny 0.1.0")
    with zoo.use(zoo.Zoo(plugins=(plugin,))), pytest.raises(errors.FamilyUnavailable, match="pip install no-such"):
        zoo.load(saved)


def test_the_shortest_names_cover_all_that_is_meant_and_nothing_else():
    everything = {"a.x", "a.y", "b.c.x", "b.c.y", "b.d.x"}
    assert covering(everything, everything) == ["a", "b"]
    assert covering({"b.c.x", "b.c.y", "a.x"}, everything) == ["a.x", "b.c"]
    assert covering(set(), everything) == []


# --- every architecture


ARCHITECTURES = [
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t"),
    *("mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5"),
    *("squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vit_b_32"),
]


@pytest.mark.full
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_comes_back(name, tmp_path):
    options = {"init_weights": False} if name in {"googlenet", "inception_v3"} else None
    model = zoo.get(name, weights=None, num_classes=9, in_channels=4, freeze="backbone", options=options)
    came_back(model, tmp_path / "save", torch.randn(1, 4, *zoo.info(name).input_size[1:]))


@pytest.mark.full
@pytest.mark.parametrize("name", ["bninception", "nasnetamobile", "resnet18", "se_resnext50_32x4d"])
def test_models_of_pretrainedmodels_come_back_though_they_cannot_all_be_pickled(name, tmp_path):
    pytest.importorskip("pretrainedmodels")
    model = zoo.get(f"pretrainedmodels/{name}", weights=None, num_classes=9, in_channels=4)
    came_back(model, tmp_path / "save", torch.randn(1, 4, 224, 224))


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "x"),
    [
        ("deeplabv3_mobilenet_v3_large", torch.rand(1, 4, 64, 64)),
        ("r3d_18", torch.rand(1, 4, 8, 64, 64)),
        ("ssdlite320_mobilenet_v3_large", [torch.rand(4, 96, 96)]),
    ],
    ids=["segmentation", "video", "detection"],
)
def test_models_of_other_tasks_come_back(name, x, tmp_path):
    came_back(zoo.get(name, weights=None, in_channels=4), tmp_path / "save", x)


def another_class(model):
    model.__class__ = type("Mine", (type(model),), {})


def test_another_class_is_refused(tmp_path):
    model = glyphnet()
    another_class(model)
    with pytest.raises(errors.NotSupported, match="not what its recipe makes"):
        zoo.save(model, tmp_path / "save")
    assert not (tmp_path / "save").exists()


def test_a_synchronised_batch_norm_comes_back_as_a_plain_one(tmp_path):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(glyphnet())
    loaded = zoo.load(zoo.save(model, tmp_path / "save"))
    assert same_tensors(model, loaded)
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in loaded.modules())


def test_the_mode_of_each_module_comes_back(tmp_path):
    model = zoo.freeze(glyphnet(), "stem").train()
    model.layer2.eval()
    model.layer2.bn2.train()
    model.fc.eval()
    loaded = zoo.load(zoo.save(model, tmp_path / "save"))
    modes = {path: module.training for path, module in model.named_modules()}
    assert {path: module.training for path, module in loaded.named_modules()} == modes
    assert json.loads((tmp_path / "save" / "recipe.json").read_text())["switched"] == ["layer2", "layer2.bn2", "fc"]


def _raise(error):
    raise error


@pytest.mark.parametrize(
    ("fill", "error"),
    [
        (lambda: _raise(MemoryError), MemoryError),
        (lambda: _raise(torch.OutOfMemoryError), torch.OutOfMemoryError),
        (lambda: torch.empty(1 << 60, dtype=torch.uint8), MemoryError),
    ],
    ids=["of Python", "of a GPU", "of the CPU"],
)
def test_a_lack_of_memory_is_not_blamed_on_the_recipe(fill, error, tmp_path, monkeypatch):
    folder = zoo.save(glyphnet(), tmp_path / "save")

    def full(*_args, **_keywords):
        fill()

    monkeypatch.setattr("zoo_core.recipe.load._fill", full)
    with pytest.raises(error):
        zoo.load(folder)


def test_a_recipe_that_would_take_much_memory_is_not_called_damaged(tmp_path):
    folder = zoo.save(glyphnet(), tmp_path / "save")
    recipe = json.loads((folder / "recipe.json").read_text())
    (folder / "recipe.json").write_text(json.dumps({**recipe, "edits": [0] * 300_000}))
    with pytest.raises(errors.Unreadable, match=r"is not read\n[\s\S]*far more memory than the file"):
        zoo.load(folder)


def test_a_save_of_numbers_that_are_none_is_loaded_with_a_word(tmp_path):
    model = zoo.get("tiny/glyphnet", weights=None, num_classes=9)
    with torch.no_grad():
        model.fc.bias[0] = torch.nan
    zoo.save(model, tmp_path / "save")
    with pytest.warns(zoo.ZooWarning, match="hold nan or infinities: fc.bias"):
        zoo.load(tmp_path / "save")


def test_hooks_that_a_save_leaves_out_are_named(tmp_path):
    model = zoo.get("tiny/glyphnet", weights=None)
    model.fc.register_forward_hook(lambda _, __, scores: 2 * scores)
    with pytest.warns(zoo.ZooWarning, match="the hooks on fc are not saved") as said:
        zoo.save(model, tmp_path / "save")
    assert said[0].filename == __file__


def test_a_layer_that_is_compiled_alone_names_the_way_that_saves(tmp_path):
    model = zoo.get("tiny/glyphnet", weights=None, seed=0).eval()
    layer = model.layer1
    model.layer1 = torch.compile(layer, backend="eager")
    with pytest.raises(errors.NotSupported, match=r"torch\.compile wraps some of its layers"):
        zoo.save(model, tmp_path / "save")
    model.layer1 = layer
    layer.compile(backend="eager")
    assert torch.equal(zoo.load(zoo.save(model, tmp_path / "save")).layer1.conv1.weight, layer.conv1.weight)


def test_a_file_of_weights_is_no_save_and_says_what_takes_it(tmp_path):
    torch.save({}, tmp_path / "last.pth")
    with pytest.raises(errors.Unreadable, match=r"(?s)got: a file.*zoo.get\(name, weights=path\)"):
        zoo.load(tmp_path / "last.pth")


def test_a_model_that_is_loaded_in_inference_mode_can_be_trained(tmp_path):
    zoo.save(zoo.get("tiny/glyphnet", weights=None), tmp_path / "save")
    with torch.inference_mode():
        model = zoo.load(tmp_path / "save")
    model(torch.zeros(2, 1, 32, 32)).sum().backward()


def test_a_save_remembers_that_each_label_is_likely_by_itself(tmp_path):
    image = np.zeros((32, 32), dtype=np.uint8)
    model = zoo.get("tiny/glyphnet", num_classes=3, seed=0).eval()
    every = zoo.predict(model, image, threshold=0)
    folder = zoo.save(model, tmp_path / "several", class_names=["a", "b", "c"], multi_label=True)
    for loaded in (zoo.load(folder), zoo.load(zoo.save(zoo.load(folder), tmp_path / "again"))):
        found = zoo.predict(loaded, image)
        assert [chance for _, chance in found] == [chance for _, chance in every if chance >= 0.5]
        assert zoo.predict(loaded, image, threshold=0)[0][1] == every[0][1]
    one_each = zoo.load(zoo.save(zoo.load(folder), tmp_path / "one", multi_label=False))
    assert sum(chance for _, chance in zoo.predict(one_each, image)) == pytest.approx(1)


def test_a_new_head_of_other_classes_ends_that_each_label_is_likely_by_itself(tmp_path):
    folder = zoo.save(zoo.get("tiny/glyphnet", num_classes=3), tmp_path / "several", multi_label=True)
    found = zoo.predict(zoo.swap_head(zoo.load(folder), 4), np.zeros((32, 32), dtype=np.uint8))
    assert sum(chance for _, chance in found) == pytest.approx(1)


def test_that_labels_are_several_is_written_where_older_zoos_pass_over_it(tmp_path):
    plain, several = (
        json.loads(
            (zoo.save(zoo.get("tiny/glyphnet"), tmp_path / str(many), multi_label=many) / "recipe.json").read_text()
        )
        for many in (False, True)
    )
    assert several.pop("tensors") == {**plain.pop("tensors"), "multi_label": True}
    assert several == plain


def test_a_recipe_whose_multi_label_is_a_text_is_refused(tmp_path):
    folder = zoo.save(zoo.get("tiny/glyphnet"), tmp_path / "save")
    path = folder / "recipe.json"
    record = json.loads(path.read_text())
    record["tensors"]["multi_label"] = "no"
    path.write_text(json.dumps(record))
    with pytest.raises(errors.Unreadable, match="multi_label is neither true nor false"):
        zoo.load(folder)


def test_a_save_that_the_system_cannot_have_is_no_save(tmp_path):
    with pytest.raises(zoo.ZooError, match="File name too long"):
        zoo.load(tmp_path / ("n" * 300))

"""``zoo.info``: what a name means, who else has it, and what is different there."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner

import zoo_core as zoo
from zoo_core import Card, Licenses, Preprocessing, Weights
from zoo_core.cli.group import zoo as command
from zoo_core.registry.info import differences


def test_a_name_of_three_families_means_that_of_the_first():
    info = zoo.info("resnet18")
    assert info.id == "torchvision/resnet18"
    assert [other.id for other in info.others] == ["timm/resnet18", "pretrainedmodels/resnet18"]


def test_each_family_names_the_other_two():
    others = zoo.info("pretrainedmodels/resnet18").others
    assert [other.id for other in others] == ["torchvision/resnet18", "timm/resnet18"]


def test_a_name_of_one_family_has_no_others():
    assert zoo.info("tiny/glyphnet").others == ()
    assert str(zoo.info("tiny/glyphnet")).count("\n") == 0


def test_the_text_says_how_images_are_prepared_elsewhere():
    text = str(zoo.info("resnet18"))
    timm = next(line for line in text.split("\n") if line.startswith("also in timm/resnet18"))
    assert "preprocessed differently: resize 235 instead of 256, interpolation bicubic instead of bilinear" in timm
    assert "weights a1_in1k" in timm
    assert "instead of IMAGENET1K_V1 (ImageNet-1K acc@1 69.758)" in timm
    assert "also in pretrainedmodels/resnet18: preprocessed alike" in text


def test_the_text_says_what_the_name_alone_means_whichever_was_asked_for():
    assert "'resnet18' alone means torchvision/resnet18" in str(zoo.info("timm/resnet18"))


def test_the_order_of_the_families_decides_what_a_name_means(monkeypatch):
    monkeypatch.setenv("ZOO_FAMILIES", "timm,torchvision")
    with zoo.use(zoo.Zoo()):
        assert zoo.info("resnet18").id == "timm/resnet18"
        assert "'resnet18' alone means timm/resnet18" in str(zoo.info("torchvision/resnet18"))


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18"])
def test_the_command_shows_what_the_function_says(name):
    printed = CliRunner().invoke(command, ["info", name], env={"COLUMNS": "1000"}).output
    for line in str(zoo.info(name)).split("\n")[1:]:
        assert line in printed


def test_the_command_gives_scripts_the_differences_by_id():
    record = json.loads(CliRunner().invoke(command, ["info", "resnet18", "--json"]).output)
    assert list(record["also"]) == ["timm/resnet18", "pretrainedmodels/resnet18"]
    assert any(line.startswith("preprocessed differently") for line in record["also"]["timm/resnet18"])


def test_the_others_are_found_without_torch():
    code = "import sys, zoo_core as zoo; print(zoo.info('resnet18')); assert 'torch' not in sys.modules"
    assert (
        "also in timm"
        in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )


MINE = Card(
    family="acme",
    name="net",
    build="acme:net",
    parameters=1000,
    weights=(Weights("V1", urls=("https://example.org/net.pth",), num_classes=10),),
    default="V1",
)


def other(**fields):
    """The same model in another family, but for some fields of the card or of its weights."""
    of_card = {name: fields.pop(name) for name in list(fields) if name in Card.__dataclass_fields__}
    return replace(MINE, family="other", weights=(replace(MINE.weights[0], **fields),), **of_card)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"task": "segmentation"}, "for segmentation instead of classification"),
        ({"parameters": 1200}, "1,200 parameters instead of 1,000"),
        ({"input_size": (3, 299, 299)}, "input 3x299x299 instead of 3x224x224"),
        ({"preprocessing": Preprocessing(mean=(0.5,) * 3)}, "mean (0.5, 0.5, 0.5) instead of (0.485, 0.456, 0.406)"),
        ({"licenses": Licenses(weights="mit")}, "licence mit instead of unknown"),
    ],
    ids=["task", "parameters", "size", "preprocessing", "licence"],
)
def test_a_difference_is_named(fields, said):
    assert any(said in line for line in differences(MINE, other(**fields)))


def test_another_number_of_classes_in_the_file_is_named():
    card = replace(MINE, family="other", weights=(replace(MINE.weights[0], num_classes=21841),))
    assert "21841 classes instead of 10" in differences(MINE, card)


def test_a_family_without_weights_is_named():
    bare = replace(MINE, family="other", weights=(), default=None)
    assert list(differences(MINE, bare)) == ["has no weights"]
    assert list(differences(bare, MINE)) == ["has weights"]


def test_what_a_registry_gave_is_printed_as_it_is_there_also_under_another_one():
    mine = zoo.Zoo(plugins=())
    mine.add(Card(family="mine", name="net", build="torch.nn:Identity"))
    with zoo.use(mine):
        info = zoo.info("mine/net")
    assert str(info).startswith("mine/net: classification")
    assert [card.id for card in info.namesakes] == ["mine/net"]
    assert pickle.loads(pickle.dumps(info)) == info


def test_the_command_does_not_import_torch():
    code = "import sys; from zoo_core.cli.info import info; info(['resnet18'], standalone_mode=False); "
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True, capture_output=True)

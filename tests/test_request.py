"""What is requested of a model is checked before anything is fetched."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision

import zoo_core as zoo
from zoo_core import errors

IMPOSSIBLE = [
    {"num_classes": -1},
    {"num_classes": "9"},
    {"num_classes": True},
    {"in_channels": 0},
    {"freeze": 7},
    {"freeze": [7]},
    {"freeze": b"backbone"},
    {"freeze": {"untill": "layer4"}},
    {"freeze": ""},
    {"device": "gpu"},
    {"device": [0]},
    {"device": "cuda:99"},
    {"dtype": "float99"},
    {"dtype": "int64"},
    {"dtype": torch.int8},
    {"dtype": 5},
    {"channels_last": "yes"},
    {"seed": "x"},
    {"seed": 1.5},
    {"seed": 2**70},
    {"options": 5},
    {"options": {1: 2}},
    {"options": {"num_classes": 9}},
    {"weights": ""},
    {"weights": 5},
]


@pytest.mark.parametrize("wrong", IMPOSSIBLE, ids=repr)
def test_an_impossible_argument_is_refused_before_anything_is_fetched(wrong, monkeypatch):
    monkeypatch.setenv("ZOO_OFFLINE", "1")  # a fetch would be an error of its own
    with pytest.raises(errors.UsageError):
        zoo.get("resnet18", **wrong)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_a_dtype_can_be_named(dtype):
    assert zoo.get("tiny/glyphnet", dtype=dtype).fc.weight.dtype == torch.bfloat16


def test_whole_numbers_of_numpy_are_whole_numbers():
    assert zoo.get("tiny/glyphnet", num_classes=np.int64(3), seed=np.int64(1)).fc.out_features == 3


def test_an_option_that_the_constructor_does_not_take_is_named():
    with pytest.raises(errors.UsageError, match=r"refuses the options widht=2(.|\n)*widht"):
        zoo.get("resnet18", weights=None, options={"widht": 2})


@pytest.mark.parametrize("options", [{"groups": 2}, {"weights": "x"}])
def test_an_option_that_the_constructor_refuses_is_named_with_its_reason(options):
    with pytest.raises(errors.UsageError, match=next(iter(options))):
        zoo.get("resnet18", weights=None, options=options)


def test_the_same_tag_may_be_said_twice():
    model = zoo.get("tiny/glyphnet@GLYPHS_V1", weights="GLYPHS_V1")
    assert zoo.receipt(model).tag == "GLYPHS_V1"


def test_default_may_be_spelled_as_torchvision_spells_it():
    assert zoo.receipt(zoo.get("tiny/glyphnet", weights="DEFAULT")).tag == "GLYPHS_V1"


def test_an_entry_of_torchvision_names_its_tag(monkeypatch):
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    with pytest.raises(errors.Offline, match="IMAGENET1K_V1"):
        zoo.get("resnet18", weights=torchvision.models.ResNet18_Weights.DEFAULT)


def test_a_published_file_that_is_given_by_path_gets_the_options_of_its_entry(tmp_path):
    trained = torchvision.models.googlenet(init_weights=False, transform_input=True)
    torch.save(trained.state_dict(), tmp_path / "googlenet.pth")
    digest = hashlib.sha256((tmp_path / "googlenet.pth").read_bytes()).hexdigest()
    path = (tmp_path / "googlenet.pth").rename(tmp_path / f"googlenet-{digest[:8]}.pth")
    own = zoo.Zoo()
    card = own.resolve("torchvision/googlenet")[0]
    entry = replace(card.find(), urls=(f"https://example.org/{path.name}",), sha256=digest[:8])
    own.add(replace(card, weights=(entry,)))
    with zoo.use(own):
        model = zoo.get("googlenet", weights=path)
    assert model.transform_input
    assert model.aux1 is None


def test_a_library_that_breaks_when_it_is_imported_is_an_error_with_a_remedy(tmp_path, monkeypatch):
    (tmp_path / "broken_library.py").write_text("raise RuntimeError('operator nms does not exist')")
    monkeypatch.syspath_prepend(str(tmp_path))
    own = zoo.Zoo()
    card = own.resolve("torchvision/resnet18")[0]
    own.add(replace(card, build="broken_library:resnet18"))
    with zoo.use(own), pytest.raises(errors.FamilyUnavailable, match=r"nms does not exist(.|\n)*pip install -U"):
        zoo.get("resnet18", weights=None)

"""Structured pruning by torch-pruning, and masks and parametrizations of torch itself."""

from __future__ import annotations

import pytest
import torch
from support.tools import batch, comes_back, model, train, trainable
from torch.nn.utils import parametrizations, parametrize, prune

import zoo_core as zoo
from zoo_core.errors import LoadMismatch, NotSupported

TOOL = "torch-pruning"
pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore")]
CONVOLUTIONAL = [
    "torchvision/mobilenet_v3_small",
    "timm/test_convnext",
    "pretrainedmodels/squeezenet1_1",
    "tiny/glyphnet",
]


def pruned(name, inner=None):
    """A model with half of its channels."""
    import torch_pruning

    inner = (inner or model(name)).eval()
    torch_pruning.pruner.MagnitudePruner(
        inner,
        batch(name, 1),
        importance=torch_pruning.importance.MagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=[inner.get_submodule(zoo.anatomy(inner).main.path)],
    ).step()
    return inner


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_after_pruning_every_verb_sees_the_widths_that_are_left(name):
    inner = pruned(name)
    layer = inner.get_submodule(zoo.anatomy(inner).main.path)
    assert zoo.anatomy(inner).main.in_features == getattr(layer, "in_features", 0) or layer.in_channels
    encoder = zoo.encoder(inner)
    assert [each.shape[1] for each in encoder(batch(name))] == [*encoder.channels]
    backbone, head = zoo.split(inner)
    assert torch.equal(head(backbone(batch(name))), inner(batch(name)))
    zoo.freeze(inner)
    zoo.swap_head(inner, 3)
    assert train(inner, name)(batch(name)).shape[1] == 3


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_a_pruned_model_is_saved_and_loaded(name, tmp_path):
    comes_back(pruned(name), name, tmp_path / "x")


def test_a_file_of_a_pruned_model_is_not_taken_for_the_whole(tmp_path):
    torch.save(pruned("tiny/glyphnet").state_dict(), tmp_path / "half.pt")
    with pytest.raises(LoadMismatch):
        zoo.get("tiny/glyphnet", weights=tmp_path / "half.pt")


def test_masked_weights_are_frozen_and_trained_and_saved_when_the_masks_are_made_permanent(tmp_path):
    inner = model("tiny/glyphnet")
    layers = [each for each in inner.modules() if isinstance(each, torch.nn.Conv2d)]
    for each in layers:
        prune.l1_unstructured(each, "weight", amount=0.5)
    zoo.freeze(inner)
    assert trainable(inner) == {"fc.weight", "fc.bias"}
    train(inner, "tiny/glyphnet")
    with pytest.raises(NotSupported, match=r"prune\.remove"):
        zoo.save(inner, tmp_path / "x")
    for each in layers:
        prune.remove(each, "weight")
    comes_back(inner, "tiny/glyphnet", tmp_path / "x")


@pytest.mark.parametrize(
    ("put", "remove", "arguments"),
    [
        (parametrizations.weight_norm, parametrize.remove_parametrizations, ["weight"]),
        (torch.nn.utils.weight_norm, torch.nn.utils.remove_weight_norm, []),
        (torch.nn.utils.spectral_norm, torch.nn.utils.remove_spectral_norm, []),
    ],
)
def test_parametrized_weights_are_saved_when_they_are_made_plain(put, remove, arguments, tmp_path):
    inner = model("tiny/glyphnet")
    put(inner.fc)
    zoo.freeze(inner)
    assert all(each.startswith("fc.") for each in trainable(inner))
    with pytest.raises(NotSupported, match=remove.__name__):
        zoo.save(inner, tmp_path / "x")
    remove(inner.fc, *arguments)
    comes_back(inner, "tiny/glyphnet", tmp_path / "x")

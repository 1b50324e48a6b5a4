"""torch's default device is for what the user makes: nothing of zoo's own is made there on the way.

The meta device stands in for a GPU. Whatever comes to lie there has no values, which shows in the model or in an error.
"""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from support.unchained import unchained

import zoo_core as zoo
from zoo_core.embedding.feature_files import Rows, read_rows
from zoo_core.weights import read_state_dict


@pytest.fixture(autouse=True)
def _default_device():
    with torch.device("meta"):
        yield


def places(model):
    return {tensor.device.type for tensor in model.state_dict().values()}


def on_the_cpu(**options):
    return zoo.get("tiny/glyphnet", device="cpu", **options)


def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def usual(**options):
    with torch.device("cpu"):
        return zoo.get("tiny/glyphnet", **options)


VERBS = {
    "a head": lambda model: zoo.swap_head(model, 9, seed=0),
    "a head of layers": lambda model: zoo.swap_head(model, zoo.mlp_head(9, hidden=(8,), batch_norm=True), seed=0),
    "several heads": lambda model: zoo.swap_head(model, {"a": 2, "b": 3}, seed=0),
    "a head at the features": lambda model: zoo.swap_head(model, 9, at="features", seed=0),
    "a head without hidden layers": lambda model: zoo.swap_head(model, 9, keep_hidden=False, seed=0),
    "a head of buffers alone": lambda model: zoo.swap_head(model, torch.nn.BatchNorm1d(64, affine=False, device="cpu")),
    "a stem": lambda model: zoo.adapt_stem(model, 4),
    "a random stem": lambda model: zoo.adapt_stem(model, 4, policy="random", seed=0),
    "branches": lambda model: zoo.branch(model, at="layer3", heads={"a": 2, "b": 3}, seed=0),
    "branches of unchained stages": lambda model: zoo.branch(unchained(model), at="layer3", heads={"a": 2}, seed=0),
    "an encoder": zoo.encoder,
    "a split": lambda model: zoo.split(model)[0],
    "new values": lambda model: zoo.init_weights(model, "orthogonal", seed=0),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_surgery_on_a_model_on_the_cpu_does_what_it_does_without_a_default_device(verb):
    found = verb(on_the_cpu())
    with torch.device("cpu"):
        expected = verb(usual())
    assert places(found) == {"cpu"}
    assert same(found, expected)


OPTIONS = {
    "pretrained": {},
    "another head": {"num_classes": 9, "seed": 0},
    "untrained": {"weights": None, "seed": 0},
    "other channels": {"in_channels": 3, "dtype": torch.bfloat16, "channels_last": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_model_for_the_cpu_is_the_one_that_get_makes_without_a_default_device(options):
    found = on_the_cpu(**options)
    assert places(found) == {"cpu"}
    assert same(found, usual(**options))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_model_for_no_device_goes_to_the_default_device(options):
    assert places(zoo.get("tiny/glyphnet", **options)) == {"meta"}


def test_a_model_comes_back_to_the_device_that_was_asked_for_or_to_the_default_one(tmp_path):
    folder = zoo.save(on_the_cpu(num_classes=9, seed=0), tmp_path / "saved")
    assert same(zoo.load(folder, device="cpu"), usual(num_classes=9, seed=0))
    assert places(zoo.load(folder)) == {"meta"}


def test_keypoints_are_swapped():
    name, options = "keypointrcnn_resnet50_fpn", {"weights_backbone": None}
    model = zoo.get(name, weights=None, device="cpu", options=options)
    assert places(zoo.swap_keypoints(model, 5)) == {"cpu"}


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "old pth"])
def test_files_of_weights_are_read_on_the_cpu(tmp_path, suffix):
    state, path = usual().state_dict(), tmp_path / f"weights.{suffix.removeprefix('old ')}"
    if suffix == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=suffix == "pth")
    found = read_state_dict(path)
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.items())
    model = on_the_cpu(weights=None)
    zoo.load_partial(model, path)
    assert same(model, usual())


def test_cached_features_are_computed_and_read(tmp_path):
    backbone, _ = zoo.split(on_the_cpu(freeze="backbone"))
    images = torch.rand(6, 1, 32, 32, device="cpu")
    data = torch.utils.data.TensorDataset(images, torch.arange(6, device="cpu"))
    kept = zoo.cached_features(backbone, data, folder=tmp_path)
    with torch.no_grad():
        assert torch.allclose(kept.features, backbone.eval()(images), atol=1e-6)
    assert torch.equal(kept.__getitems__([3, 1])[0][0], kept.features[3])
    assert [targets.tolist() for _, targets in kept.batches(4, device="cpu")] == [[0, 1, 2, 3], [4, 5]]


def test_rows_without_numbers_are_read(tmp_path):
    with Rows(tmp_path / "rows", 2) as rows:
        rows.append(torch.zeros(2, 0, device="cpu"), torch.zeros(2, device="cpu"))
        rows.finish()
    assert read_rows(tmp_path / "rows")[0].device.type == "cpu"


def test_an_untrained_model_for_the_meta_device_draws_nothing_and_its_receipt_is_that_of_any_other():
    before = torch.get_rng_state()
    found = zoo.get("tiny/glyphnet", weights=None)
    assert torch.equal(torch.get_rng_state(), before)
    assert zoo.receipt(found).tensors == zoo.receipt(on_the_cpu(weights=None)).tensors

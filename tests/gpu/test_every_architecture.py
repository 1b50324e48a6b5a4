"""What holds on the CPU holds on a GPU, for one model of each architecture of every installed family."""

from __future__ import annotations

import copy

import pytest
import torch
from architectures import ONE_OF_EACH, specimen

import zoo_core as zoo
from zoo_core.errors import NotSupported

pytestmark = pytest.mark.gpu

NAMES = [name for name in zoo.list() if name in ONE_OF_EACH]
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference from the CPU's float32 scores, in units of their spread."""

every_architecture = pytest.mark.parametrize("name", NAMES)
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@pytest.fixture
def on_cpu(name):
    """An untrained model with a 9-way head, and a small picture."""
    model, x = specimen(name)
    return zoo.swap_head(model, 9, seed=0), x.expand(2, *x.shape[1:]).contiguous()


@pytest.fixture
def on_device(on_cpu, device):
    model, x = on_cpu
    return copy.deepcopy(model).to(device), x.to(device)


NOT_IN_HALF = {
    "torchvision/inception_v3": "what its untrained layers compute is larger than float16 goes",
    "torchvision/swin_v2_t": "it divides by the length of padding tokens, plus an epsilon that is zero in float16",
}
"""Models whose scores are no numbers in float16 as their library makes them, wherever they run."""


def placed(model):
    return {(tensor.device.type, tensor.dtype) for tensor in model.parameters()}


def difference(found, expected):
    """The largest difference, in units of how far the expected scores are spread."""
    return ((found.float().cpu() - expected).abs().max() / expected.std().clamp_min(1e-6)).item()


@every_dtype
@every_architecture
def test_get_places_every_tensor(name, device, dtype):
    model = zoo.get(name, num_classes=9, weights=None, device=device, dtype=dtype)
    assert placed(model) == {(device.type, dtype)}
    assert {buffer.device.type for buffer in model.buffers()} <= {device.type}


@every_dtype
@every_architecture
def test_the_scores_are_those_of_the_cpu(on_cpu, name, device, dtype):
    if dtype is torch.float16 and name in NOT_IN_HALF:
        pytest.skip(NOT_IN_HALF[name])
    model, x = on_cpu
    with torch.no_grad():
        expected = model(x)
        found = copy.deepcopy(model).to(device, dtype)(x.to(device, dtype))
    assert difference(found, expected) < TOLERANCE[dtype]


@every_dtype
@every_architecture
def test_a_new_head_is_born_where_the_old_one_was(on_device, device, dtype):
    model, x = on_device
    zoo.swap_head(model.to(dtype), zoo.mlp_head(3, hidden=(8,)))
    assert placed(model) == {(device.type, dtype)}
    with torch.no_grad():
        assert model(x.to(dtype)).flatten(1).shape == (2, 3)  # a squeezenet may keep its map of one pixel


@every_architecture
def test_a_new_stem_is_born_where_the_old_one_was_and_keeps_its_layout(on_device, device):
    model, x = on_device
    model.to(memory_format=torch.channels_last)
    try:
        zoo.adapt_stem(model, 4)
    except NotSupported as error:
        pytest.skip(str(error))
    assert placed(model) == {(device.type, torch.float32)}
    with torch.no_grad():
        assert model(x[:, :1].expand(-1, 4, *x.shape[2:])).shape == (2, 9)

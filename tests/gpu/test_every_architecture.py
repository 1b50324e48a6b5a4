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
        assert model(x[:, :1].expand(-1, 4, *x.shape[2:])).flatten(1).shape == (2, 9)


@every_architecture
def test_a_branch_is_born_where_its_stage_was(on_device, device):
    model, x = on_device
    try:
        zoo.branch(model, at=zoo.anatomy(model).stages[-1].name, heads={"a": 3, "b": 5})
    except NotSupported as error:
        pytest.skip(str(error))
    assert placed(model) == {(device.type, torch.float32)}
    with torch.no_grad():
        assert {name: scores.flatten(1).shape for name, scores in model(x).items()} == {"a": (2, 3), "b": (2, 5)}


@every_architecture
def test_the_split_gives_the_scores_bit_for_bit(on_device):
    model, x = on_device
    backbone, head = zoo.split(model)
    with torch.no_grad():
        assert torch.equal(head(backbone(x)), model(x))


@every_architecture
def test_what_is_frozen_stays_as_it_is_in_a_step_under_autocast(on_device, device):
    model, x = on_device
    before = copy.deepcopy(zoo.freeze(model, "backbone").train().state_dict())
    optimizer = torch.optim.SGD(zoo.param_groups(model, lr=0.1))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        model(x).float().square().sum().backward()
    optimizer.step()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items() if name not in trained)
    assert zoo.drift(model, before) == {}


@every_architecture
def test_an_encoder_gives_its_maps_on_the_device(on_device, device):
    model, x = on_device
    encoder = zoo.encoder(model)
    with torch.no_grad():
        maps = encoder(x)
    assert [(each.device.type, each.shape[1]) for each in maps] == [(device.type, count) for count in encoder.channels]


@every_architecture
def test_a_partial_load_from_the_cpu_leaves_the_model_where_it_is(on_cpu, on_device, device):
    state = {
        name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in on_cpu[0].state_dict().items()
    }
    model, _ = on_device
    head = zoo.anatomy(model).main.path
    before = copy.deepcopy(model.get_submodule(head).state_dict())
    zoo.load_partial(model, state, skip=f"{head}.*")
    assert placed(model) == {(device.type, torch.float32)}
    now = model.state_dict()
    assert all(torch.equal(now[name].cpu(), state[name]) for name in state if not name.startswith(f"{head}."))
    assert all(torch.equal(now[f"{head}.{name}"], tensor) for name, tensor in before.items())


@every_architecture
def test_a_save_comes_back_on_the_device_bit_for_bit(on_device, device, tmp_path):
    model, x = on_device
    back = zoo.load(zoo.save(model, tmp_path / "saved"), device=device).eval()
    assert placed(back) == {(device.type, torch.float32)}
    with torch.no_grad():
        assert torch.equal(back(x), model(x))

"""What holds on the CPU holds on a GPU, for the smallest classifier of each class and shape of heads of every family.

Where a promise does not depend on how many bytes a number has, float16 and the large models come with ``-m gpu`` alone.
"""

from __future__ import annotations

import contextlib
import copy
from functools import lru_cache

import pytest
import torch
from support.device_sample import model_under_test, models_of, need_a_device, scores, tensors, to
from torch import nn

import zoo_core as zoo
from zoo_core.errors import HeadMismatch, NotSupported

need_a_device()
pytestmark = pytest.mark.gpu

TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference from the CPU's float32 scores, in units of their spread, that any model may have."""
WORSE = 2
"""How many times what a half precision costs a model that torch itself placed it may cost one from zoo."""

every_architecture = models_of("classification")
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
two_dtypes = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.full)], ids=str
)


@pytest.fixture
def on_cpu(name):
    """An untrained model with a 9-way head, and the arguments of its forward."""
    model, x = model_under_test(name)
    return zoo.swap_head(model, 9, seed=0), x


@pytest.fixture
def on_device(on_cpu, device, request):
    """The same in the dtype of the test, with channels last."""
    model, x = on_cpu
    dtype = request.node.callspec.params.get("dtype", torch.float32)
    return copy.deepcopy(model).to(device, dtype, memory_format=torch.channels_last), to(x, device, dtype)


def placed(model):
    """Devices of all tensors, and dtypes of those that have one to choose."""
    state = [*model.parameters(), *model.buffers()]
    return {each.device.type for each in state}, {each.dtype for each in model.parameters() if each.is_floating_point()}


def laid_out(model):
    """Whether every filter of the model has its channels last."""
    filters = [each for each in model.parameters() if each.dim() == 4]
    return all(each.is_contiguous(memory_format=torch.channels_last) for each in filters)


def difference(found, expected):
    """The largest difference, in units of how far the expected scores are spread."""
    return ((found.float().cpu() - expected).abs().max() / expected.std().clamp_min(1e-6)).item()


@contextlib.contextmanager
def unless_not_supported():
    """A verb that says of a model that it cannot be used with it is right on every device."""
    try:
        yield
    except NotSupported as error:
        pytest.skip(str(error).partition("\n")[0])


@lru_cache(maxsize=1)
def by_the_cpu(name):
    """Scores in float32."""
    model, x = model_under_test(name)
    with torch.no_grad():
        return scores(model, x)


@every_dtype
@every_architecture
def test_a_file_arrives_value_for_value_and_gives_the_scores_of_the_cpu(name, device, dtype, folder):
    model, x = model_under_test(name)
    torch.save(model.state_dict(), folder / "weights.pth")
    found = zoo.get(name, weights=folder / "weights.pth", device=device, dtype=dtype).eval()
    assert placed(found) == ({device.type}, {dtype})
    ours, theirs = found.state_dict(), model.to(dtype).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key].cpu(), theirs[key]) for key in ours)
    x = to(x, device, dtype)
    with torch.no_grad():
        placed_by_torch, placed_by_zoo = scores(model.to(device), x), scores(found, x)
    if not placed_by_torch.isfinite().all():
        pytest.skip(f"untrained, its scores are no numbers in {dtype}, wherever it was placed from")
    cost = 0.0 if dtype is torch.float32 else difference(placed_by_torch, by_the_cpu(name))
    assert difference(placed_by_zoo, by_the_cpu(name)) < max(TOLERANCE[dtype], WORSE * cost)


@every_architecture
def test_get_places_what_is_drawn_with_its_layout(name, device):
    model = zoo.get(name, num_classes=9, weights=None, device=device, dtype=torch.bfloat16, channels_last=True)
    assert placed(model) == ({device.type}, {torch.bfloat16})
    assert laid_out(model)


@every_dtype
@every_architecture
def test_a_new_head_is_born_where_the_old_one_was(on_device, name, device, dtype):
    model, x = on_device
    zoo.swap_head(model, zoo.mlp_head(3, hidden=(8,)))
    assert placed(model) == ({device.type}, {dtype})
    with torch.no_grad():
        assert scores(model, x).flatten(1).shape == (2, 3)  # a squeezenet may keep its map of one pixel


@two_dtypes
@every_architecture
def test_several_heads_are_born_where_the_old_one_was(on_device, name, device, dtype):
    model, x = on_device
    with unless_not_supported():
        zoo.swap_head(model, {"a": 3, "b": zoo.mlp_head(5, hidden=(8,))})
    assert placed(model) == ({device.type}, {dtype})
    with torch.no_grad():
        assert {key: each.flatten(1).shape for key, each in model(*x).items()} == {"a": (2, 3), "b": (2, 5)}


@two_dtypes
@every_architecture
def test_a_convolution_on_the_features_takes_the_device_dtype_and_layout(on_device, name, device, dtype):
    model, x = on_device
    channels = zoo.anatomy(model).stages[-1].channels
    try:
        with unless_not_supported():
            zoo.swap_head(model, nn.Conv2d(channels, 3, 3, padding=1), at="features")
    except HeadMismatch:
        pytest.skip("its features are tokens, or as wide as no stage is")
    assert placed(model) == ({device.type}, {dtype})
    assert laid_out(model)
    with torch.no_grad():
        assert scores(model, x).shape[:2] == (2, 3)


@two_dtypes
@every_architecture
def test_a_new_stem_is_born_where_the_old_one_was_and_keeps_its_layout(on_device, name, device, dtype):
    model, (x, *_) = on_device
    with unless_not_supported():
        zoo.adapt_stem(model, 4)
    assert placed(model) == ({device.type}, {dtype})
    assert laid_out(model) or x.shape[1] == 1  # filters of one channel lie the same way in both layouts
    with torch.no_grad():
        assert scores(model, (x[:, :1].expand(-1, 4, *x.shape[2:]),)).flatten(1).shape == (2, 9)


@two_dtypes
@every_architecture
def test_a_branch_is_born_where_its_stage_was_and_keeps_its_layout(on_device, name, device, dtype):
    model, x = on_device
    with unless_not_supported():
        zoo.branch(model, at=zoo.anatomy(model).stages[-1].name, heads={"a": 3, "b": 5})
    assert placed(model) == ({device.type}, {dtype})
    assert laid_out(model)
    with torch.no_grad():
        assert {key: each.flatten(1).shape for key, each in model(*x).items()} == {"a": (2, 3), "b": (2, 5)}


@two_dtypes
@every_architecture
def test_the_split_gives_the_scores_bit_for_bit(on_device, name, dtype):
    model, x = on_device
    backbone, head = zoo.split(model)
    with torch.no_grad():
        ours, theirs = next(tensors(head(backbone(*x)))), scores(model, x)
    assert torch.equal(ours.nan_to_num(), theirs.nan_to_num())


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@every_architecture
def test_what_is_frozen_stays_as_it_is_in_a_step_under_autocast(on_device, name, device, half):
    model, x = on_device
    before = copy.deepcopy(zoo.freeze(model, "backbone").train().state_dict())
    optimizer = torch.optim.SGD(zoo.param_groups(model, lr=0.1))
    scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)
    with torch.autocast(device.type, dtype=half):
        scored = [each.float() for each in tensors(model(*x))]
    scaler.scale(sum(each.square().mean() for each in scored)).backward()
    scaler.step(optimizer)
    scaler.update()
    trained = {key for key, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items() if key not in trained)
    assert zoo.drift(model, before) == {}


@two_dtypes
@every_architecture
def test_an_encoder_gives_its_maps_on_the_device(on_cpu, on_device, name, device, dtype):
    (reference, x), (model, on_it) = on_cpu, on_device
    with unless_not_supported():
        encoder = zoo.encoder(model)
    with torch.no_grad():
        maps, expected = encoder(*on_it), zoo.encoder(reference)(*x)
    assert [(each.device.type, each.dtype) for each in maps] == [(device.type, dtype)] * len(encoder.channels)
    assert [each.shape for each in maps] == [each.shape for each in expected]
    if dtype is torch.float32:
        assert max(map(difference, maps, expected)) < TOLERANCE[dtype]


@two_dtypes
@every_architecture
def test_a_partial_load_from_the_cpu_leaves_the_model_where_it_is(on_cpu, on_device, name, device, dtype):
    state = {key: each + 1 if each.is_floating_point() else each for key, each in on_cpu[0].state_dict().items()}
    model, _ = on_device
    heads = tuple(f"{site.path}." for site in zoo.anatomy(model).heads)
    before = copy.deepcopy(model.state_dict())
    zoo.load_partial(model, state, skip=[f"{each}*" for each in heads])
    assert placed(model) == ({device.type}, {dtype})
    for key, each in model.state_dict().items():
        expected = before[key].cpu() if key.startswith(heads) else state[key].to(before[key].dtype)
        assert torch.equal(each.cpu(), expected), key


@every_dtype
@every_architecture
def test_a_save_comes_back_on_the_device_bit_for_bit(on_device, name, device, dtype, folder):
    model, _ = on_device
    back = zoo.load(zoo.save(model, folder / "saved"), device=device)
    assert placed(back) == ({device.type}, {dtype})
    ours, theirs = back.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)

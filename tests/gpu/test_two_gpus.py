"""A model in two places that runs: on two GPUs where there are two, else on the GPU and the CPU."""

from __future__ import annotations

import pytest
import torch
from support.device_sample import model_under_test, need_a_device, scores
from support.two_devices import follow, spread

import zoo_core as zoo

need_a_device()
pytestmark = pytest.mark.gpu

OPERATIONS = {
    "a head": lambda model: zoo.swap_head(model, zoo.mlp_head(9, hidden=(8,)), seed=0),
    "several heads": lambda model: zoo.swap_head(model, {"a": 3, "b": 5}, seed=0),
    "branches": lambda model: zoo.branch(model, at=zoo.anatomy(model).stages[-1].name, heads={"a": 3, "b": 5}, seed=0),
    "a stem": lambda model: zoo.adapt_stem(model, 4, seed=0),
    "a frozen backbone": lambda model: zoo.freeze(model, "backbone"),
}
NAMES = ["tiny/glyphnet", "torchvision/resnet18", "timm/test_resnet", "timm/test_convnext"]
every_model = pytest.mark.parametrize("name", sorted(set(NAMES) & set(zoo.list())))
every_operation = pytest.mark.parametrize("operate", OPERATIONS.values(), ids=OPERATIONS)


@pytest.fixture
def places(device):
    """Where the beginning of a model goes, and where the end does."""
    if device.type == "cuda" and torch.cuda.device_count() > 1:
        return torch.device("cuda:0"), torch.device("cuda:1")
    return torch.device(device.type, 0) if device.type == "cuda" else device, torch.device("cpu")


def devices(model):
    return {name: each.device for name, each in model.state_dict().items()}


@every_operation
@every_model
def test_it_computes_on_both_what_it_computes_on_one(name, operate, places):
    (whole, x), (other, _) = model_under_test(name), model_under_test(name)
    halves = follow(operate(spread(other, *places)))
    whole = operate(whole)
    x = x if operate is not OPERATIONS["a stem"] else (x[0][:, :1].expand(-1, 4, -1, -1),)
    with torch.no_grad():
        torch.testing.assert_close(scores(halves, x).cpu(), scores(whole, x), rtol=1e-3, atol=1e-4)


@every_model
def test_a_partial_load_leaves_each_half_where_it_is(name, places):
    state = {
        key: each + 1 if each.is_floating_point() else each
        for key, each in model_under_test(name)[0].state_dict().items()
    }
    model = spread(model_under_test(name)[0], *places)
    before = devices(model)
    zoo.load_partial(model, state, skip=())
    assert devices(model) == before
    assert all(torch.equal(each.cpu(), state[key]) for key, each in model.state_dict().items())


@every_model
def test_a_save_of_both_halves_comes_back_in_one_place(name, places, folder):
    model = spread(model_under_test(name)[0], *places)
    back = zoo.load(zoo.save(model, folder / "saved"), device=places[0])
    assert set(devices(back).values()) == {places[0]}
    assert all(torch.equal(each.cpu(), model.state_dict()[key].cpu()) for key, each in back.state_dict().items())

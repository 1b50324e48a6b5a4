"""Surgery works through DistributedDataParallel and torch.compile, on the model inside."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

import zoo_core as zoo


@pytest.fixture
def process_group(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def compiled(model):
    return torch.compile(model, backend="eager")


WRAPPERS = pytest.mark.parametrize(
    "wrap", [DistributedDataParallel, DataParallel, compiled], ids=["ddp", "dp", "compile"]
)


@pytest.fixture
def model(process_group):
    return zoo.get("tiny/glyphnet", weights=None, num_classes=9, seed=0)


@WRAPPERS
def test_freezing_and_grouping_give_what_they_give_without_a_wrapper(model, wrap):
    wrapped = wrap(model)
    zoo.unfreeze(zoo.freeze(wrapped, "all"), "layer3[-2:]", "head")
    plain = zoo.get("tiny/glyphnet", weights=None, num_classes=9)
    zoo.unfreeze(zoo.freeze(plain, "all"), "layer3[-2:]", "head")
    names = [group["param_names"] for group in zoo.param_groups(wrapped, lr=1e-3, head_lr=1e-2, layer_decay=0.5)]
    assert names == [g["param_names"] for g in zoo.param_groups(plain, lr=1e-3, head_lr=1e-2, layer_decay=0.5)]


@WRAPPERS
def test_values_are_set_on_the_model_inside(model, wrap):
    wrapped = wrap(model)
    zoo.init_weights(wrapped, "constant", where="head", options={"val": 0.5})
    assert model.fc.weight.unique().tolist() == [0.5]
    zoo.load_partial(wrapped, {"fc.weight": torch.ones(9, 64)})
    assert model.fc.weight.unique().tolist() == [1.0]
    assert zoo.activation_stats(wrapped, torch.zeros(2, 1, 32, 32)).model == "GlyphNet"


@WRAPPERS
def test_a_step_through_the_wrapper_moves_what_is_grouped_and_nothing_else(model, wrap):
    zoo.freeze(model)
    wrapped = wrap(model).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(zoo.param_groups(wrapped, lr=0.1))
    nn.functional.cross_entropy(wrapped(torch.randn(4, 1, 32, 32)), torch.arange(4)).backward()
    optimizer.step()
    assert zoo.drift(wrapped, before) == {}
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"fc.weight", "fc.bias"}

"""A copy of a model by ``duplicate`` is the one that ``copy.deepcopy`` makes."""

from __future__ import annotations

import copy
from functools import partial
from threading import Lock
from typing import Any

import pytest
import torch
from torch import nn

from zoo_core.utils.duplicate import duplicate, without_values


class Own(nn.Linear):
    def __deepcopy__(self, memo: dict[int, Any]) -> Own:
        twin = memo[id(self)] = Own(self.in_features, self.out_features)
        twin.weight, twin.bias = copy.deepcopy((self.weight, self.bias), memo)
        twin.is_own = True
        return twin


class Stateful(nn.Linear):
    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "tag": "copied"}


def _model(device: str = "cpu") -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), Own(3, 3), Stateful(3, 3), nn.Linear(3, 3)).to(device)
    model[4].weight = model[0].weight
    model[0].bias.requires_grad_(requires_grad=False)
    model.shared = model[0].shared = {}
    model.last, model.run = [model[1]], partial(nn.Module.eval, model[1])
    return model.eval()


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("how", [copy.deepcopy, duplicate, without_values])
def test_a_copy_shares_what_its_model_shares_and_nothing_with_it(how: Any, device: str) -> None:
    model = _model(device)
    twin = how(model)
    assert twin[4].weight is twin[0].weight
    assert twin.shared is twin[0].shared
    assert twin.last[0] is twin.run.args[0] is twin[1]
    mine = [*model.modules(), *model.parameters(), *model.buffers(), model.shared]
    assert not {*map(id, mine)} & {*map(id, (*twin.modules(), *twin.parameters(), *twin.buffers(), twin.shared))}
    twin[1].register_forward_hook(print)
    assert not model[1]._forward_hooks
    assert [each.requires_grad for each in twin.parameters()] == [each.requires_grad for each in model.parameters()]
    assert [type(each) for each in twin.modules()] == [type(each) for each in model.modules()]
    assert (twin[2].is_own, twin[3].tag, twin.training) == (True, "copied", False)
    assert {each.device.type for each in twin.parameters()} == {"meta" if how is without_values else device}


def test_a_copy_of_values_has_them() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    assert [*map(torch.equal, duplicate(model).state_dict().values(), model.state_dict().values())] == [True] * 7


def test_what_a_model_computed_and_what_has_no_copy_may_be_its_attributes() -> None:
    model = nn.Linear(3, 3)
    model.last, model.lock = model(torch.ones(1, 3)), Lock()
    twin = duplicate(model)
    assert torch.equal(twin.last, model.last)
    assert twin.lock is model.lock

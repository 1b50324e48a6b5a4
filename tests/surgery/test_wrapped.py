"""Surgery before and after a model is wrapped for training on several machines."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import zoo_core as zoo

X = torch.randn(2, 1, 32, 32)


@pytest.fixture
def group(tmp_path):
    """One process that is a group of its own."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


OPERATIONS = {
    "several heads": lambda model: zoo.swap_head(model, {"a": 2, "b": 3}),
    "a head on the features": lambda model: zoo.swap_head(model, nn.Conv2d(64, 3, 1), at="features"),
    "branches": lambda model: zoo.branch(model, at="layer3", heads={"a": 2, "b": 3}),
    "a front": lambda model: zoo.truncate(model, after="layer2"),
    "an encoder": zoo.encoder,
}


def glyphnet():
    return zoo.get("tiny/glyphnet", weights=None, seed=0)


def total(out):
    parts = out.values() if isinstance(out, dict) else out if isinstance(out, list) else [out]
    return sum(part.sum() for part in parts)


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_before_wrapping_every_parameter_is_reduced(group, operation):
    wrapped = DistributedDataParallel(operation(glyphnet()))
    for _ in range(2):  # the second forward raises if a parameter of the first got no gradient
        total(wrapped(X)).backward()
    assert all(parameter.grad is not None for parameter in wrapped.parameters())


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_after_wrapping_the_model_inside_is_operated_on(group, operation):
    torch.manual_seed(0)
    expected = operation(glyphnet().eval())
    torch.manual_seed(0)
    found = operation(DistributedDataParallel(glyphnet().eval()))
    assert torch.equal(total(found(X)), total(expected(X)))

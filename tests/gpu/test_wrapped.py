"""FSDP and DDP over NCCL, as a group of one process: one small model of each family. On the CPU it is gloo.

What several processes add is shown over gloo in `tests/test_sharded.py` and `tests/surgery/test_wrapped.py`.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from support.device_sample import model_under_test, need_a_device, scores, to
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import zoo_core as zoo

need_a_device()
pytestmark = pytest.mark.gpu

ONE_OF_EACH = [
    "efficientnet_pytorch/efficientnet-b0",
    "pretrainedmodels/squeezenet1_1",
    "timm/test_resnet",
    "timm/test_vit",
    "tiny/glyphnet",
    "torchvision/mobilenet_v2",
]
one_of_each = pytest.mark.parametrize("name", sorted(set(ONE_OF_EACH) & set(zoo.list())))


@pytest.fixture
def group(device, tmp_path):
    """One process that is a group of its own."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(0)
    dist.init_process_group(backend, init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def placed(name, device, group):
    """A model on the device with a new head and a frozen backbone, in eval mode, and the arguments of its forward."""
    model, x = model_under_test(name)
    return zoo.freeze(zoo.swap_head(model.to(device), 9, seed=0), "backbone"), to(x, device)


def sharded(model, device):
    """The model with each of its stages sharded, and then the rest."""
    mesh = init_device_mesh(device.type, (1,))
    for stage in zoo.anatomy(model).stages:
        for path in stage.modules:
            fully_shard(model.get_submodule(path), mesh=mesh)
    return fully_shard(model, mesh=mesh)


def steps(model, x, count=2):
    """Train on what is trainable."""
    optimizer = torch.optim.SGD(zoo.param_groups(model, lr=1e-3))
    for _ in range(count):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(*x).flatten(1), torch.arange(len(x[0]), device=x[0].device)).backward()
        optimizer.step()


@one_of_each
def test_a_sharded_model_trains_as_the_whole_one_does(placed, name, device, folder):
    whole, x = placed
    model = sharded(copy.deepcopy(whole), device)
    before = copy.deepcopy(model.state_dict())
    steps(whole, x)
    steps(model, x)
    assert zoo.drift(model, before) == {}
    zoo.save(model, folder / "saved")
    back = zoo.load(folder / "saved", device=device)
    with torch.no_grad():
        torch.testing.assert_close(scores(back.eval(), x), scores(whole.eval(), x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("when", ["before", "after"])
@one_of_each
def test_ddp_with_a_frozen_backbone_looks_for_no_unused_parameters(placed, name, when):
    model, x = placed
    if when == "after":
        model = zoo.unfreeze(model)
    wrapped = DistributedDataParallel(model)
    if when == "after":
        zoo.freeze(wrapped, "backbone")
    before = copy.deepcopy(wrapped.module.state_dict())
    steps(wrapped, x)  # the second forward raises if a parameter of the first got no gradient
    trained = {key for key, each in wrapped.module.named_parameters() if each.grad is not None}
    assert trained == {key for key, each in wrapped.module.named_parameters() if each.requires_grad}
    assert zoo.drift(wrapped.module, before) == {}

"""Surgery before and after a model is wrapped for training on several machines."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from filelock import FileLock
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import zoo_core as zoo
from zoo_core.errors import NotAZooModel, NotSupported

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


def all_but_the_head_then_all(model):
    zoo.freeze(model)
    return zoo.unfreeze(model)


def unfrozen_inside(wrapped):
    zoo.unfreeze(zoo.freeze(wrapped).module)
    return wrapped


VERBS = {
    "unfreeze inside the wrapper": unfrozen_inside,
    "swap_head": lambda model: zoo.swap_head(model, 9),
    "swap_head with several": lambda model: zoo.swap_head(model, {"a": 2, "b": 3}),
    "branch": lambda model: zoo.branch(model, at="layer3", heads={"a": 2, "b": 3}),
    "adapt_stem": lambda model: zoo.adapt_stem(model, 3, policy="random"),
    "freeze": zoo.freeze,
    "freeze all but the stem": lambda model: zoo.unfreeze(zoo.freeze(model, "all"), "stem"),
    "unfreeze": all_but_the_head_then_all,
    "init_weights": lambda model: zoo.init_weights(model, "xavier_normal"),
}


def gradients_of_one_rank(rank, folder):
    """What DDP left after each verb, with and without a look for unused parameters."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    found = {
        (find_unused, name): gradients_after(verb, rank, 3 if name == "adapt_stem" else 1, find_unused)
        for find_unused in (False, True)
        for name, verb in VERBS.items()
    }
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()  # a group that goes while the other process still uses it can abort that process
    dist.destroy_process_group()


def gradients_after(verb, rank, channels, find_unused):
    """After two steps on the rank's own samples: what DDP left, and what the rank alone would have had."""
    torch.manual_seed(rank)  # so that new parameters are drawn differently on each
    wrapped = verb(DistributedDataParallel(glyphnet(), find_unused_parameters=find_unused).eval())
    alone = copy.deepcopy(wrapped.module)
    x = torch.randn(2, channels, 32, 32)
    for model in (wrapped, alone):
        for _ in range(2):
            model.zero_grad()
            total(model(x)).backward()
    grads = [{key: each.grad for key, each in model.named_parameters()} for model in (wrapped.module, alone)]
    return alone.state_dict(), *grads


FROZEN_BEFORE = [
    "tiny/glyphnet",
    "torchvision/shufflenet_v2_x0_5",
    "timm/test_vit",
    "efficientnet_pytorch/efficientnet-b0",
    "pretrainedmodels/squeezenet1_1",
]


def frozen_before_wrapping(rank, folder, name):
    """Two steps of a model that was frozen first, on the rank's own samples; what DDP left."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    model = zoo.freeze(zoo.get(name, weights=None, num_classes=9, seed=0), "backbone").eval()
    channels, side, _ = zoo.info(name).input_size
    wrapped = DistributedDataParallel(model)
    x = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(rank))
    for _ in range(2):  # the second forward raises if a parameter of the first got no gradient
        wrapped.zero_grad()
        total(wrapped(x)).backward()
    found = {key: each.grad for key, each in model.named_parameters() if each.grad is not None}
    expected = {key for key, each in model.named_parameters() if each.requires_grad}
    torch.save((found, expected), folder / f"{rank}.pt")
    dist.barrier()  # as above
    dist.destroy_process_group()


@pytest.mark.parametrize(
    "name", [name if name == "tiny/glyphnet" else pytest.param(name, marks=pytest.mark.full) for name in FROZEN_BEFORE]
)
def test_frozen_before_wrapping_the_heads_gradients_are_those_of_all_processes(name, tmp_path):
    torch.multiprocessing.spawn(frozen_before_wrapping, (tmp_path, name), nprocs=2)
    (first, expected), (second, _) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert set(first) == set(second) == expected
    assert all(torch.equal(first[key], second[key]) for key in expected)


@pytest.fixture(scope="session")
def of_two_ranks(tmp_path_factory, worker_id):
    """What two processes found, run once for all workers of pytest-xdist, whose folders lie in one."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "ranks"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            torch.multiprocessing.spawn(gradients_of_one_rank, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("find_unused", [False, True], ids=["all parameters used", "looking for unused ones"])
@pytest.mark.parametrize("verb", VERBS)
def test_after_wrapping_gradients_are_averaged_over_the_processes(of_two_ranks, verb, find_unused):
    (first, mine, alone), (second, other, alone_too) = (found[find_unused, verb] for found in of_two_ranks)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert set(mine) == set(other)
    assert any(each is not None for each in mine.values())
    for name, grad in mine.items():
        if alone[name] is None:
            assert grad is None
            assert other[name] is None
        else:
            assert torch.equal(grad, other[name])
            torch.testing.assert_close(grad, (alone[name] + alone_too[name]) / 2)


def test_a_wrapper_keeps_its_settings_and_hooks(group):
    wrapped = DistributedDataParallel(glyphnet(), find_unused_parameters=True, gradient_as_bucket_view=True)
    seen = []
    wrapped.register_comm_hook(None, lambda _, bucket: seen.append(bucket.index()) or default_hooks(bucket))
    wrapped.register_forward_hook(lambda *_: seen.append("forward"))
    zoo.swap_head(wrapped, 3)
    total(wrapped(X)).backward()
    assert wrapped.find_unused_parameters
    assert wrapped.gradient_as_bucket_view
    assert "forward" in seen
    assert 0 in seen


def default_hooks(bucket):
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


def test_a_wrapper_whose_model_is_all_frozen_runs_and_can_be_unfrozen(group):
    wrapped = zoo.freeze(DistributedDataParallel(glyphnet()), "all")
    for _ in range(2):
        wrapped(X)
    for _ in range(2):
        total(zoo.unfreeze(wrapped, "head")(X)).backward()
    assert wrapped.module.fc.weight.grad is not None


def test_a_wrapper_that_cannot_be_renewed_says_how_else(group):
    wrapped = DistributedDataParallel(glyphnet(), process_group=dist.new_group([0]))
    with pytest.raises(NotSupported, match=r"wrapper\.module"):
        zoo.swap_head(wrapped, 3)
    assert zoo.anatomy(wrapped).main.num_classes == 114 == wrapped.module.fc.out_features
    zoo.swap_head(wrapped.module, 3)
    with pytest.raises(NotSupported, match=r"cannot train the model that zoo.swap_head has changed(.|\n)*del wrapper"):
        wrapped(X)
    model = wrapped.module
    del wrapped
    assert DistributedDataParallel(model)(X).shape == (2, 3)  # as it says


def test_what_is_inside_a_wrapper_is_changed_without_the_other_processes_until_it_trains(group, monkeypatch):
    wrapped, sent, broadcast = DistributedDataParallel(glyphnet()), [], dist.broadcast
    monkeypatch.setattr(dist, "broadcast", lambda *args, **kwargs: sent.append(broadcast(*args, **kwargs)))
    with torch.no_grad():  # as rank 0 alone does after training, before it saves
        zoo.swap_head(wrapped.module, 3)
        zoo.swap_head(wrapped.module, 4)
        wrapped.eval()(X)
    assert not sent
    total(wrapped(X)).backward()
    assert len(sent) == len([*wrapped.parameters()])
    assert wrapped.module.fc.weight.grad.shape == (4, 64)


def test_a_copy_of_a_wrapper_whose_model_was_changed_trains(group):
    wrapped = DistributedDataParallel(glyphnet())
    zoo.swap_head(wrapped.module, 4)
    copied = copy.deepcopy(wrapped)
    total(copied(X)).backward()
    assert copied.module.fc.weight.grad.shape == (4, 64)


def test_a_wrapper_that_is_left_over_after_training_is_no_obstacle(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    wrapped = DistributedDataParallel(glyphnet())
    dist.destroy_process_group()
    assert zoo.swap_head(wrapped.module, 3).fc.out_features == 3


class Parts(nn.Module):
    """What people write: nothing but the two parts of a split."""

    def __init__(self, name="tiny/glyphnet", head=None):
        super().__init__()
        self.backbone, own = zoo.split(zoo.get(name, weights=None, num_classes=3, seed=0).eval())
        self.head = head or own

    def forward(self, x):
        return self.head(self.backbone(x))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_module_of_both_parts_stands_for_the_model(copied, tmp_path):
    module, x = copied(Parts()), torch.rand(2, 1, 32, 32)
    zoo.freeze(module).train()
    assert [name for name, each in module.named_parameters() if each.requires_grad] == ["head.weight", "head.bias"]
    assert not any(each.training for each in module.modules() if isinstance(each, nn.BatchNorm2d))
    groups = zoo.param_groups(zoo.unfreeze(module, "layer3"), lr=0.1, head_lr=1.0)
    assert {id(each) for group in groups for each in group["params"]} == {
        id(each) for each in module.parameters() if each.requires_grad
    }
    module.eval()
    assert torch.equal(zoo.load(zoo.save(module, tmp_path / "save")).eval()(x), module(x))
    with pytest.raises(NotSupported, match="whole model"):
        zoo.swap_head(module, 4)


class Scaled(nn.Module):
    """A model inside, and a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.model, self.scale = glyphnet(), nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        return self.model(x) * self.scale


def test_a_save_says_which_parameters_of_a_module_around_the_model_it_leaves_out(tmp_path):
    with pytest.warns(zoo.ZooWarning, match=r"1 trainable parameters .* are not saved, such as 'scale'") as said:
        zoo.save(Scaled(), tmp_path / "save")
    assert said[0].filename == __file__


def test_a_backbone_under_another_head_says_how_zoo_knows_both():
    with pytest.raises(NotAZooModel, match=r"zoo\.swap_head\(model, head\) before zoo\.split"):
        zoo.freeze(Parts(head=nn.Linear(64, 5)))

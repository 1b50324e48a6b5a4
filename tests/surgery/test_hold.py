"""Frozen is frozen: nothing of a frozen part moves, whatever trains, averages, recalibrates or resets."""

from __future__ import annotations

import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

import zoo_core as zoo
from zoo_core.utils.eval_mode import inferring

SAMPLES = [torch.randn(4, 1, 32, 32) for _ in range(2)]


@pytest.fixture
def model():
    return zoo.get("tiny/glyphnet", num_classes=9, seed=0, freeze="backbone").train()


def test_recalibrating_leaves_frozen_norms_alone(model):
    before = copy.deepcopy(model.state_dict())
    update_bn(SAMPLES, model)
    assert zoo.drift(model, before) == {}


@pytest.fixture
def hasty_threads():
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_a_thread_freezes_models_while_another_trains_one(model, hasty_threads):
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.1)
    others = zoo.adopt(nn.Sequential(*(nn.BatchNorm2d(1) for _ in range(300))), example=torch.zeros(1, 1, 4, 4))
    zoo.freeze(others, "all")
    done = Event()
    with ThreadPoolExecutor(1) as pool:
        freezing = pool.submit(lambda: [zoo.unfreeze(zoo.freeze(model)) for _ in iter(done.is_set, True)])
        try:
            for _ in range(30):
                optimizer.step()
        finally:
            done.set()
        freezing.result()


def test_recalibrating_still_moves_norms_that_train(model):
    zoo.unfreeze(model, "layer3")
    before = model.layer3.bn1.running_mean.clone()
    update_bn(SAMPLES, model)
    assert not torch.equal(model.layer3.bn1.running_mean, before)


@pytest.mark.parametrize("average", [None, get_ema_multi_avg_fn(0.9)], ids=["swa", "ema"])
def test_an_average_keeps_what_is_frozen(model, average):
    before = copy.deepcopy(model.state_dict())
    averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    for _ in range(2):
        averaged.update_parameters(model)
    update_bn(SAMPLES, averaged)
    assert zoo.drift(averaged, before) == {}


def test_statistics_cannot_be_assigned_or_reset(model):
    before = copy.deepcopy(model.state_dict())
    for norm in [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]:
        norm.running_mean = torch.zeros_like(norm.running_mean)  # what Lightning's StochasticWeightAveraging does
        norm.running_var = torch.ones_like(norm.running_var)
        norm.num_batches_tracked *= 0
        norm.reset_running_stats()
        norm.reset_parameters()
    assert zoo.drift(model, before) == {}


@pytest.mark.parametrize("assign", [False, True])
def test_a_state_dict_still_loads_into_frozen_norms(model, assign):
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=assign)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    model.layer1.bn1.num_batches_tracked *= 0
    assert torch.equal(model.layer1.bn1.num_batches_tracked, state["layer1.bn1.num_batches_tracked"])


def test_moving_and_casting_go_on_working(model):
    assert model.double().layer1.bn1.running_mean.dtype == torch.float64
    assert model.to("meta").layer1.bn1.running_mean.is_meta


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_a_copy_holds_norms_of_its_own(model, again):
    other = again(model)
    zoo.unfreeze(model).train()
    assert model.layer1.bn1.training
    assert not other.train().layer1.bn1.training
    other.layer1.bn1.running_mean = torch.full_like(other.layer1.bn1.running_mean, 7.0)
    assert not (other.layer1.bn1.running_mean == 7).all()


def test_unfreezing_undoes_all_of_it(model):
    zoo.unfreeze(model)
    norm = model.layer1.bn1
    assert not {"train", "reset_running_stats", "reset_parameters"} & norm.__dict__.keys()
    assert not norm._load_state_dict_pre_hooks
    assert not norm._load_state_dict_post_hooks
    norm.reset_running_stats()
    assert (norm.running_mean == 0).all()


def test_norms_follow_where_another_library_unfreezes(model):
    for parameter in model.layer3.parameters():
        parameter.requires_grad_(True)
    model.train()
    assert model.layer3.bn1.training
    assert not model.layer2.bn1.training


def test_statistics_frozen_alone_stay_so_though_the_weights_train(model):
    zoo.freeze(zoo.unfreeze(model), "*.running_*", "*.num_batches_tracked")
    model.train()
    assert not model.layer1.bn1.training
    assert model.layer1.bn1.weight.requires_grad


class Codebook(nn.Module):
    """An average of what it has seen, as VQ-VAE keeps it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(9))

    def forward(self, x):
        if self.training:
            self.seen = self.seen * 0.9 + x.detach().mean(0) * 0.1
        return x


class Evolved(nn.Module):
    """A norm with a running variance alone, as EvoNorm-B0 has it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(9))
        self.register_buffer("running_var", torch.ones(9))

    def forward(self, x):
        if self.training:
            self.running_var.mul_(0.9).add_(x.detach().var(0), alpha=0.1)
        return x / self.running_var.sqrt() * self.weight


STATEFUL = {
    "codebook": lambda fc: nn.Sequential(fc, Codebook()),
    "EvoNorm": lambda fc: nn.Sequential(fc, Evolved()),
    "spectral norm": torch.nn.utils.parametrizations.spectral_norm,
    "norm without parameters": lambda fc: nn.Sequential(fc, nn.BatchNorm1d(9, affine=False)),
    "instance norm": lambda fc: nn.Sequential(
        fc, nn.Unflatten(1, (3, 3)), nn.InstanceNorm1d(3, track_running_stats=True), nn.Flatten()
    ),
}


@pytest.mark.parametrize("kind", STATEFUL)
def test_whatever_keeps_a_state_stays_where_it_is(model, kind):
    zoo.unfreeze(model)
    zoo.swap_head(model, STATEFUL[kind](nn.Linear(64, 9)))
    zoo.freeze(model, "all").train()
    before = copy.deepcopy(model.state_dict())
    model(SAMPLES[0])
    assert zoo.drift(model, before) == {}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", STATEFUL)
def test_drift_compares_every_buffer_under_frozen_parts(model, kind):
    zoo.swap_head(zoo.unfreeze(model), STATEFUL[kind](nn.Linear(64, 9)))
    model.requires_grad_(False).train()  # by hand, so that nothing is held
    before = copy.deepcopy(model.state_dict())
    model(SAMPLES[0])
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert set(zoo.drift(model, before)) == moved
    assert any(name.startswith("fc") for name in moved)


def test_drift_says_nothing_of_norms_that_were_let_go_on_purpose(model):
    zoo.freeze(zoo.unfreeze(model), norm="train").train()
    before = copy.deepcopy(model.state_dict())
    model(SAMPLES[0])
    assert zoo.drift(model, before) == {}


def test_a_head_that_its_owner_froze_stays_frozen_with_its_norms_in_eval_mode():
    fixed = nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 9, bias=False))
    fixed.eval().requires_grad_(False)
    model = zoo.get("tiny/glyphnet", weights=None, head=fixed).train()
    assert not any(parameter.requires_grad for parameter in model.fc.parameters())
    assert not model.fc[0].training


def test_a_head_frozen_in_part_stays_so():
    head = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 9))
    head[0].requires_grad_(False)
    model = zoo.swap_head(zoo.get("tiny/glyphnet", weights=None), {"a": head, "b": 2})
    assert [parameter.requires_grad for parameter in model.fc.a.parameters()] == [False, False, True, True]
    assert all(parameter.requires_grad for parameter in model.fc.b.parameters())


def test_a_held_module_is_held_again_after_loading(model, tmp_path):
    zoo.swap_head(model, nn.Sequential(nn.Linear(64, 9), nn.BatchNorm1d(9)))
    zoo.freeze(model, "all")
    again = zoo.load(zoo.save(model, tmp_path / "save")).train()
    assert not again.fc[1].training
    assert not again.layer1.bn1.training


def one_step(model, x):
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
    for _ in range(2):
        model(x).sum().backward()
        optimizer.step()


@pytest.mark.parametrize(
    "copied", [lambda model: model, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_norms_that_others_unfroze_follow_where_train_is_not_called_again(copied):
    model = copied(zoo.freeze(zoo.get("tiny/glyphnet", num_classes=9)).train())
    with inferring(model):  # a round of validation, after which modes are put back one by one
        pass
    model.requires_grad_()
    before = model.stem[1].running_mean.clone()
    one_step(model, torch.rand(4, 1, 32, 32))
    assert model.stem[1].training
    assert not torch.equal(model.stem[1].running_mean, before)


def test_a_part_is_copied_without_the_model_around_it():
    model = zoo.freeze(zoo.get("tiny/glyphnet")).train()
    assert not copy.deepcopy(model.stem).train()[1].training
    assert len(pickle.dumps(model.stem)) < 20_000


def test_norms_that_others_unfroze_stay_in_eval_mode_where_the_model_is():
    model = zoo.freeze(zoo.get("tiny/glyphnet", num_classes=9)).train().eval().requires_grad_()
    one_step(model, torch.rand(4, 1, 32, 32))
    assert not model.stem[1].training
    assert model.train().stem[1].training


def test_norms_that_are_frozen_stay_so_at_every_step():
    model = zoo.freeze(zoo.get("tiny/glyphnet", num_classes=9)).train()
    one_step(model, torch.rand(4, 1, 32, 32))
    assert not model.stem[1].training
    assert zoo.drift(model, zoo.get("tiny/glyphnet", num_classes=9).state_dict()) == {}

"""Layers and parameters outside the stages are as deep as they run, whatever is registered before what."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import zoo_core as zoo

X = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def block(inputs, outputs):
    first = nn.Conv2d(inputs, outputs, 3, 2, 1)
    return nn.Sequential(first, nn.BatchNorm2d(outputs), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1))


class Backwards(nn.Module):
    """All that runs outside the stages is registered before them: parameters of the model itself, a list, a decoder."""

    def __init__(self):
        super().__init__()
        self.scale, self.kernel = nn.Parameter(torch.ones(8, 1, 1)), nn.Parameter(torch.randn(16, 32, 1, 1))
        self.tables = nn.ParameterList([nn.Parameter(torch.randn(8, 32, 32)), nn.Parameter(torch.randn(16, 16, 16))])
        self.lateral, self.fc = nn.Conv2d(16, 16, 1), nn.Linear(16, 10)
        self.stem, self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), block(8, 8), block(8, 16), block(16, 32)

    def forward(self, x):
        a = self.a(self.stem(x))
        b = self.b(a * self.scale + self.tables[0])
        c = functional.conv2d(self.c(b + self.tables[1]), self.kernel)
        return self.fc((c + functional.avg_pool2d(self.lateral(b), 2)).mean((2, 3)))


AFTER = {"a": ["scale", "tables.0", "tables.1", "kernel", "lateral"], "b": ["tables.1", "kernel", "lateral"]}
AFTER["c"] = ["kernel", "lateral"]


@pytest.fixture
def net():
    torch.manual_seed(0)
    return zoo.adopt(Backwards(), example=X[:1])


def is_after(name, stage):
    return any(name == path or name.startswith(f"{path}.") for path in [*AFTER[stage], "fc"])


@pytest.mark.parametrize("stage", ["a", "b", "c"])
def test_freezing_up_to_a_stage_leaves_what_runs_after_it_trainable(net, stage):
    zoo.freeze(net, until=stage)
    frozen = {name for name, each in net.named_parameters() if not each.requires_grad}
    assert not any(is_after(name, stage) for name in frozen)
    before = {"a": {"stem"}, "b": {"stem", "a"}, "c": {"stem", "a", "b", "scale", "tables"}}[stage]
    assert {name.partition(".")[0] for name in frozen} >= before - {"tables"}


@pytest.mark.parametrize("stage", ["a", "b", "c"])
def test_front_gives_the_map_and_holds_no_parameter_that_runs_after_it(net, stage):
    front = zoo.truncate(net.eval(), after=stage)
    assert not [name for name in front.state_dict() if is_after(name, stage)]
    result = front(X)
    assert torch.equal(result, zoo.features(net, X)[stage])
    result.sum().backward()
    assert all(each.grad is not None for each in front.parameters())


def test_encoder_gives_the_maps_and_all_its_parameters_get_gradients(net):
    encoder = zoo.encoder(net.eval(), at=["a", "b"])
    result = encoder(X)
    assert all(
        torch.equal(one, two) for one, two in zip(result, zoo.features(net, X, ["a", "b"]).values(), strict=True)
    )
    sum(each.sum() for each in result).backward()
    assert {name for name, each in encoder.named_parameters() if each.grad is None} == set()


def test_parameters_that_a_front_leaves_out_stay_in_the_model(net):
    before = copy.deepcopy(net.state_dict())
    front = zoo.truncate(net.eval(), after="a")
    front.double()(X.double())
    assert {*dict(net.named_parameters())} >= {"scale", "kernel", "tables.0", "tables.1"}
    assert net.state_dict().keys() == before.keys()


def test_front_is_saved_and_loaded_without_them(tmp_path):
    zoo.register("own/backwards", input_size=(3, 64, 64))(Backwards)
    front = zoo.truncate(zoo.get("own/backwards", weights=None, seed=0), after="b").eval()
    loaded = zoo.load(zoo.save(front, tmp_path / "front"))
    assert torch.equal(loaded(X), front(X))
    assert not [name for name in loaded.state_dict() if is_after(name, "b")]


def test_rates_of_layers_fall_from_the_head_to_the_stem_as_they_run(net):
    names = {id(each): name for name, each in net.named_parameters()}
    groups = zoo.param_groups(net, lr=1.0, layer_decay=0.5)
    rates = {names[id(each)]: group["lr"] for group in groups for each in group["params"]}
    assert rates["kernel"] == rates["lateral.weight"] == rates["fc.weight"] == 1.0
    assert rates["tables.1"] == rates["c.0.weight"] == 0.5
    assert rates["scale"] == rates["tables.0"] == rates["b.0.weight"] == 0.25
    assert rates["stem.weight"] == 0.0625


class Conditioned(nn.Module):
    """A U-Net that is given a time as well; the layer between two of its stages is registered first of all."""

    def __init__(self):
        super().__init__()
        self.gate, self.times = nn.Conv2d(8, 8, 1), nn.ModuleList([nn.Linear(4, 8), nn.Linear(4, 16)])
        self.stem, self.norm, self.a, self.b = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            block(8, 8),
            block(8, 16),
        )
        self.up, self.fc = nn.Conv2d(24, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x, time):
        a = self.a(self.norm(self.stem(x)))
        b = self.b(a + self.gate(a) + self.times[0](time)[:, :, None, None])
        b = functional.interpolate(b + self.times[1](time)[:, :, None, None], scale_factor=2)
        return self.fc(self.up(torch.cat([a, b], 1)))


@pytest.fixture
def conditioned():
    return zoo.adopt(Conditioned().eval(), example=(X[:1], torch.ones(1, 4)))


def test_layers_beside_one_that_is_registered_early_are_as_deep_as_before(conditioned):
    zoo.freeze(conditioned, until="b")
    frozen = {name.rpartition(".")[0] for name, each in conditioned.named_parameters() if not each.requires_grad}
    assert frozen >= {"stem", "norm", "a.0", "a.1", "a.3"}
    assert not frozen & {"gate", "times.0", "times.1", "up", "fc"}


@pytest.mark.parametrize("stage", ["a", "b"])
def test_front_of_a_model_of_several_inputs_ends_where_its_forward_cannot_go_on(conditioned, stage):
    inputs = (X, torch.rand(2, 4))
    front = zoo.truncate(conditioned, after=stage)
    assert torch.equal(front(inputs), zoo.features(conditioned, inputs)[stage])


class Dicts(nn.Module):
    """Its stages take and give dicts, which the chain of its features goes around."""

    class Stage(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.layers = block(inputs, outputs)

        def forward(self, given):
            return {"x": self.layers(given["x"]), "count": given["count"] + 1}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = self.Stage(3, 8), self.Stage(8, 16), self.Stage(16, 32)
        self.fc = nn.Linear(32, 5)

    def forward(self, x):
        return self.fc(self.c(self.b(self.a({"x": x, "count": 0})))["x"].mean((2, 3)))


def test_front_whose_stage_gives_a_dict_runs_the_forward_of_the_model():
    net = zoo.adopt(Dicts().eval(), example=X[:1], stages=["a", "b", "c"])
    for name, expected in zoo.features(net, X).items():
        assert torch.equal(zoo.truncate(net, after=name)(X), expected)


class Exits(nn.Module):
    """A side branch is registered first, and runs between the stages on what they give."""

    def __init__(self):
        super().__init__()
        self.side = nn.ModuleList([nn.Conv2d(8, 4, 1), nn.Conv2d(16, 4, 1), nn.Conv2d(32, 4, 1)])
        self.fc, self.stages = nn.Linear(4, 5), nn.ModuleList([block(3, 8), block(8, 16), block(16, 32)])

    def forward(self, x):
        result = 0
        for stage, side in zip(self.stages, self.side, strict=True):
            x = stage(x)
            result = functional.avg_pool2d(result, 2) + side(x) if torch.is_tensor(result) else side(x)
        return self.fc(result.mean((2, 3)))


STAGES = {"first": ["stages.0"], "second": ["stages.1"], "third": ["stages.2"]}


def test_side_branch_is_trained_while_the_stages_before_it_are_frozen():
    net = zoo.freeze(zoo.adopt(Exits(), example=X[:1], stages=STAGES), until="second")
    frozen = {name for name, each in net.named_parameters() if not each.requires_grad}
    assert frozen == {name for name, _ in net.named_parameters() if name.startswith("stages.0.")}


def test_encoder_of_a_model_with_a_side_branch_gives_its_maps():
    net = zoo.adopt(Exits().eval(), example=X[:1], stages=STAGES)
    maps = zoo.features(net, X).values()
    assert all(torch.equal(one, two) for one, two in zip(zoo.encoder(net)(X), maps, strict=True))
    assert not [name for name in zoo.truncate(net, after="first").state_dict() if name.startswith("side")]

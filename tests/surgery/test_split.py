"""Taking a model apart."""

from __future__ import annotations

import copy

import pytest
import torch
from support.architectures import every_layout, model_under_test
from torch import nn

import zoo_core as zoo
from zoo_core import Anatomy, Head, errors
from zoo_core.surgery.features.encoder import as_map
from zoo_core.surgery.features.twin import replaced
from zoo_core.surgery.hold import hold
from zoo_core.surgery.metadata import Metadata, attach
from zoo_core.surgery.receipt import Receipt


@pytest.fixture
def model():
    return zoo.get("resnet18", weights=None, num_classes=9).eval()


X = torch.randn(2, 3, 64, 64)


def test_head_after_backbone_equals_the_model_bit_for_bit(model):
    backbone, head = zoo.split(model)
    assert torch.equal(head(backbone(X)), model(X))


def test_the_backbone_is_pool_after_features(model):
    backbone, _ = zoo.split(model)
    features = backbone.features(X)
    assert features.shape == (2, 512, 2, 2)
    assert torch.equal(backbone.pool(features), backbone(X))


def test_the_parts_share_every_parameter_with_the_model(model):
    backbone, head = zoo.split(model)
    parts = {id(parameter) for part in (backbone, head) for parameter in part.parameters()}
    assert parts == {id(parameter) for parameter in model.parameters()}


def test_backbone_and_head_have_no_parameter_in_common(model):
    backbone, head = zoo.split(model)
    assert not {id(p) for p in backbone.parameters()} & {id(p) for p in head.parameters()}


def test_the_model_stays_whole(model):
    before = list(model.state_dict())
    zoo.split(model)
    assert list(model.state_dict()) == before
    assert isinstance(model.fc, nn.Linear)


def test_training_a_part_trains_the_model(model):
    _, head = zoo.split(model)
    head(torch.ones(1, 512)).sum().backward()
    assert model.fc.weight.grad is not None


def test_moving_the_model_moves_its_parts(model):
    backbone, head = zoo.split(model)
    model.to(torch.float64)
    assert all(t.dtype == torch.float64 for t in backbone.state_dict().values() if t.is_floating_point())
    assert torch.equal(head(backbone(X.double())), model(X.double()))


def test_a_convolutional_head_brings_what_follows_it():
    model = zoo.get("squeezenet1_1", weights=None, num_classes=9).eval()
    backbone, head = zoo.split(model)
    assert torch.equal(head(backbone(X)), model(X))
    assert len(list(head.parameters())) == 2


def test_a_family_that_says_only_where_the_head_is_gets_a_split_all_the_same():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
    anatomy = Anatomy(heads=(Head("3", in_features=5, num_classes=3),))
    attach(model, Metadata(anatomy, Receipt("own")))
    backbone, head = zoo.split(model)
    x = torch.randn(2, 3, 2, 2)
    assert backbone(x).shape == (2, 5)
    assert torch.equal(head(backbone(x)), model(x))


class Weighed(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.tensor([0.25, 0.75])), nn.Parameter(torch.tensor(2.0))
        self.one, self.other = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x):
        return weighed(self, self.scale * x)


def weighed(model, pooled):
    return model.weight[0] * model.one(pooled) + model.weight[1] * model.other(pooled)


weighed.uses = ("weight",)


def test_a_parameter_that_combines_heads_goes_with_the_heads():
    model = Weighed()
    heads = (Head("one", in_features=3, num_classes=2), Head("other", in_features=3, num_classes=2, role="summed"))
    anatomy = Anatomy(heads=heads, features=lambda model, x: model.scale * x, classify=weighed)
    attach(model, Metadata(anatomy, Receipt("weighed")))
    backbone, head = zoo.split(model)
    x = torch.randn(2, 3)
    assert torch.equal(head(backbone(x)), model(x))
    assert [parameter.numel() for parameter in backbone.parameters()] == [1]
    assert any(parameter is model.weight for parameter in head.parameters())


def test_forward_bound_to_the_instance_runs_on_the_backbone_and_not_on_the_model():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.last_linear = nn.Linear(4, 3), nn.Linear(3, 2)

    model = Net()
    model.forward = (lambda self, x: self.last_linear(self.body(x))).__get__(model)
    attach(model, Metadata(Anatomy(heads=(Head("last_linear", 3, 2),)), Receipt("own")))
    backbone, head = zoo.split(model)
    x = torch.randn(2, 4)
    assert backbone(x).shape == (2, 3)
    assert torch.equal(head(backbone(x)), model(x))


def test_the_parts_compile_without_a_graph_break(model):
    backbone, head = zoo.split(model)
    compiled = torch.compile(nn.Sequential(backbone, head), fullgraph=True, backend="eager")
    assert torch.equal(compiled(X), model(X))


def test_a_model_without_a_head_cannot_be_split():
    model = nn.Linear(2, 2)
    attach(model, Metadata(Anatomy(heads=()), Receipt("own")))
    with pytest.raises(errors.NotSupported, match="no head"):
        zoo.split(model)


@pytest.mark.parametrize("name", ["torchvision/googlenet", "torchvision/inception_v3"])
def test_no_parameter_of_the_parts_is_for_auxiliary_heads_alone(name):
    backbone, head = zoo.split(zoo.get(name, weights=None, options={"init_weights": False}, seed=0).train())
    head(backbone(torch.randn(2, 3, 96, 96))).sum().backward()
    parameters = [*backbone.named_parameters(), *head.named_parameters()]
    assert [key for key, parameter in parameters if parameter.grad is None] == []


@every_layout
def test_on_any_family_parts_are_in_the_mode_of_the_model_and_run_its_hooks(name):
    model, x = model_under_test(name)
    stages = zoo.anatomy(model).stages
    backbone, head = zoo.split(model.train())
    encoder = zoo.encoder(model) if stages else None
    model.register_forward_pre_hook(lambda _, given: (given[0] * 2 + 0.1,))
    with torch.no_grad():
        expected = zoo.anatomy(model).scores_in(model.eval()(x))
        assert torch.equal(head(backbone(x)), expected)
        if encoder:
            (found,) = zoo.features(model, x, at=encoder.names[-1]).values()
            found = next(stage for stage in stages if stage.name == encoder.names[-1]).map_in(model, found)
            last = as_map(found, x, zoo.anatomy(model).layout, encoder.strides[-1])
            assert torch.equal(encoder(x)[-1], last)
    backbone.train()
    assert model.training
    assert backbone.body.training


def test_forward_hooks_of_the_model_are_given_the_scores_of_its_head(model):
    model.register_forward_hook(lambda _, __, scores: scores.softmax(1))
    backbone, head = zoo.split(model)
    assert torch.equal(head(backbone(X)), model(X))


def test_hooks_on_a_front_are_its_own(model):
    seen = []
    model.register_forward_hook(lambda *_: seen.append("model"))
    front = zoo.truncate(model, after="layer1")
    front.register_forward_hook(lambda *_: seen.append("front"))
    front.register_forward_pre_hook(lambda *_: seen.append("into the front"))
    front(X)
    assert seen == ["into the front", "front"]
    model(X)
    assert seen[2:] == ["model"]


def test_a_part_of_a_held_module_does_not_put_it_into_train_mode():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    twin = replaced(module, {"0": nn.Identity()})
    hold(module)
    twin.train()
    assert (module.training, twin.training, module[1].training) == (False, False, True)


def test_a_part_keeps_the_mode_of_a_model_that_is_gone(model):
    backbone, _ = zoo.split(model.train())
    again = copy.deepcopy(backbone)
    del model
    assert again.body.training
    assert backbone.body.training
    backbone.eval()
    assert not backbone.body.training
    assert again.body.training


def test_a_backbone_is_traced_by_fx():
    model = zoo.get("tiny/glyphnet", weights=None).eval()
    backbone, _ = zoo.split(model)
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(torch.fx.symbolic_trace(backbone)(x), backbone(x))


class ByWeight(nn.Module):
    """Uses the weight of its head through a function."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 5)

    def forward(self, x):
        return nn.functional.linear(self.conv(x).relu().mean((2, 3)), self.fc.weight, self.fc.bias)


def test_a_head_described_by_hand_that_forward_does_not_call_is_refused():
    model = zoo.adopt(ByWeight(), anatomy=Anatomy((Head("fc", 8, 5),), ("conv",)))
    backbone, _ = zoo.split(model)
    with pytest.raises(errors.NotSupported, match=r"forward uses fc\.weight itself, and does not call the layer"):
        backbone(torch.zeros(2, 3, 16, 16))
    assert not hasattr(copy.deepcopy(backbone).body.fc, "weight")

"""Outputs that each own a copy of the last stages, after a trunk that runs once."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torchvision
from support.architectures import (
    every_architecture_that_combines_heads,
    every_architecture_with_one_head,
    model_under_test,
)
from torch import nn

import zoo_core as zoo
from zoo_core import errors

X = torch.randn(2, 3, 64, 64)
HEADS = {"colour": 3, "shape": 5}


def resnet18():
    return zoo.get("resnet18", weights=None, seed=0).eval()


def test_hooks_on_a_stage_are_called_in_each_branch():
    model, calls = resnet18(), []
    model.layer4[1].conv2.register_forward_hook(lambda *_: calls.append(1))
    zoo.branch(model, at="layer4", heads=HEADS)(X)
    assert calls == [1, 1]


@pytest.mark.parametrize("stage", ["layer1", "layer4"])
def test_branches_with_the_old_head_score_as_before(stage):
    model = resnet18()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    before = model(X)
    zoo.branch(model, at=stage, heads={"colour": copy.deepcopy(model.fc)})
    assert torch.equal(model(X)["colour"], before)


def test_a_layer_that_works_in_place_in_one_branch_leaves_the_map_of_the_others_alone():
    def block(*layers):
        return nn.Sequential(*layers, nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, 1, 1))

    net = nn.Sequential(nn.Conv2d(3, 8, 3), block(), block(nn.SiLU(inplace=True)), nn.Flatten(), nn.LazyLinear(3))
    zoo.adopt(net.eval(), example=X[:1], stages=["1", "2"])
    before = net(X)
    zoo.branch(net, at="2", heads={"colour": copy.deepcopy(net[4]), "shape": copy.deepcopy(net[4])})
    assert all(torch.equal(scores, before) for scores in net(X).values())


class NeckFirst(nn.Module):
    """A part of the first stage is registered before the stem."""

    def __init__(self):
        super().__init__()
        self.neck, self.stem = nn.Conv2d(8, 8, 1), nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.a = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
        self.b, self.fc = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 1)), nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(self.b(self.neck(self.a(self.stem(x)))).mean((2, 3)))


def test_trunk_keeps_the_norm_of_a_stem_that_is_registered_after_a_stage():
    net = NeckFirst().eval()
    nn.init.normal_(net.stem[1].weight)
    zoo.adopt(net, example=X[:1])
    assert zoo.anatomy(net).stages[0].modules == ("a", "neck")
    before, frozen = net(X), zoo.freeze(copy.deepcopy(net), until=zoo.anatomy(net).stages[0].name)
    assert not frozen.stem[1].weight.requires_grad
    zoo.branch(net, at=zoo.anatomy(net).stages[0].name, heads={"colour": copy.deepcopy(net.fc)})
    assert torch.equal(net(X)["colour"], before)


class ByHand(nn.Module):
    """The recipe: shared layers, and for each output a layer4 and a linear layer of its own."""

    def __init__(self, model, colour, shape):
        super().__init__()
        self.trunk = nn.Sequential(*list(model.children())[:-3])
        self.layer4_colour, self.layer4_shape = copy.deepcopy(model.layer4), copy.deepcopy(model.layer4)
        self.avgpool, self.colour, self.shape = model.avgpool, colour, shape

    def forward(self, x):
        x = self.trunk(x)
        colour = self.colour(self.avgpool(self.layer4_colour(x)).flatten(1))
        return {"colour": colour, "shape": self.shape(self.avgpool(self.layer4_shape(x)).flatten(1))}


def test_it_equals_the_recipe_by_hand():
    ours = zoo.freeze(resnet18(), until="layer4")
    torch.manual_seed(3)
    by_hand = ByHand(copy.deepcopy(ours), nn.Linear(512, 3), nn.Linear(512, 5))
    zoo.branch(ours, at="layer4", heads=HEADS, seed=3)
    expected, got = by_hand(X), ours(X)
    assert list(got) == ["colour", "shape"]
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    trainable = [{p.shape for p in model.parameters() if p.requires_grad} for model in (ours, by_hand)]
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (ours, by_hand)]
    assert trainable[0] == trainable[1]
    assert counts[0] == counts[1]


def test_the_trunk_runs_once():
    model = zoo.branch(resnet18(), at="layer4", heads=HEADS)
    runs = []
    model.layer3.register_forward_hook(lambda *_: runs.append(1))
    model(X)
    assert runs == [1]


def test_the_branches_share_no_parameter():
    model = zoo.branch(resnet18(), at="layer4", heads=HEADS)
    own = [{id(p) for p in model.fc[name].parameters()} for name in HEADS]
    assert not own[0] & own[1]
    assert len({id(p) for p in model.parameters()}) == len(list(model.named_parameters(remove_duplicate=False)))


def test_the_class_and_the_keys_of_the_trunk_stay():
    model, before = resnet18(), resnet18().state_dict()
    kind = type(model)
    zoo.branch(model, at="layer4", heads=HEADS)
    assert isinstance(model, kind)
    trunk = [name for name in before if not name.startswith(("layer4.", "fc."))]
    assert [name for name in model.state_dict() if not name.startswith("fc.")] == trunk
    assert "fc.colour.body.layer4.0.conv1.weight" in model.state_dict()


LARGE = 200_000_000


@every_architecture_that_combines_heads
def test_a_model_that_combines_several_heads_says_so_and_stays_as_it_was(name):
    model, x = model_under_test(name)
    with torch.no_grad():
        before = model(x)
        with pytest.raises(errors.NotSupported, match="its own forward goes on computing with what"):
            zoo.branch(model, at=zoo.anatomy(model).stages[-1].name, heads={"a": 2})
        assert torch.equal(model(x), before)


@every_architecture_with_one_head
def test_on_any_family_a_branch_with_the_old_head_is_the_old_model(name):
    model, x = model_under_test(name)
    anatomy = zoo.anatomy(model)
    if not anatomy.stages:
        pytest.skip("no stages")
    stage = anatomy.stages[len(anatomy.stages) // 2].name
    with torch.no_grad():
        alone = model(x)
        old = copy.deepcopy(model.get_submodule(anatomy.main.path))
        try:
            zoo.branch(model, at=stage, heads={"old": old, "new": 3})
        except errors.NotSupported as error:
            assert "one after another" in str(error)  # noqa: PT017 - one of two good outcomes
            return
        several = model(x)
        assert torch.equal(several["old"], alone)
        assert several["new"].flatten(1).shape == (1, 3)
        if sum(parameter.numel() for parameter in model.parameters()) < LARGE:  # three more copies of it
            assert torch.equal(pickle.loads(pickle.dumps(copy.deepcopy(model)))(x)["old"], alone)


def test_freezing_the_backbone_freezes_the_trunk():
    model = zoo.freeze(zoo.branch(resnet18(), at="layer4", heads=HEADS), "backbone")
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"fc"}
    assert not any(p.requires_grad for p in model.layer3.parameters())


def test_every_parameter_gets_a_gradient():
    model = zoo.branch(resnet18(), at="layer3", heads=HEADS).train()
    sum(scores.sum() for scores in model(X).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_the_receipt_tells_copies_from_new_heads():
    receipt = zoo.receipt(zoo.branch(zoo.get("tiny/glyphnet"), at="layer3", heads=HEADS))
    assert set(receipt.names("initialized")) == {
        f"fc.{name}.body.fc.{kind}" for name in HEADS for kind in ("weight", "bias")
    }
    assert "fc.shape.body.layer3.conv1.weight" in receipt.names("loaded")


def test_it_compiles_without_a_graph_break():
    torch._dynamo.reset()
    model = zoo.branch(resnet18(), at="layer4", heads=HEADS)
    compiled = torch.compile(model, fullgraph=True, backend="eager")(X)
    assert all(torch.equal(compiled[name], scores) for name, scores in model(X).items())


def test_a_trunk_that_is_no_chain_of_modules_is_tapped():
    torch._dynamo.reset()
    model, x = torchvision.models.VisionTransformer(32, 16, 3, 4, 32, 64, num_classes=6), torch.rand(2, 3, 32, 32)
    zoo.adopt(model.eval(), family="torchvision")
    front = zoo.features(model, x, at="encoder_layer_1")["encoder_layer_1"]
    zoo.branch(model, at="encoder_layer_2", heads=HEADS)
    assert torch.equal(zoo.anatomy(model).features(model, x), front)
    compiled = torch.compile(model, fullgraph=True, backend="eager")(x)
    assert all(torch.equal(compiled[name], scores) for name, scores in model(x).items())


@pytest.mark.parametrize(
    "again",
    [
        lambda model: zoo.swap_head(model, 9),
        lambda model: zoo.swap_head(model, {"a": 2, "b": 3}),
        lambda model: zoo.swap_head(model, 9, at="features"),
        lambda model: zoo.branch(model, at="layer3", heads=HEADS),
    ],
    ids=["a head", "several heads", "a head on the features", "branches"],
)
def test_a_branched_model_is_not_robbed_of_its_branches(again):
    model = zoo.branch(resnet18(), at="layer4", heads=HEADS)
    keys = list(model.state_dict())
    with pytest.raises(errors.NotSupported, match=r"branches already, from 'layer4' on(.|\n)*all heads at once"):
        again(model)
    assert list(model.state_dict()) == keys


def test_the_way_to_another_head_in_a_branch_works():
    model = zoo.branch(resnet18(), at="layer4", heads=HEADS)
    model.set_submodule("fc.colour.body.fc", nn.Linear(512, 7))
    assert {name: scores.shape[1] for name, scores in model(X).items()} == {"colour": 7, "shape": 5}


def test_a_stage_that_does_not_exist_lists_the_stages():
    with pytest.raises(errors.UnknownPart, match="layer1, layer2, layer3, layer4"):
        zoo.branch(resnet18(), at="layer5", heads=HEADS)


@pytest.mark.parametrize("heads", [5, ["colour"], None, {"colour": {"hue": 3}}, {}])
def test_heads_that_are_no_dict_of_single_heads_are_refused(heads):
    with pytest.raises(errors.UsageError, match="names and heads"):
        zoo.branch(resnet18(), at="layer4", heads=heads)


@pytest.mark.parametrize("at", [4, None, ["layer4"]])
def test_a_stage_is_given_by_its_name(at):
    with pytest.raises(errors.UsageError, match="the name of a stage: layer1, layer2, layer3, layer4"):
        zoo.branch(resnet18(), at=at, heads=HEADS)


def test_a_head_that_does_not_fit_is_refused_and_nothing_changes():
    model = resnet18()
    with pytest.raises(errors.HeadMismatch, match=r"\[N, 512\](.|\n)*\[N, 7\]"):
        zoo.branch(model, at="layer4", heads={"a": nn.Linear(7, 2)})
    assert model(X).shape == (2, 1000)


def test_a_model_that_tells_its_blocks_how_deep_they_are_is_refused_with_one_that_can_branch():
    with pytest.raises(errors.NotSupported, match="torchvision/efficientnet_b0"):
        zoo.branch(model_under_test("efficientnet_pytorch/efficientnet-b0")[0], at="reduction_5", heads=HEADS)


@pytest.mark.parametrize(
    "name", ["densenet121", "efficientnet_b0", "mobilenet_v3_large", "convnext_tiny", "swin_t", "resnet18"]
)
def test_every_model_that_the_refusal_names_can_branch(name):
    model, x = model_under_test(f"torchvision/{name}")
    zoo.branch(model, at=zoo.anatomy(model).stages[-1].name, heads=HEADS)
    assert {each: scores.shape[1] for each, scores in model(x).items()} == HEADS


def test_a_model_with_auxiliary_heads_is_refused_with_the_way_out():
    with pytest.raises(errors.NotSupported, match="aux_logits"):
        zoo.branch(zoo.get("inception_v3", weights=None), at="Mixed_7", heads=HEADS)


def test_a_model_whose_family_says_only_where_the_head_is_is_refused_with_the_reason():
    from zoo_core import Anatomy, Head, Stage
    from zoo_core.surgery.metadata import Metadata, attach
    from zoo_core.surgery.receipt import Receipt

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    attach(model, Metadata(Anatomy((Head("1", 4, 3),), stages=(Stage("first", ("0",), 4, 1),)), Receipt("own")))
    with pytest.raises(errors.NotSupported, match="where its features end"):
        zoo.branch(model, at="first", heads=HEADS)


@pytest.mark.gpu
def test_it_works_on_the_gpu():
    model = zoo.branch(zoo.get("resnet18", weights=None, device="cuda"), at="layer4", heads=HEADS)
    assert {scores.device.type for scores in model(X.cuda()).values()} == {"cuda"}

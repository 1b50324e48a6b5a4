"""Modules that no plugin declares: adopted with an example, and then every verb works on them or says why not."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from support.own_models import CASES, LeNetDict, LeNetList, ResNet1d, Siamese, UNet

import zoo_core as zoo
from zoo_core.errors import AnatomyError, NotSupported, UsageError

WITH_HEAD = {
    "sequential": "11",
    "list": "layers.2",
    "dict": "parts.out",
    "unet": "out",
    "resnet1d": "out",
    "siamese": "compare",
}


def adopted(name):
    build, example = CASES[name]
    torch.manual_seed(0)
    return zoo.adopt(build().eval(), example=example), noise(example)


def noise(example):
    if isinstance(example, tuple):
        return tuple(noise(each) for each in example)
    return torch.randn(2, *example.shape[1:]) if example.is_floating_point() else example.expand(2, -1)


def run(model, x):
    return model(*x) if isinstance(x, tuple) else model(x)


@pytest.mark.parametrize(("name", "path"), WITH_HEAD.items())
def test_the_head_is_found_and_swapped(name, path):
    model, x = adopted(name)
    before = run(model, x)
    assert zoo.anatomy(model).main.path == path
    zoo.swap_head(model, 7)
    assert run(model, x).shape == (before.shape[0], 7, *before.shape[2:])


@pytest.mark.parametrize("name", WITH_HEAD)
def test_the_parts_of_a_split_give_what_forward_gives(name):
    model, x = adopted(name)
    backbone, head = zoo.split(model)
    assert torch.equal(head(backbone(x)), run(model, x))


@pytest.mark.parametrize("name", WITH_HEAD)
def test_freezing_the_backbone_leaves_the_head(name):
    model, _ = adopted(name)
    zoo.freeze(model)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == {n for n, _ in model.named_parameters() if n.startswith(f"{WITH_HEAD[name]}.")}


@pytest.mark.parametrize(("name", "refused"), [("autoencoder", "ConvTranspose2d"), ("towers", "matmul")])
def test_a_model_without_a_proven_head_says_why_and_which_layers_are_its_last(name, refused):
    model, _ = adopted(name)
    with pytest.raises(NotSupported, match=refused) as caught:
        zoo.swap_head(model, 7)
    assert "none of its last layers can be one" in str(caught.value)
    assert "anatomy=zoo.Anatomy(...)" in str(caught.value)


def test_what_is_the_backbone_is_not_guessed_where_the_head_is_not_known():
    model, _ = adopted("towers")
    with pytest.raises(NotSupported, match="no head to tell 'backbone' by"):
        zoo.freeze(model)
    zoo.freeze(model, "image")
    assert not any(each.requires_grad for each in model.image.parameters())
    assert all(each.requires_grad for each in model.words_out.parameters())


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("list", [(6, 1), (16, 2)]),
        ("unet", [(16, 2), (32, 4)]),
        ("autoencoder", [(8, 2), (16, 4)]),
        ("resnet1d", [(8, 2), (16, 4), (32, 8)]),
    ],
)
def test_stages_end_where_the_resolution_changes(name, stages):
    model, _ = adopted(name)
    assert [(stage.channels, stage.stride) for stage in zoo.anatomy(model).stages] == stages


@pytest.mark.parametrize("name", CASES)
def test_any_layer_can_be_tapped(name):
    model, x = adopted(name)
    path = zoo.anatomy(model).stem[0]
    kept = []
    handle = model.get_submodule(path).register_forward_hook(lambda *given: kept.append(given[2].clone()))
    run(model, x)
    handle.remove()
    assert torch.equal(zoo.features(model, x, at=path)[path], kept[-1])


@pytest.mark.parametrize("name", CASES)
def test_tracing_leaves_the_model_and_the_random_state_alone(name):
    build, example = CASES[name]
    model = build().train()
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    zoo.adopt(model, example=example)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_dropout_before_the_head_is_active_in_train_mode_only():
    model, x = adopted("list")
    backbone, _ = zoo.split(model.train())
    assert (backbone(x) == 0).float().mean() > 0.3


def test_the_split_takes_batches_of_other_sizes():
    model, _ = adopted("list")
    backbone, head = zoo.split(model)
    x = torch.randn(5, 1, 28, 28)
    assert torch.equal(head(backbone(x)), model(x))


def test_an_encoder_of_signals_is_refused_and_features_are_the_way():
    model, x = adopted("resnet1d")
    with pytest.raises(NotSupported, match=r"zoo\.features"):
        zoo.encoder(model)
    assert [tuple(each.shape) for each in zoo.features(model, x).values()] == [(2, 8, 64), (2, 16, 32), (2, 32, 16)]


class TwoTasks(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = torch.nn.Linear(8, 8)
        self.age, self.kind = torch.nn.Linear(8, 1), torch.nn.Linear(8, 4)

    def forward(self, x):
        x = self.trunk(x).relu()
        return {"age": self.age(x), "kind": self.kind(x)}


def test_of_several_outputs_the_user_says_which_is_the_main_one():
    example = torch.zeros(1, 8)
    model = zoo.adopt(TwoTasks(), example=example)
    with pytest.raises(NotSupported, match="head= may be 'age' or 'kind'"):
        zoo.swap_head(model, 3)
    model = zoo.adopt(TwoTasks().eval(), example=example, head="kind")
    backbone, head = zoo.split(zoo.swap_head(model, 3))
    x = torch.randn(2, 8)
    assert {name: tuple(out.shape) for name, out in model(x).items()} == {"age": (2, 1), "kind": (2, 3)}
    assert torch.equal(head(backbone(x)), model(x)["kind"])


def test_a_layer_that_is_no_head_is_refused_with_those_that_are():
    with pytest.raises(AnatomyError, match=r"(?s)'trunk' is not proven.*head= may be 'age' or 'kind'"):
        zoo.adopt(TwoTasks(), example=torch.zeros(1, 8), head="trunk")


class Distilled(torch.nn.Module):
    """As DeiT: two heads on two tokens, averaged."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = torch.nn.Conv2d(3, 8, 4, 4), torch.nn.LayerNorm(8)
        self.one, self.two = torch.nn.Linear(8, 4), torch.nn.Linear(8, 4)

    def forward(self, x):
        x = self.norm(self.embed(x).flatten(2).transpose(1, 2))
        one, two = self.one(x[:, 0]), self.two(x[:, 1])
        return (one, two) if self.training else (one + two) / 2


def test_two_heads_on_two_tokens_are_a_distilled_pair_that_splits():
    model = zoo.adopt(Distilled().eval(), example=torch.zeros(1, 3, 16, 16))
    assert [(head.path, head.role) for head in zoo.anatomy(model).heads] == [("one", "main"), ("two", "distilled")]
    backbone, head = zoo.split(zoo.swap_head(model, 3))
    x = torch.randn(2, 3, 16, 16)
    assert model(x).shape == (2, 3)
    assert torch.equal(head(backbone(x)), model(x))


class Auxiliary(torch.nn.Module):
    """As GoogLeNet: a second output that only trains."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
        self.aux, self.out = torch.nn.Linear(8, 4), torch.nn.Linear(8, 4)

    def forward(self, x):
        x = self.first(x).relu()
        y = self.out(self.second(x).relu())
        return (y, self.aux(x)) if self.training else y


def test_an_auxiliary_head_that_only_trains_follows_the_main_one():
    model = zoo.adopt(Auxiliary(), example=torch.zeros(1, 8))
    assert [(head.path, head.role) for head in zoo.anatomy(model).heads] == [("out", "main"), ("aux", "aux")]
    assert [out.shape[1] for out in zoo.swap_head(model, 3).train()(torch.zeros(2, 8))] == [3, 3]


class ByHand(torch.nn.Module):
    """Uses the weights of a layer without calling it."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 4)

    def forward(self, x):
        return torch.nn.functional.linear(x, self.layer.weight)


def test_a_layer_that_is_not_called_is_no_head():
    model = zoo.adopt(ByHand(), example=torch.zeros(1, 8))
    with pytest.raises(NotSupported, match="without calling it"):
        zoo.swap_head(model, 3)


def test_a_number_of_classes_that_forward_uses_is_kept_in_step():
    class Viewed(LeNetDict):
        def __init__(self):
            super().__init__()
            self.classes = 10

        def forward(self, x):
            return super().forward(x).view(-1, self.classes)

    model = zoo.swap_head(zoo.adopt(Viewed().eval(), example=CASES["dict"][1]), 3)
    assert model.classes == 3
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 3)


def test_stages_can_be_said():
    model = zoo.adopt(UNet(), example=CASES["unet"][1], stages=["down1", "down2"])
    found = [(stage.name, stage.channels, stage.stride) for stage in zoo.anatomy(model).stages]
    assert found == [("down1", 8, 1), ("down2", 16, 2)]
    with pytest.raises(AnatomyError, match="did you mean 'down"):
        zoo.adopt(UNet(), example=CASES["unet"][1], stages=["down9"])


def test_an_anatomy_can_be_said():
    anatomy = zoo.Anatomy((zoo.Head("out", 32, 5),))
    assert zoo.swap_head(zoo.adopt(ResNet1d(), anatomy=anatomy), 3).out.out_features == 3
    with pytest.raises(AnatomyError, match="no module 'outs'"):
        zoo.adopt(ResNet1d(), anatomy=zoo.Anatomy((zoo.Head("outs", 32, 5),)))


def test_what_cannot_be_run_or_is_not_said_is_refused():
    with pytest.raises(AnatomyError, match="does not run on the example"):
        zoo.adopt(Siamese(), example=torch.zeros(1, 1, 28, 28))
    with pytest.raises(UsageError, match=r"zoo.adopt\(model, example=x\)"):
        zoo.adopt(LeNetList())
    with pytest.raises(UsageError, match="nothing to run"):
        zoo.adopt(LeNetList(), example="x")


def test_a_random_model_is_not_split():
    class Random(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.out = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)

        def forward(self, x):
            x = self.body(x)
            return self.out(x + torch.randn_like(x))

    model = zoo.adopt(Random(), example=torch.zeros(1, 8))
    with pytest.raises(NotSupported, match="something else each time"):
        zoo.split(model)


@pytest.mark.parametrize("name", WITH_HEAD)
def test_a_model_and_its_parts_can_be_pickled(name):
    model, x = adopted(name)
    backbone, head = zoo.split(pickle.loads(pickle.dumps(model)))
    assert torch.equal(head(backbone(x)), run(model, x))


def test_a_forward_of_its_own_runs_on_a_model_that_is_no_chain():
    model, x = adopted("unet")
    assert zoo.swap_head(model, 3, at="features")(x).shape == (2, 3, 32, 32)


def test_several_heads_on_several_inputs_are_refused():
    model, _ = adopted("siamese")
    with pytest.raises(NotSupported, match="takes several values"):
        zoo.swap_head(model, {"a": 2, "b": 3})

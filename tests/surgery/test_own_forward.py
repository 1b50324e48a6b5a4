"""Models on which somebody put another forward: every verb sees that one, or refuses."""

from __future__ import annotations

import copy
from types import MethodType

import pytest
import torch
from torch import nn

import zoo_core as zoo
from zoo_core import errors

X = torch.randn(2, 1, 32, 32)


def build():
    return zoo.get("tiny/glyphnet", weights=None, seed=0).eval()


def scaled(self, x):
    """As GlyphNet's own, with something between two of its stages."""
    x = self.layer1(self.stem(x)) * 2 + 1
    return self.fc(self.pool(self.layer3(self.layer2(x))).flatten(1))


def pooled(model):
    return model.pool(model.layer3(model.layer2(model.layer1(model.stem(X)) * 2 + 1))).flatten(1)


def with_own_forward(how):
    model = build()
    if how == "class":
        model.__class__ = type("Scaled", (type(model),), {"forward": scaled})
    else:
        model.forward = MethodType(scaled, model)
    return model


@pytest.mark.parametrize("how", ["instance", "class"])
def test_parts_of_a_model_with_another_forward_run_that_one(how):
    model = with_own_forward(how)
    backbone, head = zoo.split(model)
    assert torch.equal(head(backbone(X)), model(X))
    last = zoo.encoder(model)(X)[-1]
    assert torch.equal(model.pool(last).flatten(1), pooled(model))
    assert torch.equal(zoo.features(model, X)["layer3"], last)


def test_heads_on_another_forward_are_given_what_it_gives():
    model = with_own_forward("instance")
    scores = zoo.swap_head(model, {"a": 2, "b": 3})(X)
    assert torch.equal(
        torch.cat(list(scores.values()), 1), torch.cat([each(pooled(model)) for each in model.fc.children()], 1)
    )
    model = zoo.swap_head(with_own_forward("instance"), zoo.mlp_head(3, activation="sigmoid"))
    assert 0 <= model(X).min() <= model(X).max() <= 1
    with pytest.raises(errors.NotSupported, match="does not say where its features end"):
        zoo.swap_head(with_own_forward("instance"), 3, at="features")


def test_a_forward_that_goes_on_after_the_head_is_not_split():
    model = build()
    before = model.forward
    model.forward = lambda x: torch.relu(before(x))
    with pytest.raises(errors.NotSupported, match="does not end with its head"):
        zoo.split(model)
    assert zoo.swap_head(zoo.freeze(model), 3)(X).shape == (2, 3)


@pytest.mark.parametrize(
    "forward",
    [lambda self, x: type(self).forward(self, x) * 2, lambda self, x: self.__class__.forward(self, x).sigmoid()],
)
def test_a_forward_that_calls_the_one_of_its_class_gives_maps(forward):
    model, plain = build(), build()
    model.forward = MethodType(forward, model)
    for part in (zoo.encoder(model), copy.deepcopy(zoo.encoder(copy.deepcopy(model)))):
        assert all(torch.equal(a, b) for a, b in zip(part(X), zoo.encoder(plain)(X), strict=True))
    assert torch.equal(zoo.truncate(model, after="layer2")(X), zoo.truncate(plain, after="layer2")(X))


class Tripled:
    """Calls a forward, which is that of one model."""

    def __init__(self, forward):
        self.forward = forward

    def __call__(self, x):
        return self.forward(x) * 3


@pytest.mark.parametrize(
    "put",
    [
        lambda model: Tripled(model.forward),
        lambda model: Tripled(model.forward).__call__,
        lambda model: MethodType(lambda _, x, forward=model.forward: forward(x) * 3, model),
    ],
)
def test_a_forward_that_runs_one_model_alone_is_written_as_the_error_says(put):
    model = build()
    model.forward = put(model)
    with pytest.raises(errors.NotSupported, match=r"types\.MethodType.*self"):
        zoo.features(model, X, at=["layer1"])
    with pytest.raises(errors.NotSupported) as caught:
        zoo.split(model)
    assert "zoo.features(model, x, at=[...])" in str(caught.value)
    model.forward = MethodType(lambda self, x: scaled(self, x) * 3, model)
    assert torch.equal(zoo.features(model, X, at=["layer1"])["layer1"], model.layer1(model.stem(X)))


def test_a_model_that_goes_on_after_its_head_refuses_several_heads():
    model = build()
    kind = type(model)
    model.__class__ = type("Shifted", (kind,), {"forward": lambda self, x: kind.forward(self, x) + 1})
    with pytest.raises(errors.NotSupported, match="cannot return a dict of scores") as caught:
        zoo.swap_head(model, {"a": 2, "b": 3})
    assert "one head with as many scores as all of them together" in str(caught.value)
    assert zoo.swap_head(model, 5)(X).shape == (2, 5)


def test_a_pass_that_is_interrupted_leaves_no_hook_on_the_head():
    def interrupted(self, x):
        if self.fc._forward_hooks:
            raise KeyboardInterrupt
        return scaled(self, x)

    model = build()
    model.forward = MethodType(interrupted, model)
    with pytest.raises(KeyboardInterrupt):
        zoo.anatomy(model)
    assert not model.fc._forward_hooks


def test_a_forward_that_computes_the_same_changes_nothing():
    model, plain = build(), build()
    before = model.forward
    calls = []
    model.forward = lambda x: (calls.append(1), before(x))[1]  # as libraries do that count or log calls
    assert zoo.anatomy(model) == zoo.anatomy(plain)
    assert len(zoo.encoder(model)(X)) == 3


def test_the_library_s_forward_is_seen_again_when_it_is_back():
    model = with_own_forward("instance")
    assert zoo.anatomy(model).features is None
    del model.forward
    assert zoo.anatomy(model) == zoo.anatomy(build())


def test_a_part_with_a_forward_that_is_bound_to_it_is_refused_where_it_would_have_other_layers():
    model = zoo.get("resnet18", weights=None).eval()
    before = model.layer4.forward
    model.layer4.forward = lambda x: before(x) * 2
    with pytest.raises(errors.NotSupported, match="cannot run on other modules") as caught:
        zoo.encoder(model)(torch.zeros(1, 3, 64, 64))
    assert "types.MethodType" in str(caught.value)
    model.layer4.forward = MethodType(lambda self, x: type(self).forward(self, x) * 2, model.layer4)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(
        model.fc(zoo.encoder(model)(x)[-1].mean((2, 3))), model.fc(model.avgpool(zoo.encoder(model)(x)[-1]).flatten(1))
    )


@torch.no_grad()
@pytest.mark.parametrize("how", ["forward", "call", "stage"])
def test_parts_of_a_compiled_model_run_their_own_modules(how):
    model, plain = build(), build()
    if how == "forward":
        model.forward = torch.compile(model.forward, backend="eager")
    else:
        (model if how == "call" else model.layer3).compile(backend="eager")
    assert all(torch.equal(*pair) for pair in zip(zoo.encoder(model)(X), zoo.encoder(plain)(X), strict=True))
    assert zoo.features(model, X).keys() == zoo.features(plain, X).keys()
    zoo.swap_head(model, zoo.mlp_head(3, activation="sigmoid"))
    assert torch.equal(copy.deepcopy(model)(X), model(X))


@pytest.mark.parametrize("name", ["raft_small"])
@pytest.mark.parametrize("num_classes", [0, 5])
def test_a_model_without_classifier_refuses_any_number_of_classes(name, num_classes):
    with pytest.raises(errors.NotSupported, match="has no head"):
        zoo.get(name, weights=None, num_classes=num_classes)


@pytest.mark.parametrize(
    ("name", "options"),
    [("ssdlite320_mobilenet_v3_large", {"weights_backbone": None}), ("raft_small", {}), ("timm/test_vit", {})],
)
def test_reading_again_what_still_holds_gives_the_same(name, options):
    model = zoo.get(name, weights=None, options=options)
    anatomy = zoo.anatomy(model)
    model.forward = MethodType(lambda self, *args: type(self).forward(self, *args), model)
    assert zoo.anatomy(model) == anatomy


class Pair(nn.Module):
    """Two inputs whose split runs forward up to the head."""

    def __init__(self):
        super().__init__()
        self.one, self.other, self.out = nn.Linear(4, 8), nn.Linear(5, 8), nn.Linear(16, 3)

    def forward(self, x, y):
        return self.out(torch.cat([self.one(x), self.other(y)], 1).relu())


def test_proving_the_split_of_a_model_with_a_forward_of_ones_own_leaves_no_hook_on_its_head():
    x = torch.randn(2, 4), torch.randn(2, 5)
    model = zoo.adopt(Pair().eval(), example=x)
    before = model(*x)

    def own(self, x, y):
        return Pair.forward(self, x, y)

    model.forward = MethodType(own, model)
    zoo.anatomy(model)
    assert torch.equal(model(*x), before)


def flipped(self, x):
    """As the method of ResNet that its forward calls, on other images."""
    return type(self)._forward_impl(self, x.flip(1))


def with_own_method(how):
    model = zoo.get("resnet18", weights=None, seed=0).eval()
    kind = type(model)
    if how == "class":
        own = {"_forward_impl": lambda self, x: kind._forward_impl(self, x.flip(1))}
        model.__class__ = type("Flipped", (kind,), own)
    else:
        model._forward_impl = MethodType(flipped, model)
    return model


@pytest.mark.parametrize("how", ["instance", "class"])
def test_a_method_that_forward_calls_is_seen_as_forward_is(how):
    model, x = with_own_method(how), torch.randn(2, 3, 64, 64)
    plain = zoo.get("resnet18", weights=None, seed=0).eval()
    backbone, head = zoo.split(model)
    assert torch.equal(head(backbone(x)), model(x))
    assert torch.equal(zoo.encoder(model)(x)[-1], zoo.encoder(plain)(x.flip(1))[-1])
    assert torch.equal(zoo.truncate(model, after="layer3")(x), zoo.truncate(plain, after="layer3")(x.flip(1)))


@pytest.mark.parametrize("verb", ["split", "encoder", "truncate"])
def test_a_method_that_runs_one_model_alone_is_named(verb):
    model = zoo.get("resnet18", weights=None).eval()
    before = model._forward_impl
    model._forward_impl = lambda x: before(x.flip(1))
    arguments = {"after": "layer3"} if verb == "truncate" else {}

    def use():
        part = getattr(zoo, verb)(model, **arguments)
        (part[0] if verb == "split" else part)(torch.zeros(1, 3, 64, 64))

    with pytest.raises(errors.NotSupported, match="the _forward_impl of this ResNet cannot run on other") as caught:
        use()
    assert "module._forward_impl = types.MethodType" in str(caught.value)


@pytest.fixture
def accelerate():
    """The library, whose mixed precision would be that of every later accelerator in this process."""
    accelerate = pytest.importorskip("accelerate")
    yield accelerate
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)  # as its own tests do


@pytest.mark.extra
def test_mixed_precision_of_accelerate_leaves_the_parts_of_a_model_as_they_are(accelerate):
    model, plain = build(), build()
    accelerate.Accelerator(cpu=True, mixed_precision="bf16").prepare(model)
    assert zoo.anatomy(model) == zoo.anatomy(plain)
    backbone, head = zoo.split(model)
    assert torch.allclose(head(backbone(X)), model(X), atol=0.05)

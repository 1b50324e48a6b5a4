"""Two or more outputs from one backbone: a dict of scores."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from support.architectures import (
    every_architecture_that_combines_heads,
    every_architecture_with_one_head,
    model_under_test,
)
from torch import nn

import zoo_core as zoo
from zoo_core import errors

X = torch.randn(2, 3, 64, 64)


def resnet18():
    return zoo.get("resnet18", weights=None, seed=0)


class ByHand(nn.Module):
    """The recipe: the backbone without its last layer, and a linear layer for each output."""

    def __init__(self, model, colour, shape):
        super().__init__()
        self.backbone = model
        self.backbone.fc = nn.Identity()
        self.colour, self.shape = colour, shape

    def forward(self, x):
        x = self.backbone(x)
        return {"colour": self.colour(x), "shape": self.shape(x)}


def test_it_equals_the_recipe_by_hand():
    ours = zoo.freeze(resnet18().eval(), "backbone")
    torch.manual_seed(3)
    by_hand = ByHand(copy.deepcopy(ours), nn.Linear(512, 3), nn.Linear(512, 5))
    zoo.swap_head(ours, {"colour": 3, "shape": 5}, seed=3)
    expected, got = by_hand(X), ours(X)
    assert list(got) == ["colour", "shape"]
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert [p.requires_grad for p in ours.parameters()] == [p.requires_grad for p in by_hand.parameters()]


@every_architecture_that_combines_heads
def test_a_model_that_combines_several_heads_does_so_for_each_name(name):
    model, x = model_under_test(name)
    alone = copy.deepcopy(model)
    with torch.no_grad():
        zoo.swap_head(model, {"a": 2, "b": 3}, seed=1)
        several = model(x)
        assert {name: tuple(scores.shape) for name, scores in several.items()} == {"a": (1, 2), "b": (1, 3)}
        zoo.swap_head(alone, 3)
        for site in zoo.anatomy(alone).heads:
            alone.set_submodule(site.path, model.get_submodule(site.path)["b"])
        assert torch.equal(several["b"], alone(x))


@pytest.mark.parametrize(
    ("name", "options"),
    [("deeplabv3_mobilenet_v3_large", {"aux_loss": True}), ("lraspp_mobilenet_v3_large", {})],
)
def test_several_dense_heads_score_every_place(name, options, tmp_path):
    model = zoo.get(name, weights=None, options={**options, "weights_backbone": None}, seed=0).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        zoo.swap_head(model, {"land": 3, "roof": 2})
        scores = model(x)
        assert list(scores) == ["out", *(["aux"] if options else [])]
        assert {head: tuple(each.shape) for head, each in scores["out"].items()} == {
            "land": (1, 3, 64, 64),
            "roof": (1, 2, 64, 64),
        }
        backbone, head = zoo.split(model)
        assert torch.equal(head(backbone(x))["out"]["roof"], scores["out"]["roof"])
        again = zoo.load(zoo.save(model, tmp_path / "save"))
        assert torch.equal(again(x)["out"]["land"], scores["out"]["land"])
        exported = torch.export.export(model, (x,)).module()
        assert torch.allclose(exported(x)["out"]["land"], scores["out"]["land"], atol=1e-5)


def test_scores_of_two_depths_that_are_added_cannot_be_embeddings():
    model = zoo.get("lraspp_mobilenet_v3_large", weights=None, options={"weights_backbone": None}).eval()
    with pytest.raises(errors.NotSupported, match="adds up what its head sites give"):
        zoo.swap_head(model, None)
    assert model(torch.randn(1, 3, 64, 64))["out"].shape == (1, 21, 64, 64)


@every_architecture_with_one_head
def test_on_any_family_one_of_several_heads_scores_as_it_would_alone(name):
    model, x = model_under_test(name)
    site = zoo.anatomy(model).main
    with torch.no_grad():
        alone = model(x)
        old = copy.deepcopy(model.get_submodule(site.path))
        several = zoo.swap_head(model, {"old": old, "new": 3})(x)
        assert torch.equal(several["old"], alone)
        assert several["new"].flatten(1).shape == (1, 3)
        assert torch.equal(pickle.loads(pickle.dumps(copy.deepcopy(model)))(x)["old"], alone)
        backbone, head = zoo.split(model)
        assert torch.equal(head(backbone(x))["old"], alone)


@every_architecture_with_one_head
def test_on_any_family_one_head_can_follow_several(name):
    model, x = model_under_test(name)
    before = {key: tensor.shape for key, tensor in model.state_dict().items()}
    classes = zoo.anatomy(model).main.num_classes
    zoo.swap_head(model, {"a": 2, "b": 3})
    zoo.swap_head(model, classes)
    assert {key: tensor.shape for key, tensor in model.state_dict().items()} == before
    assert "forward" not in model.__dict__ or not hasattr(model.forward.__self__, "anatomy")
    with torch.no_grad():
        assert model(x).flatten(1).shape == (1, classes)


def test_heads_may_be_numbers_descriptions_and_modules():
    heads = {"a": 3, "b": zoo.mlp_head(1, hidden=(8,), activation="sigmoid", squeeze=True), "c": nn.Linear(512, 2)}
    scores = zoo.swap_head(resnet18().eval(), heads)(X)
    assert {name: tuple(tensor.shape) for name, tensor in scores.items()} == {"a": (2, 3), "b": (2,), "c": (2, 2)}


def test_a_model_can_be_had_with_several_heads():
    model = zoo.get("tiny/glyphnet", weights=None, head={"letter": 26, "digit": 10})
    assert {name: layer.out_features for name, layer in model.fc.items()} == {"letter": 26, "digit": 10}


def test_auxiliary_heads_follow_with_as_many():
    model = zoo.swap_head(zoo.get("googlenet", weights=None), {"a": 2, "b": 3}).train()
    out = model(torch.randn(2, 3, 96, 96))
    assert {name: tuple(tensor.shape) for name, tensor in out.aux_logits1.items()} == {"a": (2, 2), "b": (2, 3)}
    assert {name: tuple(tensor.shape) for name, tensor in out.logits.items()} == {"a": (2, 2), "b": (2, 3)}


def test_several_heads_on_the_feature_map():
    model = zoo.swap_head(resnet18().eval(), {"mask": 2, "edge": 1}, at="features")
    assert {name: tuple(tensor.shape) for name, tensor in model(X).items()} == {
        "mask": (2, 2, 2, 2),
        "edge": (2, 1, 2, 2),
    }


def test_the_anatomy_counts_the_scores_of_all():
    assert zoo.anatomy(zoo.swap_head(resnet18(), {"a": 2, "b": 3})).main.num_classes == 5


def test_it_compiles_without_a_graph_break():
    torch._dynamo.reset()
    for model in (resnet18(), zoo.get("squeezenet1_1", weights=None)):
        zoo.swap_head(model.eval(), {"a": 2, "b": 3})
        compiled = torch.compile(model, fullgraph=True, backend="eager")(X)
        assert all(torch.equal(compiled[name], tensor) for name, tensor in model(X).items())


def test_a_dict_inside_a_dict_is_refused_with_names_side_by_side():
    with pytest.raises(errors.UsageError, match=r"'colour' is a dict(.|\n)*'colour_hue', 'colour_tone'"):
        zoo.swap_head(resnet18(), {"colour": {"hue": 3, "tone": 2}})


@pytest.mark.parametrize("name", ["", "a.b", "forward", "type", 3])
def test_a_name_that_no_module_can_have_is_refused(name):
    with pytest.raises(errors.UsageError, match="cannot be called"):
        zoo.swap_head(resnet18(), {name: 3})


def test_no_heads_at_all_are_refused():
    with pytest.raises(errors.UsageError, match="empty"):
        zoo.swap_head(resnet18(), {})


def test_a_head_that_does_not_fit_is_refused_and_nothing_changes():
    model = resnet18()
    with pytest.raises(errors.HeadMismatch, match=r"\[N, 512\](.|\n)*\[N, 7\]"):
        zoo.swap_head(model, {"a": 3, "b": nn.Linear(7, 2)})
    assert isinstance(model.fc, nn.Linear)


def test_a_model_that_averages_two_heads_itself_is_refused():
    from zoo_core import Anatomy, Head
    from zoo_core.surgery.metadata import Metadata, attach
    from zoo_core.surgery.receipt import Receipt

    model = nn.ModuleDict({"head": nn.Linear(4, 3), "head_dist": nn.Linear(4, 3)})
    heads = (Head("head", 4, 3), Head("head_dist", 4, 3, role="distilled"))
    attach(model, Metadata(Anatomy(heads=heads), Receipt("own")))
    with pytest.raises(errors.NotSupported, match="head_dist"):
        zoo.swap_head(model, {"a": 3})


@pytest.mark.gpu
def test_the_heads_are_born_on_the_gpu():
    model = zoo.swap_head(zoo.get("resnet18", weights=None, device="cuda"), {"a": 2, "b": 3})
    assert {tensor.device.type for tensor in model(X.cuda()).values()} == {"cuda"}


def test_class_names_are_saved_by_head(tmp_path):
    model = zoo.swap_head(zoo.get("tiny/glyphnet"), {"letter": 2, "case": 3})
    names = {"letter": ("a", "b"), "case": ("low", "high", "none")}
    again = zoo.load(zoo.save(model, tmp_path / "save", class_names={head: names[head] for head in ("case", "letter")}))
    assert zoo.class_names(again) == names
    assert zoo.predict(again, torch.zeros(1, 32, 32))["case"][0][0] in names["case"]
    for wrong in ({"letter": ["a"], "case": ["x", "y", "z"]}, {"letter": ["a", "b"]}, {"letter": "ab", "case": "xyz"}):
        with pytest.raises(errors.UsageError, match="2 for 'letter', 3 for 'case'"):
            zoo.save(model, tmp_path / "other", class_names=wrong)


def test_class_names_of_several_heads_follow_their_heads(tmp_path):
    model = zoo.swap_head(zoo.get("tiny/glyphnet", weights=None), {"letter": 2, "case": 3})
    names = {"letter": ("a", "b"), "case": ("low", "high", "none")}
    again = zoo.load(zoo.save(model, tmp_path, class_names=names))
    assert zoo.class_names(zoo.swap_head(again, {"case": 3, "letter": 2})) == names
    assert zoo.class_names(zoo.swap_head(again, {"size": 3, "letter": 2})) == ()


def test_names_without_the_background_say_that_it_is_class_0(tmp_path):
    model = zoo.get("lraspp_mobilenet_v3_large", weights=None, options={"weights_backbone": None}, num_classes=3)
    with pytest.raises(errors.UsageError, match="class 0 of detectors and of segmentation is the background"):
        zoo.save(model, tmp_path / "save", class_names=["cat", "dog"])
    zoo.save(model, tmp_path / "save", class_names=["background", "cat", "dog"])


class Noisy(nn.Module):
    """Gives something else each time it runs, and ends with its head."""

    def __init__(self):
        super().__init__()
        self.body, self.fc = nn.Linear(4, 8), nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.body(x) + 0.1 * torch.randn(len(x), 8))


def test_a_model_that_draws_in_its_forward_takes_several_heads():
    model = zoo.adopt(Noisy().eval(), example=torch.rand(1, 4))
    scores = zoo.swap_head(model, {"a": 3, "b": 2})(torch.rand(1, 4))
    assert {name: tuple(each.shape) for name, each in scores.items()} == {"a": (1, 3), "b": (1, 2)}

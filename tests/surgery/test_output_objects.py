"""Models that return their scores inside an object, as transformers' do: all surgery finds them there."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from operator import itemgetter
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import zoo_core as zoo
from zoo_core import Anatomy, Card, Chain, Family, Head, Stage, flatten
from zoo_core.registry.plugins import Plugin
from zoo_core.registry.zoo import Zoo
from zoo_core.testing import CHECKS, judge, model_under_test


@dataclass
class Output:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


class Wordy(nn.Module):
    """Its forward returns an object, and its configuration repeats the number of classes."""

    def __init__(self, num_labels: int = 10) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_labels=num_labels, num_channels=3)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(6, num_labels)

    def forward(self, pixel_values, labels=None):
        if pixel_values.shape[1] != self.config.num_channels:
            raise ValueError(f"{self.config.num_channels} channels, please")
        logits = self.classifier(self.pool(self.body(pixel_values)).flatten(1))
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.view(-1, self.config.num_labels), labels)
        return Output(logits, loss)


class Paired(Wordy):
    """Its forward returns a tuple."""

    def forward(self, pixel_values):
        return super().forward(pixel_values).logits, "and more"


class Halved(Wordy):
    """Its forward goes on computing with what the head gives."""

    def forward(self, pixel_values):
        return Output(halved(super().forward(pixel_values).logits))


def halved(scores):
    return scores / 2


def by_head(model):
    """No features and no pool: the head ends the forward."""
    classifier = model.classifier
    return Anatomy(
        heads=(Head("classifier", classifier.in_features, classifier.out_features, attributes=("config.num_labels",)),),
        stem=("body.0",),
        stages=(Stage("body", ("body",), channels=6, stride=2),),
        channel_attributes=("config.num_channels",),
        scores=itemgetter(0) if isinstance(model, Paired) else "logits",
    )


def by_chain(model):
    """With features, as a feature map can then be had too."""
    from dataclasses import replace

    after = Chain("classifier", halved) if isinstance(model, Halved) else None
    return replace(by_head(model), features=Chain("body"), pool=Chain("pool", flatten), classify=after)


def family(anatomy, build="Wordy"):
    card = Card("wordy", "net", f"{__name__}:{build}", num_classes=10)
    found = Family("wordy", catalog=f"{__name__}:cards", anatomy=f"{__name__}:{anatomy.__name__}")
    own = Zoo(plugins=(Plugin("wordy", "this test", families=(found,)),))
    own.member("wordy").cards = {"net": card}
    return own


@pytest.fixture(params=[by_head, by_chain], ids=["by_head", "by_chain"])
def model(request):
    with zoo.use(family(request.param)):
        yield zoo.get("wordy/net", weights=None, seed=0).eval()


X = torch.randn(2, 3, 32, 32)


def test_forward_is_the_librarys_own(model):
    assert isinstance(model(pixel_values=X), Output)


def test_head_after_backbone_equals_the_scores_bit_for_bit(model):
    backbone, head = zoo.split(model)
    assert torch.equal(head(backbone(X)), model(X).logits)


def test_a_swapped_head_shows_in_the_output_object(model):
    assert zoo.swap_head(model, 4)(X).logits.shape == (2, 4)


def test_the_number_of_classes_in_the_configuration_follows(model):
    output = zoo.swap_head(model, 4)(X, labels=torch.tensor([1, 3]))
    assert model.config.num_labels == 4
    assert output.loss.isfinite()


def test_the_number_of_channels_in_the_configuration_follows(model):
    assert zoo.adapt_stem(model, 5)(torch.randn(2, 5, 32, 32)).logits.shape == (2, 10)
    assert model.config.num_channels == 5


def test_several_heads_show_in_the_output_object(model):
    scores = zoo.swap_head(model, {"colour": 3, "shape": 5})(X).logits
    assert {name: tuple(tensor.shape) for name, tensor in scores.items()} == {"colour": (2, 3), "shape": (2, 5)}


def test_the_stages_give_their_maps(model):
    assert zoo.features(model, X)["body"].shape == (2, 6, 16, 16)
    assert [tuple(found.shape) for found in zoo.encoder(model)(X)] == [(2, 6, 16, 16)]


def test_a_head_on_the_feature_map_returns_the_scores_themselves():
    with zoo.use(family(by_chain)):
        model = zoo.get("wordy/net", weights=None).eval()
    assert zoo.swap_head(model, nn.Conv2d(6, 4, 1), at="features")(X).shape == (2, 4, 16, 16)
    backbone, head = zoo.split(model)
    assert torch.equal(head(backbone(X)), model(X))


def test_the_object_is_back_once_an_activation_behind_the_scores_is_gone():
    with zoo.use(family(by_chain, "Halved")):
        model = zoo.get("wordy/net", weights=None).eval()
    zoo.swap_head(model, zoo.mlp_head(4, activation="sigmoid"))
    assert zoo.anatomy(model).scores_in(model(X)).shape == model(X).shape == (2, 4)
    zoo.swap_head(model, zoo.mlp_head(4, hidden=(5,)))
    assert zoo.anatomy(model).scores_in(model(X)).shape == model(X).logits.shape == (2, 4)


def test_wherever_the_scores_are_the_anatomy_finds_them():
    with zoo.use(family(by_chain)):
        model = zoo.get("wordy/net", weights=None).eval()
    zoo.swap_head(model, 4, at="features")
    assert zoo.anatomy(model).scores_in(model(X)).shape[:2] == (2, 4)


def test_a_front_returns_its_map_itself(model):
    assert zoo.truncate(model, after="body")(X).shape == (2, 6, 16, 16)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


@pytest.mark.parametrize("how", COPIES)
def test_copies_keep_where_the_scores_are(model, how):
    twin = COPIES[how](model)
    assert torch.equal(zoo.anatomy(twin).scores_in(twin(X)), model(X).logits)


def test_a_saved_model_comes_back_with_its_object(model, tmp_path):
    zoo.save(zoo.swap_head(model, 4), tmp_path)
    with zoo.use(family(by_chain)):
        again = zoo.load(tmp_path).eval()
    assert torch.equal(again(X).logits, model(X).logits)
    assert again.config.num_labels == 4


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("build", ["Wordy", "Paired"])
@pytest.mark.parametrize("anatomy", [by_head, by_chain], ids=["by_head", "by_chain"])
def test_the_conformance_kit_takes_it(anatomy, build, check):
    own = family(anatomy, build)
    with zoo.use(own):
        model_under_test.__globals__["_model_under_test"].cache_clear()
        verdict = judge(check, own.resolve("wordy/net")[0], {})
    assert verdict.outcome in {"passed", "refused"}, verdict.reason


class Named(nn.Module):
    """Gives its scores under a name."""

    def __init__(self):
        super().__init__()
        self.body, self.fc = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return {"scores": self.fc(self.body(x).relu())}


@pytest.fixture
def named():
    return zoo.adopt(Named().eval(), example=torch.zeros(1, 4))


def test_a_model_is_not_split_where_a_hook_changes_the_object_that_it_returns(named):
    named.register_forward_hook(lambda _, __, output: {"scores": output["scores"] * 2})
    with pytest.raises(zoo.errors.NotSupported, match="cannot be split"):
        zoo.split(named)


def test_a_hook_that_only_looks_at_the_object_leaves_the_split(named):
    named.register_forward_hook(lambda *_: None)
    backbone, head = zoo.split(named)
    x = torch.randn(2, 4)
    assert torch.equal(head(backbone(x)), named(x)["scores"])

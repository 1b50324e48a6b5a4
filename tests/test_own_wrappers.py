"""Files of a module of the user's own around a model: its children in a sequence, heads and decoders beside it."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import zoo_core as zoo
from zoo_core.errors import LoadMismatch, ZooWarning

NAME = "tiny/glyphnet"
X = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))


class Around(nn.Module):
    """A backbone without its head, and parts of the user's own after it."""

    def __init__(self, *, whole=False, **parts):
        super().__init__()
        self.backbone = backbone()
        if not whole:
            self.backbone.fc = nn.Identity()
        for name, part in parts.items():
            self.add_module(name, part)


def backbone():
    return zoo.get(NAME, weights=None, seed=1).eval()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "last.pth"


def scores(model):
    with torch.no_grad():
        return model.eval()(X)


def refused(path, **options):
    with pytest.raises(LoadMismatch) as caught:
        zoo.get(NAME, weights=path, **options)
    return caught.value.parts["cause"], caught.value.parts["hint"]


def children(last):
    return [*backbone().children()][:last]


SEQUENCES = {
    "as it is": lambda: nn.Sequential(*children(5), nn.Flatten(), nn.Linear(64, 9)),
    "body and head": lambda: nn.Sequential(
        nn.Sequential(*children(4)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 9)),
    ),
}


@pytest.mark.parametrize("make", SEQUENCES.values(), ids=list(SEQUENCES))
@pytest.mark.parametrize(
    "save", [lambda net: {"model": net.state_dict()}, lambda net: net], ids=["state dict", "whole"]
)
@pytest.mark.filterwarnings("ignore:.*nothing after the last")
def test_children_that_a_sequence_has_numbered_have_their_names_again(path, make, save):
    trained = make().eval()
    torch.save(save(trained), path)
    model = zoo.get(NAME, weights=path)
    assert torch.equal(scores(model), scores(trained))
    assert "children by their numbers" in zoo.receipt(model).taken


def test_a_numbered_body_beside_a_head_is_loaded(path):
    body, head = nn.Sequential(*children(5)), nn.Linear(64, 9)
    state = {f"feature_extractor.{name}": tensor for name, tensor in body.state_dict().items()}
    torch.save({"state_dict": {**state, "classifier.weight": head.weight, "classifier.bias": head.bias}}, path)
    model = zoo.get(NAME, weights=path)
    with torch.no_grad():
        assert torch.equal(scores(model), head(body(X).flatten(1)))
        encoder = zoo.encoder(NAME, weights=None).eval()
        zoo.load_partial(encoder, path)
        assert torch.equal(encoder(X)[-1], body[:4](X))


class Activated(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3), nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.second(self.first(x)).relu().mean((2, 3)))


def test_a_forward_that_does_more_than_the_children_in_order_is_said(path):
    zoo.register("wrapped/activated", input_size=(3, 16, 16))(Activated)
    body = [*Activated().children()][:2]
    torch.save(nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).state_dict(), path)
    with pytest.warns(zoo.errors.ZooWarning, match="does more between them, such as an activation"):
        zoo.get("wrapped/activated", weights=path)


class Concat(nn.Module):
    def forward(self, x):
        return torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1)


def test_a_head_of_two_pools_is_named_and_its_body_loaded(path):
    head = nn.Sequential(Concat(), nn.BatchNorm1d(128), nn.Linear(128, 9, bias=False))
    trained = nn.Sequential(nn.Sequential(*children(4)), head).eval()
    torch.save({"model": trained.state_dict(), "opt": {}}, path)
    cause, hint = refused(path)
    assert "1.2.weight [9, 128], twice the 64 here: average and maximum are pooled" in cause
    assert "num_classes=N" in hint
    with pytest.warns(ZooWarning, match="6 more tensors"):
        model = zoo.get(NAME, weights=path, num_classes=9)
    zoo.swap_head(model, head, at="features")
    assert torch.equal(scores(model), scores(trained))


@pytest.mark.parametrize("in_a_container", [True, False])
def test_several_heads_beside_a_backbone_are_loaded_by_name(path, in_a_container):
    heads = {"age_head": nn.Linear(64, 7), "sex_head": nn.Sequential(nn.Dropout(), nn.Linear(64, 2))}
    parts = {"heads": nn.ModuleDict(heads)} if in_a_container else heads
    trained = Around(**parts).eval()
    torch.save({"state_dict": trained.state_dict()}, path)
    model = zoo.get(NAME, weights=path)
    features = trained.backbone(X)
    assert {name: torch.equal(each, heads[name](features)) for name, each in scores(model).items()} == {
        "age_head": True,
        "sex_head": True,
    }
    assert zoo.receipt(model).names("ignored") == ()


def test_the_layers_of_one_head_are_shown_and_fill_the_module_that_is_given(path):
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(64, 16), nn.Linear(16, 9)

        def forward(self, x):
            return self.fc2(self.fc1(x).tanh())

    head = Head()
    trained = Around(fc1=head.fc1, fc2=head.fc2).eval()
    torch.save(trained.state_dict(), path)
    cause, hint = refused(path)
    assert "fc1.weight [16, 64], fc2.weight [9, 16]" in cause
    assert "head=MODULE" in hint
    model = zoo.get(NAME, weights=path, head=Head())
    assert torch.equal(scores(model), head(trained.backbone(X)))


def test_a_head_that_is_given_scores_is_loaded_after_them_with_a_word(path):
    trained = Around(whole=True, head=nn.Linear(114, 9)).eval()
    torch.save(trained.state_dict(), path)
    with pytest.warns(ZooWarning, match="given the scores of the model"):
        model = zoo.get(NAME, weights=path)
    assert torch.equal(scores(model), trained.head(trained.backbone(X)))


def test_an_autoencoder_says_what_is_beside_the_model_and_what_loads_the_rest(path):
    trained = backbone()
    extra = {"mask_token": torch.ones(1, 1, 64), "decoder_blocks.0.weight": torch.ones(64, 64)}
    torch.save({"model": {**trained.state_dict(), **extra}}, path)
    cause, hint = refused(path)
    assert (
        f"{len(trained.state_dict())} tensors of this model the file has 2 of other parts: decoder_blocks, mask"
        in cause
    )
    model = eval(re.search(r"zoo\.get\([^)]*\)", hint)[0], {"zoo": zoo})
    zoo.load_partial(model, path)
    assert torch.equal(scores(model), scores(trained))


def test_positions_of_images_that_are_not_square_name_the_option(path):
    options = {"img_size": (96, 160)}
    trained = zoo.get("timm/test_vit", weights=None, options=options, num_classes=3).eval()
    torch.save(trained.state_dict(), path)
    with pytest.raises(LoadMismatch, match=r"not square[\s\S]*options=\{\"img_size\": \(HEIGHT, WIDTH\)\}"):
        zoo.get("timm/test_vit", weights=path)
    model = zoo.get("timm/test_vit", weights=path, options=options).eval()
    assert model.state_dict().keys() == trained.state_dict().keys()
    assert torch.equal(model(x := torch.rand(1, 3, 96, 160)), trained(x))


def test_a_list_of_named_tensors_is_a_state_dict(path):
    torch.save([*backbone().state_dict().items()], path)
    assert torch.equal(scores(zoo.get(NAME, weights=path)), scores(backbone()))


@pytest.mark.parametrize("home", ["classifier", "last_linear", "head.1", "model.head.fc"])
def test_a_head_under_another_name_is_loaded_with_a_word(path, home):
    trained = zoo.get(NAME, weights=None, num_classes=9, seed=1).eval()
    prefix = "model." if home.startswith("model.") else ""
    state = {f"{prefix}{name}": tensor for name, tensor in trained.state_dict().items()}
    for name in ("weight", "bias"):
        state[f"{home}.{name}"] = state.pop(f"{prefix}fc.{name}")
    torch.save(state, path)
    with pytest.warns(ZooWarning, match=r"its head under other names, such as .* loaded at 'fc'"):
        model = zoo.get(NAME, weights=path)
    assert torch.equal(scores(model), scores(trained))
    assert any(home.removeprefix("model.") in note for note in zoo.receipt(model).notes.values())


def test_what_is_as_wide_as_the_head_beside_it_is_not_taken_for_it(path):
    state = {**zoo.get(NAME, weights=None, num_classes=9).state_dict(), "head.weight": torch.zeros(9, 64)}
    torch.save(state, path)
    assert "1 of other parts: head" in refused(path)[0]


@pytest.mark.parametrize("make", [lambda net: net.classifier, lambda _: nn.Sequential(nn.Linear(9216, 5))])
@pytest.mark.filterwarnings("ignore:.*nothing after the last")
def test_a_classifier_in_a_sequence_has_its_hidden_layers_again(path, make):
    net = zoo.get("torchvision/alexnet", weights=None, num_classes=5, seed=0)
    trained = nn.Sequential(net.features, net.avgpool, nn.Flatten(), make(net)).eval()
    torch.save(trained.state_dict(), path)
    model = zoo.get("torchvision/alexnet", weights=path).eval()
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(x), trained(x))


def test_a_head_under_another_name_than_beside_its_norm_is_loaded(path):
    trained = zoo.get("timm/test_convnext", weights=None, num_classes=5, seed=1).eval()
    state = {name.replace("head.fc.", "classifier."): tensor for name, tensor in trained.state_dict().items()}
    torch.save(state, path)
    with pytest.warns(ZooWarning, match="loaded at 'head.fc'"):
        model = zoo.get("timm/test_convnext", weights=path)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in trained.state_dict().items())


def test_another_copy_of_the_backbone_is_not_called_a_head(path):
    body = {name: tensor for name, tensor in backbone().state_dict().items() if not name.startswith("fc.")}
    state = {f"online.net.{name}": tensor for name, tensor in body.items()}
    state |= {f"target.net.{name}": tensor + 1 for name, tensor in body.items()}
    torch.save({**state, "predictor.weight": torch.zeros(8, 8)}, path)
    assert refused(path)[0] == "the file has a head of its own beside 'online.net.': predictor.weight [8, 8]"

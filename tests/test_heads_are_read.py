"""Whatever reads heads by name: an embedding is no scores, a name is a name, and no activation is taken twice."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

import zoo_core as zoo
from zoo_core.cli.group import zoo as group
from zoo_core.errors import NotSupported, UsageError
from zoo_core.exporting.named_outputs import NamedOutputs

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)


def glyphnet(head):
    return zoo.swap_head(zoo.get("tiny/glyphnet").eval(), head)


def output(model):
    with torch.no_grad():
        return model(zoo.transforms(model)(Image.fromarray(PIXELS))[None])


def segmenter(head, name="lraspp_mobilenet_v3_large", **options):
    options = {"weights_backbone": None, **options}
    model = zoo.get(f"torchvision/{name}", weights=None, options=options, seed=0)
    return zoo.set_preprocessing(zoo.swap_head(model, head).eval(), "resnet18")


EMBEDDINGS = pytest.mark.parametrize(
    "head",
    [None, nn.Identity(), nn.Sequential(nn.Dropout(), nn.Identity()), nn.Flatten(), nn.BatchNorm1d(64)],
    ids=["None", "Identity", "Sequential", "Flatten", "norm"],
)


@EMBEDDINGS
def test_an_embedding_beside_scores_is_a_vector(head):
    model = glyphnet({"vector": head, "kind": 3}).eval()
    result = zoo.predict(model, PIXELS, class_names={"kind": ["a", "b", "c"]})
    assert torch.equal(result["vector"], output(model)["vector"][0])
    assert {name for name, _ in result["kind"]} == {"a", "b", "c"}
    assert zoo.anatomy(model).main.num_classes == 3


@EMBEDDINGS
@pytest.mark.parametrize("run", [zoo.predict, zoo.sliding_window])
def test_an_embedding_alone_is_no_scores(run, head):
    with pytest.raises(NotSupported, match="no head"):
        run(glyphnet(head), PIXELS)
    with pytest.raises(NotSupported, match="no head"):
        run(glyphnet({"one": head}), PIXELS)


@EMBEDDINGS
def test_a_head_that_was_taken_out_by_hand_is_no_head(head):
    model = zoo.get("tiny/glyphnet").eval()
    model.fc = head or nn.Identity()
    with pytest.raises(NotSupported, match="no head"):
        zoo.predict(model, PIXELS)
    assert zoo.swap_head(model, 3)(torch.rand(2, 1, 32, 32)).shape == (2, 3)


def test_branches_without_a_head_give_vectors():
    model = zoo.branch(zoo.get("tiny/glyphnet").eval(), at="layer3", heads={"kind": 3, "vector": None})
    assert zoo.predict(model, PIXELS)["vector"].shape == (64,)


def test_an_embedding_has_no_names(tmp_path):
    model = glyphnet({"vector": None, "kind": 2})
    names = {"kind": ("cat", "dog")}
    loaded = zoo.load(zoo.save(model, tmp_path / "save", class_names=names))
    assert zoo.class_names(loaded) == {"vector": (), **names}
    assert {name for name, _ in zoo.predict(loaded, PIXELS)["kind"]} == {"cat", "dog"}
    with pytest.raises(UsageError, match="'vector'"):
        zoo.predict(model, PIXELS, class_names={"vector": ["x"]})


def test_names_of_one_head_are_not_spread_over_others(tmp_path):
    three = zoo.load(zoo.save(glyphnet(3), tmp_path / "a", class_names=["cat", "dog", "bird"]))
    assert not zoo.class_names(zoo.swap_head(three, {"a": 2, "b": 1}))
    two = {"a": ["cat", "dog"], "b": ["sick"]}
    loaded = zoo.load(zoo.save(glyphnet({"a": 2, "b": 1}), tmp_path / "b", class_names=two))
    assert not zoo.class_names(zoo.swap_head(loaded, 3))


@pytest.mark.parametrize("names", [("out", "aux"), ("aux",)])
def test_a_head_may_have_any_name(names, tmp_path):
    model = glyphnet(dict.fromkeys(names, 3)).eval()
    assert tuple(zoo.predict(model, PIXELS)) == names
    assert zoo.export(model, tmp_path / "net.pt2", to="pt2").outputs == names
    with pytest.raises(NotSupported, match="several heads"):
        zoo.sliding_window(model, PIXELS, size=32)


@pytest.mark.parametrize(("name", "options"), [("lraspp_mobilenet_v3_large", {}), ("fcn_resnet50", {"aux_loss": True})])
def test_dense_heads_are_read_by_name(name, options):
    model = segmenter({"roof": 3, "road": 2}, name, **options)
    names = {"roof": ["background", "flat", "steep"], "road": ["background", "road"]}
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    result = zoo.predict(model, image, class_names=names)
    assert {head: list(each.names) for head, each in result.items()} == names
    if not options:
        named = NamedOutputs(model)
        with torch.no_grad():
            named(torch.rand(1, 3, 64, 64))
        assert named.names == ("roof", "road")


def test_a_dense_embedding_is_a_map():
    model = segmenter({"roof": 3, "map": None}, "fcn_resnet50")
    assert zoo.predict(model, np.zeros((40, 40, 3), dtype=np.uint8))["map"].shape[0] == 512


ACTIVATIONS = {"sigmoid": torch.sigmoid, "softmax": lambda x: x.softmax(1), "log_softmax": lambda x: x.softmax(1)}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("threshold", [None, 0.0])
def test_an_activation_of_the_head_is_not_taken_again(activation, threshold):
    plain = glyphnet(3)
    model = glyphnet(zoo.mlp_head(3, activation=activation))
    model.fc[0].load_state_dict(plain.fc.state_dict())
    expected = ACTIVATIONS[activation](output(plain))[0]
    result = dict(zoo.predict(model, PIXELS, top=3, threshold=threshold))
    assert result == pytest.approx({str(at): chance.item() for at, chance in enumerate(expected)}, rel=1e-5)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
@pytest.mark.parametrize("squeeze", [False, True])
def test_one_logit_is_a_probability_whatever_follows_it(activation, squeeze, tmp_path):
    plain = glyphnet(1)
    model = glyphnet(zoo.mlp_head(1, activation=activation, squeeze=squeeze))
    model.fc[0].load_state_dict(plain.fc.state_dict())
    chance = output(plain).sigmoid()
    assert zoo.predict(model, PIXELS) == [("0", pytest.approx(chance.item(), rel=1e-5))]
    zoo.export(model, tmp_path / "net.pt2", to="pt2", softmax=True)
    exported = torch.export.load(tmp_path / "net.pt2").module()
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.allclose(exported(x)[0].flatten(), plain(x).sigmoid().flatten(), atol=1e-5)


@pytest.mark.parametrize("activation", ["softmax", "log_softmax"])
def test_probabilities_are_exported_once(activation, tmp_path):
    model = glyphnet({"kind": zoo.mlp_head(3, activation=activation), "vector": None}).eval()
    zoo.export(model, tmp_path / "net.pt2", to="pt2", softmax=True)
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        kind, vector = torch.export.load(tmp_path / "net.pt2").module()(x)
        expected = model(x)
    scores = expected["kind"] if activation == "softmax" else expected["kind"].exp()
    assert torch.allclose(kind, scores, atol=1e-5)
    assert torch.allclose(vector, expected["vector"], atol=1e-5)


def test_one_dense_logit_after_a_sigmoid_is_not_foreground_everywhere():
    model = segmenter(zoo.mlp_head(1, activation="sigmoid"))
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    with torch.no_grad():
        for layer in (model.classifier.low_classifier, model.classifier.high_classifier):
            layer[0].bias.fill_(-5) if isinstance(layer, nn.Sequential) else layer.bias.fill_(-5)
    assert not zoo.predict(model, image).mask.any()


def test_the_command_says_how_long_an_embedding_is(tmp_path):
    zoo.save(glyphnet({"vector": None, "kind": 2}), tmp_path / "save")
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    arguments = ["predict", str(tmp_path / "save"), str(tmp_path / "a.png")]
    assert "vector: an embedding of 64 numbers" in CliRunner().invoke(group, arguments).output
    record = json.loads(CliRunner().invoke(group, [*arguments, "--json"]).stdout)
    assert len(record["result"]["vector"]) == 64

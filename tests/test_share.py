"""``zoo.push`` and ``hf://``: saves on the Hugging Face hub, or on a small one on the loopback address."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from support import hub as small

import zoo_core as zoo
from zoo_core.cli.group import zoo as group
from zoo_core.errors import FetchError, Offline, Unreadable, UsageError

X = torch.zeros(1, 1, 32, 32)


@pytest.fixture
def flowers(tmp_path):
    model = zoo.get("tiny/glyphnet", num_classes=2, seed=0)
    return zoo.save(model, tmp_path / "flowers", class_names=["rose", "tulip"])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_a_token_of_this_test")
    with small.hub() as (state, address):
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield state


def test_a_folder_says_what_is_in_it(flowers):
    answer = CliRunner().invoke(group, ["info", str(flowers)])
    assert "model: tiny/glyphnet, from GLYPHS_V1" in answer.stdout, answer.output
    assert "classes: 2: rose, tulip" in answer.stdout
    assert json.loads(CliRunner().invoke(group, ["info", str(flowers), "--json"]).stdout)["name"] == "glyphnet"


def test_a_folder_is_got_by_its_path(flowers, monkeypatch):
    monkeypatch.chdir(flowers.parent)
    assert zoo.class_names(zoo.get("./flowers")) == ("rose", "tulip")
    model = zoo.get("./flowers", num_classes=5, freeze="backbone")
    assert zoo.anatomy(model).main.num_classes == 5
    assert [name for name, each in model.named_parameters() if each.requires_grad] == ["fc.weight", "fc.bias"]
    with pytest.raises(UsageError, match="its own weights"):
        zoo.get("./flowers", weights=None)
    with pytest.raises(Unreadable):
        zoo.get("./nothing")


def test_what_is_no_name_on_the_hub_is_refused(flowers):
    for wrong in ("me/flowers", "hf://flowers", "hf://me/flowers/more", "hf://../x"):
        with pytest.raises(UsageError):
            zoo.push(flowers, wrong)


@pytest.mark.extra
def test_a_save_that_was_pushed_is_loaded_elsewhere(flowers, hub):
    name = zoo.push(flowers, "hf://me/flowers")
    files = hub.repos["me/flowers"][-1][1]
    assert sorted(files) == ["README.md", "model.safetensors", "recipe.json"]
    card = files["README.md"].decode()
    for said in ("library_name: zoo", "license: apache-2.0", "rose, tulip", 'zoo.load("hf://me/flowers")', '"mean"'):
        assert said in card
    own = zoo.load(flowers).eval()
    for shared in (name, "hf://me/flowers", "hf://me/flowers@main"):
        assert torch.equal(zoo.load(shared).eval()(X), own(X))
    assert zoo.class_names(zoo.get(name)) == ("rose", "tulip")


@pytest.mark.extra
def test_a_commit_that_is_here_needs_no_network(flowers, hub, monkeypatch):
    name = zoo.push(flowers, "hf://me/flowers")
    zoo.load(name)
    asked = len(hub.requests)
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    zoo.load(name)
    assert len(hub.requests) == asked
    with pytest.raises(Offline):
        zoo.load("hf://me/flowers")
    with pytest.raises(Offline):
        zoo.push(flowers, "hf://me/flowers")


@pytest.mark.extra
def test_a_revision_is_what_it_was_when_more_is_pushed(flowers, hub, tmp_path):
    first = zoo.push(flowers, "hf://me/flowers")
    model = zoo.load(flowers)
    zoo.push(zoo.save(zoo.swap_head(model, 7), tmp_path / "other"), "hf://me/flowers")
    assert zoo.anatomy(zoo.load(first)).main.num_classes == 2
    assert zoo.anatomy(zoo.load("hf://me/flowers")).main.num_classes == 7


@pytest.mark.extra
def test_what_the_hub_has_not_is_an_error_of_zoo(hub):
    with pytest.raises(FetchError, match="hf://me/nothing"):
        zoo.load("hf://me/nothing")


@pytest.mark.extra
@pytest.mark.parametrize("file", ["../../evil.safetensors", ".hidden", 3])
def test_a_recipe_from_the_hub_names_no_file_outside_its_folder(file, flowers, hub, tmp_path):
    zoo.push(flowers, "hf://me/flowers")
    files = dict(hub.repos["me/flowers"][-1][1])
    recipe = json.loads(files["recipe.json"])
    recipe["tensors"]["file"] = file
    hub.push("me/flowers", {"recipe.json": json.dumps(recipe).encode()})
    with pytest.raises(FetchError, match="its tensors are in"):
        zoo.load("hf://me/flowers")
    assert not [*tmp_path.rglob("evil*")]


@pytest.mark.extra
def test_tensors_that_were_changed_are_not_pushed(flowers, hub):
    next(flowers.glob("*.safetensors")).write_bytes(b"changed")
    with pytest.raises(UsageError, match="nothing was sent"):
        zoo.push(flowers, "hf://me/flowers")
    assert not hub.requests


@pytest.mark.extra
def test_the_command_prints_the_name_with_its_commit(flowers, hub):
    answer = CliRunner().invoke(group, ["push", str(flowers), "hf://me/flowers"])
    assert answer.stdout == f"hf://me/flowers@{hub.repos['me/flowers'][-1][0]}\n", answer.output

"""``zoo verify --outputs``: whether a model still gives what it gave."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

import zoo_core as zoo
from zoo_core.cli.group import zoo as group
from zoo_core.contract.card_file import card_from_record, card_to_record
from zoo_core.errors import NotSupported, UsageError
from zoo_core.prediction.fingerprint import agrees, fingerprint


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path


def run(*args):
    return CliRunner().invoke(group, args)


def test_the_outputs_of_tiny_are_those_of_its_card():
    model = zoo.get("tiny/glyphnet")
    assert agrees(zoo.info("tiny/glyphnet").find().outputs["cpu"], fingerprint(model))
    assert model.training


@pytest.mark.parametrize("change", ["weight", "preprocessing", "nan"])
def test_a_silent_change_shows(change):
    model = zoo.get("tiny/glyphnet")
    expected = fingerprint(model)
    with torch.no_grad():
        if change == "weight":
            model.layer2.conv1.weight[0, 0, 0, 0] += 0.5
        elif change == "nan":
            model.fc.bias[3] = torch.nan
        else:
            old = zoo.preprocessing(model)
            zoo.set_preprocessing(model, zoo.Preprocessing(**{**vars(old), "interpolation": "bicubic"}))
    assert not agrees(expected, fingerprint(model))


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "ssdlite320_mobilenet_v3_large"])
def test_other_kinds_of_models_have_fingerprints(name):
    model = zoo.set_preprocessing(zoo.get(name, weights=None, num_classes=3, seed=0), name)
    assert agrees(fingerprint(model), fingerprint(model))


def test_a_clip_has_none():
    with pytest.raises(NotSupported, match="one image"):
        fingerprint(zoo.get("r3d_18", weights=None, device="meta"))


def test_a_card_keeps_its_outputs_in_a_file():
    card = zoo.info("tiny/glyphnet")
    again = card_from_record(json.loads(json.dumps(card_to_record(card))))
    assert again.find().outputs == card.find().outputs


def test_the_command_compares_with_the_card(project):
    answer = run("verify", "--outputs", "tiny/glyphnet")
    assert (answer.exit_code, answer.stdout) == (0, "tiny/glyphnet@GLYPHS_V1: as expected\n")


def test_a_lock_holds_outputs_on_request_and_the_command_compares(project):
    assert run("lock", "tiny/glyphnet").exit_code == 0
    assert isinstance(run("verify", "--outputs").exception, UsageError)
    assert run("lock", "--outputs", "tiny/glyphnet").exit_code == 0
    assert run("lock").exit_code == 0  # which keeps them
    assert run("verify", "--outputs").stdout == "tiny/glyphnet@GLYPHS_V1: as expected\n"
    text = (project / "zoo.lock").read_text()
    (project / "zoo.lock").write_text(text.replace("outputs = [-2.25", "outputs = [-9.25"))
    answer = run("verify", "--outputs", "--json")
    assert answer.exit_code == 1
    assert [record["good"] for record in json.loads(answer.stdout)] == [False]
    assert "CHANGED" in run("verify", "--outputs").stdout
    (project / "zoo.lock").write_text(text.replace("outputs = [", 'outputs = ["a", '))
    assert "outputs must be a list of numbers" in str(run("verify", "--outputs").exception)

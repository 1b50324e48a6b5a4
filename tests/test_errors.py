from __future__ import annotations

import copy
import pickle

import pytest

from zoo_core import errors
from zoo_core.errors import FetchError, UnknownModel, ZooError
from zoo_core.text import close_matches, did_you_mean

TREE = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, ZooError)]


def test_a_message_tells_what_was_expected_got_done_why_and_what_next():
    error = ZooError("it broke", expected="this", got="that", done="nothing", cause="rain", hint="wait")
    assert str(error).splitlines() == [
        "it broke",
        "  expected: this",
        "  got: that",
        "  done: nothing",
        "  likely cause: rain",
        "  next step: wait",
    ]


def test_the_values_behind_a_message_are_attributes():
    assert ZooError("it broke", tag="V1").tag == "V1"


def test_a_key_error_prints_its_message_and_not_its_repr():
    assert str(UnknownModel("no such model", hint="look")) == "no such model\n  next step: look"


def test_where_this_environment_has_no_pip_the_next_step_is_by_uv(monkeypatch, tmp_path):
    monkeypatch.setattr("zoo_core.text._has_pip", lambda: False)
    monkeypatch.setattr("sys.prefix", str(tmp_path / ".venv"))
    monkeypatch.chdir(tmp_path)
    hint = ZooError("it needs acme", hint="pip install 'acme[all]', or do without").parts["hint"]
    assert hint == "uv pip install 'acme[all]' --python .venv, or do without"


def test_where_this_environment_has_pip_the_next_step_is_by_pip(monkeypatch):
    monkeypatch.setattr("zoo_core.text._has_pip", lambda: True)
    assert ZooError("it needs acme", hint="pip install -U acme").parts["hint"] == "pip install -U acme"


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_is_documented_in_the_tree(kind):
    assert kind.__name__ in errors.__doc__


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_survives_pickle_and_copy(kind):
    error = kind("it broke", hint="wait", path="here")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is kind
        assert str(twin) == str(error)
        assert twin.path == "here"


def test_an_error_is_also_the_builtin_that_a_caller_would_expect():
    assert issubclass(UnknownModel, KeyError)
    assert issubclass(UnknownModel, ValueError)
    assert issubclass(FetchError, OSError)


def test_close_matches_disregard_case():
    assert close_matches("ResNet19", ["resnet18", "vgg16"]) == ("resnet18",)


def test_a_hint_falls_back_when_nothing_is_close():
    assert did_you_mean((), "look elsewhere") == "look elsewhere"

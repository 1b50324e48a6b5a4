"""Models of one's own in the registry of a process: built, saved and brought back without a distribution."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from support.own_models import LeNetDict, Siamese

import zoo_core as zoo
from zoo_core.cli.group import zoo as command
from zoo_core.errors import FamilyUnavailable, UnknownFamily, UnknownModel, UsageError
from zoo_core.plugin import Card, Family
from zoo_core.registry.plugins import Plugin

NAMES = [f"digit {number}" for number in range(10)]


@pytest.fixture(autouse=True)
def _own_zoo():
    with zoo.use(zoo.Zoo(plugins=())):
        yield


def registered(**more):
    return zoo.register("mine/lenet", input_size=(1, 28, 28), class_names=NAMES, **more)(LeNetDict)


def test_a_class_is_built_by_name_with_the_head_that_is_needed():
    assert registered() is LeNetDict
    model = zoo.get("mine/lenet", weights=None, num_classes=9)
    assert type(model) is LeNetDict
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 9)
    assert zoo.list() == ["mine/lenet"]


def test_class_names_hold_as_long_as_the_head_does():
    registered()
    model = zoo.get("mine/lenet", weights=None)
    assert list(zoo.class_names(model)) == NAMES
    assert zoo.class_names(zoo.swap_head(model, 3)) == ()


def test_weights_are_loaded_and_proven(tmp_path):
    torch.manual_seed(1)
    trained = LeNetDict()
    torch.save(trained.state_dict(), tmp_path / "lenet.pth")
    registered(weights=tmp_path / "lenet.pth")
    model = zoo.get("mine/lenet")
    assert torch.equal(model.parts["f5"].weight, trained.parts["f5"].weight)
    assert zoo.receipt(model).strength == "proven"
    assert list(zoo.class_names(model)) == NAMES


def with_a_scripted_part():
    stem = torch.jit.script(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, 2), torch.nn.ReLU()))
    return torch.nn.Sequential(stem, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_model_with_a_scripted_part_comes_back(tmp_path):
    zoo.register("mine/scripted", input_size=(1, 28, 28))(with_a_scripted_part)
    model = zoo.get("mine/scripted", weights=None, seed=0).eval()
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(zoo.load(zoo.save(model, tmp_path / "save")).eval()(x), model(x))


def test_weights_that_are_not_there_are_refused_at_once(tmp_path):
    with pytest.raises(UsageError, match="there are no weights at"):
        registered(weights=tmp_path / "none.pth")


def test_a_saved_one_comes_back_where_it_is_registered(tmp_path):
    registered()
    model = zoo.get("mine/lenet", weights=None, num_classes=9, freeze="backbone", seed=0).eval()
    zoo.save(model, tmp_path / "save")
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(zoo.load(tmp_path / "save")(x), model(x))


def test_a_saved_one_says_what_to_register_where_it_is_not(tmp_path):
    registered()
    zoo.save(zoo.get("mine/lenet", weights=None), tmp_path / "save")
    with (
        zoo.use(zoo.Zoo(plugins=())),
        pytest.raises(UnknownModel, match=r"import support.own_models, or register") as caught,
    ):
        zoo.load(tmp_path / "save")
    assert "support.own_models:LeNetDict" in str(caught.value)
    assert json.loads((tmp_path / "save" / "recipe.json").read_text())["registered"] == "support.own_models:LeNetDict"


def test_a_built_one_is_adopted_by_name_and_saved(tmp_path):
    registered()
    model = zoo.adopt(LeNetDict().eval(), family="mine", name="lenet")
    zoo.save(model, tmp_path / "save")
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(zoo.load(tmp_path / "save")(x), model(x))


def test_a_function_with_an_example_of_several_inputs(tmp_path):
    pair = (torch.zeros(1, 1, 28, 28), torch.zeros(1, 1, 28, 28))
    zoo.register("mine/pair", example=pair, num_classes=1)(lambda: Siamese())  # noqa: PLW0108 - a function, not the class
    model = zoo.get("mine/pair", weights=None, num_classes=4).eval()
    again = zoo.load(zoo.save(model, tmp_path / "save"))
    x = [torch.randn(2, 1, 28, 28) for _ in range(2)]
    assert torch.equal(again(*x), model(*x))


def test_names_that_nobody_can_ask_for_are_refused():
    for name in ("lenet", "mine/a b", "mine/x@y", 3):
        with pytest.raises(UsageError, match="cannot be registered"):
            zoo.register(name)
    with pytest.raises(UsageError, match="cannot be built by"):
        zoo.register("mine/x")(3)


def test_a_class_that_needs_arguments_is_registered_by_a_function():
    zoo.register("mine/linear", example=torch.zeros(2, 8))(torch.nn.Linear)
    with pytest.raises(FamilyUnavailable, match="called without arguments") as caught:
        zoo.get("mine/linear", weights=None)
    assert "register a function that gives them" in str(caught.value)
    zoo.register("mine/linear", example=torch.zeros(2, 8))(lambda: torch.nn.Linear(8, 4))
    assert zoo.get("mine/linear", weights=None)(torch.zeros(1, 8)).shape == (1, 4)


def test_a_family_may_leave_its_anatomy_to_tracing():
    family = Family("acme", catalog="support.own_models:cards")
    with zoo.use(zoo.Zoo(plugins=(Plugin("acme", "acme 1.0", families=(family,)),))):
        model = zoo.get("acme/net", num_classes=3, weights=None)
        assert zoo.anatomy(model).main.num_classes == 3


def test_a_card_can_be_added_to_a_zoo():
    own = zoo.Zoo()
    own.add(Card("tiny", "other", build="support.own_models:LeNetDict", input_size=(1, 28, 28)))
    assert "tiny/other" in own.list(family="tiny")
    with pytest.raises(UsageError, match="cannot be added"):
        own.add("tiny/other")


def test_the_command_line_runs_a_file_of_models(tmp_path):
    file = tmp_path / "my_own_models.py"
    file.write_text("import torch, zoo_core as zoo\nzoo.register('mine/flat')(torch.nn.Flatten)\n")
    result = CliRunner().invoke(command, ["--models", str(file), "list"])
    assert result.output.splitlines() == ["mine/flat"], result.output
    assert CliRunner().invoke(command, ["--models", str(tmp_path / "no.py"), "list"]).exit_code == 2


def test_an_unknown_family_advises_no_distribution_of_that_name():
    with pytest.raises(UnknownFamily, match=r"zoo\.register") as caught:
        zoo.get("whatever/net")
    assert "zoo-whatever" not in str(caught.value)

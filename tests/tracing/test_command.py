"""``zoo trace`` prints what an author can paste."""

from __future__ import annotations

import torch
from click.testing import CliRunner
from support.own_models import LeNetDict

import zoo_core as zoo
from zoo_core.cli.group import zoo as command
from zoo_core.plugin import Anatomy, Chain, Head, Stage, flatten


def test_what_is_printed_makes_the_anatomy_again():
    result = CliRunner().invoke(command, ["trace", "support.own_models:LeNetDict", "--example", "1x1x28x28"])
    names = {"Anatomy": Anatomy, "Chain": Chain, "Head": Head, "Stage": Stage, "flatten": flatten, "tanh": torch.tanh}
    anatomy = eval(result.output, names)
    model = zoo.adopt(LeNetDict().eval(), anatomy=anatomy)
    backbone, head = zoo.split(model)
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(head(backbone(x)), model(x))


def test_what_was_not_proven_is_on_stderr():
    result = CliRunner().invoke(command, ["trace", "support.own_models:AutoEncoder", "--example", "1x1x32x32"])
    assert "ConvTranspose2d" in result.stderr
    assert "head= may be" not in result.stderr  # no layer of it can be proven to be one


def test_a_function_with_more_arguments_is_not_printed_without_them():
    result = CliRunner().invoke(command, ["trace", "support.own_models:LeNetList", "--example", "1x1x28x28"])
    assert "# features: a function (model, x) of your own; its steps are" in result.output


def test_wrong_usage_is_said():
    assert CliRunner().invoke(command, ["trace", "support.own_models:LeNetDict", "--example", "1xa"]).exit_code == 2
    assert (
        "builds no model" in CliRunner().invoke(command, ["trace", "support.own_models:No", "--example", "1x1"]).output
    )

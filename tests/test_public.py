"""The public surface: adding to it is fine, changing it is a decision."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path

import pytest

import zoo_core
from zoo_core import plugin

MODULES = {"errors", "plugin"}
NAMES = sorted({*zoo_core.__all__, *plugin.__all__} - MODULES)


def test_every_public_name_can_be_imported():
    for name in zoo_core.__all__:
        assert getattr(zoo_core, name) is not None


def test_what_authors_import_can_be_imported_from_their_module_and_from_the_package():
    for name in plugin.__all__:
        assert getattr(zoo_core, name) is getattr(plugin, name)


def test_no_module_hides_a_public_name():
    parent = Path(zoo_core.__file__).parent
    modules = {path.stem for path in parent.glob("*.py")} | {path.parent.name for path in parent.glob("*/__init__.py")}
    assert not modules & set(NAMES)


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="attribute nonsense"):
        _ = zoo_core.nonsense


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_documented_with_an_example(name):
    assert doctest.DocTestParser().get_examples(inspect.getdoc(getattr(zoo_core, name)))


def test_no_public_function_swallows_keywords():
    for name in NAMES:
        item = getattr(zoo_core, name)
        if inspect.isfunction(item):
            kinds = [parameter.kind for parameter in inspect.signature(item).parameters.values()]
            assert inspect.Parameter.VAR_KEYWORD not in kinds, name

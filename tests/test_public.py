"""The public surface: adding to it is fine, changing it is a decision."""

from __future__ import annotations

import ast
import doctest
import inspect
from pathlib import Path

import pytest

import zoo_core

INIT = ast.parse(Path(zoo_core.__file__).read_text())


def test_every_public_name_can_be_imported():
    for name in zoo_core.__all__:
        assert getattr(zoo_core, name) is not None


def test_the_lazy_table_the_exports_and_the_type_checkers_imports_agree():
    guarded = next(node for node in INIT.body if isinstance(node, ast.If))
    imported = {
        alias.asname: f"{node.module}:{alias.name}"
        for node in guarded.body
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("zoo_core")
        for alias in node.names
    }
    assert imported == zoo_core._PUBLIC
    assert set(zoo_core.__all__) == set(zoo_core._PUBLIC)


def test_no_module_hides_a_public_name():
    modules = {path.stem for path in Path(zoo_core.__file__).parent.iterdir()}
    assert not modules & set(zoo_core.__all__)


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = zoo_core.nonsense


@pytest.mark.parametrize("name", zoo_core.__all__)
def test_every_public_name_is_documented_with_an_example(name):
    assert doctest.DocTestParser().get_examples(inspect.getdoc(getattr(zoo_core, name)))


def test_no_public_function_swallows_keywords():
    for name in zoo_core.__all__:
        item = getattr(zoo_core, name)
        if inspect.isfunction(item):
            kinds = [parameter.kind for parameter in inspect.signature(item).parameters.values()]
            assert inspect.Parameter.VAR_KEYWORD not in kinds, name

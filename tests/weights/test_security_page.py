"""Every promise of docs/SECURITY.md names a test that exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINKS = re.findall(r"`((?:plugins/[\w-]+/)?tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "SECURITY.md").read_text())


def test_the_page_makes_promises():
    assert len(LINKS) >= 20


@pytest.mark.parametrize(("file", "name"), LINKS)
def test_a_promise_names_a_test_that_exists(file, name):
    tree = ast.parse((ROOT / file).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}

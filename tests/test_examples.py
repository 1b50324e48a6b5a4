"""The examples run, as a reader would run them: from another folder, with warnings as errors."""

from __future__ import annotations

import ast
import doctest
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


EXTRA = {"class_activation_map"}
_OUTPUT = "# Output:\n"


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.extra if path.stem in EXTRA else ()) for path in EXAMPLES],
    ids=lambda path: path.stem,
)
def test_an_example_runs_and_prints_what_it_says(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")  # a process of its own would import torch again, for each of them
    printed = capsys.readouterr().out
    assert printed.strip()
    said = path.read_text().partition(_OUTPUT)[2].replace("# ", "").replace("#\n", "\n")
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert not said or doctest.OutputChecker().check_output(said, printed, flags), printed


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_says_what_it_is_for_and_is_short(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len(text.partition(_OUTPUT)[0].splitlines()) <= 60


def test_there_are_examples():
    assert EXAMPLES

"""The tests and figures for a GPU need nothing that a machine with torch, torchvision and timm has not got."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
THERE = {"torch", "torchvision", "timm", "numpy"}
CARRIED = {"pytest", "hypothesis", "safetensors", "sybil", "zoo_core", "filelock"}
OURS = {"benchmarks", "support"}
FILES = [
    ROOT / "conftest.py",
    *sorted((ROOT / "benchmarks").glob("gpu*.py")),
    *(path for path in sorted((ROOT / "tests").rglob("*.py")) if "mark.gpu" in path.read_text("utf-8")),
]


def imported_at_once(path):
    """Top-level names of the packages that are imported when the file is, and not first when a function is called."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_gpu_runs_imports_only_what_a_bare_machine_has(path):
    assert set(imported_at_once(path)) - THERE - CARRIED - OURS - sys.stdlib_module_names == set()

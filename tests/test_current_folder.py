"""Nothing is imported from the current folder: a checkout may hold a file of any name."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoo_core.registry.reindex import _indexing
from zoo_core.testing.checks.family import check_light

ROOT = Path(__file__).parents[1]
PLANTED = ["torch", "json", "ast", "numpy", "pickle", "struct", "signal", "socket", "tempfile", "click", "rich"]
PLANTED += ["multiprocessing", "requests"]
"""What Python, zoo or its children import."""
SPAWN = """
import multiprocessing, sys, time
sys.argv = ["zoo", "--version"]
from zoo_core.cli import main
if __name__ == "__main__":
    try:
        main()
    except SystemExit:
        pass
    worker = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(0,))
    worker.start()
    worker.join()
    sys.exit(worker.exitcode)
"""
COMMANDS = {
    "zoo": ["-P", "-c", "from zoo_core.cli import main; main()", "list", "tiny/*"],
    "the package": ["-m", "zoo_core", "list", "tiny/*"],
    "the command line": ["-m", "zoo_core.cli", "config"],
    "a new plugin": ["-m", "zoo_core", "plugin", "new", "acme"],
    "completion": ["-m", "zoo_core", "get", "tiny/glyphnet"],
    "a worker": ["-P", "-c", SPAWN],
}


@pytest.fixture
def planted(tmp_path):
    """A folder full of modules, each of which would leave a mark."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in PLANTED:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'a').write('{name} ')\n")
    return folder


def marks(folder):
    mark = folder.parent / "mark"
    return mark.read_text() if mark.exists() else ""


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_imports_what_the_current_folder_holds(name, planted):
    words = {"COMP_WORDS": "zoo get tin", "COMP_CWORD": "2", "_ZOO_COMPLETE": "bash_complete"}
    environment = {**os.environ, **(words if name == "completion" else {})}
    environment.pop("PYTHONSAFEPATH", None)
    command = [sys.executable, *COMMANDS[name]]
    done = subprocess.run(command, cwd=planted, env=environment, capture_output=True, text=True, check=False)
    assert marks(planted) == "", done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("entry", ["", "."], ids=["interactive", "named"])
def test_no_child_imports_what_the_current_folder_holds(entry, planted, monkeypatch):
    monkeypatch.chdir(planted)
    monkeypatch.setattr(sys, "path", [entry and str(planted), *sys.path])
    assert _indexing("zoo_tiny.catalog:cards", planted.parent / "cards.jsonl") == ""
    check_light("tiny")
    assert marks(planted) == ""


def test_every_python_that_is_started_has_no_current_folder_on_its_path():
    sources = [*(ROOT / "zoo_core").rglob("*.py"), *(ROOT / "plugins").glob("*/zoo_*/**/*.py")]
    texts = [text for source in sources if "sys.executable" in (text := source.read_text(encoding="utf-8"))]
    nodes = [node for text in texts for node in ast.walk(ast.parse(text))]
    lists = [node.elts for node in nodes if isinstance(node, ast.List) and len(node.elts) > 1]
    options = [ast.unparse(words[1]) for words in lists if ast.unparse(words[0]) == "sys.executable"]
    assert len(options) >= 2
    assert set(options) == {"'-P'"}

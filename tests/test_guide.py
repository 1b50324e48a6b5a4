"""The author's guide: the plugin that it shows is put together from its own files, and keeps every promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support import reference

from zoo_core.cli.check import check
from zoo_core.testing import CHECKS
from zoo_core.testing.checks.family import FAMILY_CHECKS
from zoo_core.testing.choosing import short_name

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r'^```\w+ title="([^"\n]+)"\n(.*?)^```$', TEXT, re.MULTILINE | re.DOTALL))
SOURCE = [name for name in FILES if name.startswith("zoo_acme/")]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """The guide's files in a folder, visible as an editable installation is."""
    folder = tmp_path_factory.mktemp("guide")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(content, encoding="utf-8")
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    info = folder / "zoo_acme-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    (info / "entry_points.txt").write_text(f"[zoo_core]\nacme = {project['entry-points']['zoo_core']['acme']}\n")
    return folder


def run(folder, *command):
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_plugin_of_the_guide_passes_the_kit(plugin):
    answer = run(plugin, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert re.search(r"^\d\d passed", answer.stdout, re.MULTILINE), answer.stdout


def test_what_the_guide_says_of_output_objects_is_so(plugin):
    code = """
import torch, zoo_core as zoo
x = torch.randn(2, 3, 64, 64)
model = zoo.get("acme/net8", weights=None, num_classes=9).eval()
assert model(x, labels=torch.tensor([0, 8])).loss.isfinite() and model.config.num_labels == 9
backbone, head = zoo.split(model)
assert torch.equal(head(backbone(x)), model(x).logits)
assert torch.equal(zoo.anatomy(model).scores_in(model(x)), model(x).logits)
assert set(zoo.swap_head(model, {"colour": 3, "shape": 5})(x).logits) == {"colour", "shape"}
assert zoo.swap_head(model, 4, at="features")(x).shape[:2] == (2, 4)
model = zoo.branch(zoo.get("acme/net8", weights=None).eval(), at="block1", heads={"colour": 3, "shape": 5})
assert {name: tuple(scores.shape) for name, scores in model(x).items()} == {"colour": (2, 3), "shape": (2, 5)}
"""
    answer = run(plugin, "-W", "error", "-c", code)
    assert answer.returncode == 0, answer.stderr


def test_the_plugin_of_the_guide_takes_under_sixty_lines():
    lines = [line for name in SOURCE for line in FILES[name].splitlines() if line.strip()]
    assert len(lines) < 60
    assert len(FILES["tests/test_conformance.py"].splitlines()) <= 8


def test_the_plugin_of_the_guide_imports_public_names_only():
    assert set(re.findall(r"(?:from|import) (zoo_core[\w.]*)", "".join(FILES.values()))) == {
        "zoo_core.plugin",
        "zoo_core.testing",
    }


def test_its_files_pass_lint(plugin):
    answer = run(plugin, "-m", "ruff", "check", "--no-cache", "--isolated", "--line-length", "120", "zoo_acme", "tests")
    assert answer.returncode == 0, answer.stdout


@pytest.mark.parametrize(
    "name", [short_name(each) for each in (*FAMILY_CHECKS, *CHECKS) if "exceptions" not in str(each)]
)
def test_every_check_is_in_the_table_of_checks(name):
    assert f"`{name}`" in TEXT


@pytest.mark.parametrize("option", ["--markdown"])
def test_every_option_of_zoo_check_that_is_named_is_there(option):
    assert option in {name for each in check.params for name in each.opts}


def test_the_reference_is_what_the_docstrings_say():
    written = TEXT[TEXT.index(reference.BEGIN) :]
    assert written == reference.reference(), "docs/plugins.md is out of date: run python tests/support/reference.py"


@pytest.mark.parametrize("place", sorted(set(re.findall(r"\]\((\.\./[^)#]+)\)", TEXT))))
def test_every_file_that_the_guide_points_to_is_there(place):
    assert (ROOT / "docs" / place).exists()


def test_every_default_in_the_reference_is_whole():
    cells = re.findall(r"^\| `\w+` \| `[^|]*(?:\\\|[^|]*)*` \| (`.*?`) \|", reference.reference(), re.MULTILINE)
    assert "`Preprocessing()`" in cells
    for cell in cells:
        compile(cell.strip("`"), "a default", "eval")

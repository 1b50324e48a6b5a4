"""What is built and published: metadata, the recipe for conda, and the command that cuts a release."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECTS = [ROOT, *(path.parent for path in sorted(ROOT.glob("plugins/*/pyproject.toml")))]
RELEASE = ROOT / ".ci" / "release.py"
CONDA = {"torch": "pytorch"}
"""Names of distributions that conda-forge spells in another way."""

pytestmark = pytest.mark.skipif(not RELEASE.exists(), reason="this is a source distribution, and not a checkout")


def project(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("folder", PROJECTS, ids=lambda folder: folder.name)
def test_every_distribution_says_which_pythons_it_is_for(folder):
    found = re.findall(r"Python :: (3\.\d+)$", "\n".join(project(folder)["classifiers"]), re.MULTILINE)
    assert found == ["3.11", "3.12", "3.13", "3.14"]
    assert project(folder)["requires-python"] == ">=3.11"
    assert all((package / "py.typed").exists() for package in folder.glob("zoo_*/"))


def test_a_readme_outside_the_tree_has_absolute_links_or_none():
    pytest.importorskip("hatchling")
    readme = runpy.run_path(str(ROOT / ".ci" / "hatch_build.py"))["readme"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    hosted = readme(text, "https://example.org/zoo", "1.2.0")
    assert "https://example.org/zoo/blob/v1.2.0/docs/SECURITY.md" in hosted
    assert "![" in hosted
    assert "https://example.org/zoo/raw/v1.2.0/docs/demo.png" in hosted
    nowhere = readme(text, None, "1.2.0")
    assert "](" in text
    assert not [link for link in re.findall(r"\]\(([^)]+)\)", nowhere) if not re.match("[a-z]+:|#", link)]


@pytest.mark.parametrize("page", sorted(ROOT.glob("plugins/*/README.md")), ids=lambda page: page.parent.name)
def test_the_readme_of_a_plugin_links_to_no_file(page):
    links = re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    assert all(re.match("https?:|#", link) for link in links)


def test_the_conda_recipe_is_what_the_projects_say():
    yaml = pytest.importorskip("yaml")
    recipe = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["context"]["version"] == project(ROOT / "plugins" / "zoo-tiny")["version"]
    for output in recipe["outputs"]:
        name = output["package"]["name"]
        said = project(ROOT if name == "zoo-core" else ROOT / "plugins" / name)
        names = (re.fullmatch(r"([\w-]+)(.*)", line).groups() for line in said["dependencies"])
        needs = {f"{CONDA.get(name, name)} {versions}".strip() for name, versions in names}
        assert {*output["requirements"]["run"]} == {f"python {said['requires-python']}", *needs}
        for script, target in said.get("scripts", {}).items():
            assert output["build"]["python"]["entry_points"] == [f"{script} = {target}"]
    assert recipe["about"]["license"] == project(ROOT)["license"]


@pytest.mark.extra
def test_the_builder_of_conda_reads_the_recipe():
    rattler = pytest.importorskip("rattler_build")
    recipe = rattler.Stage0Recipe.from_file(str(ROOT / "conda" / "recipe.yaml"))
    packages = [each.recipe.package for each in recipe.render(rattler.VariantConfig())]
    assert [str(each.name) for each in packages] == ["zoo-core", "zoo-tiny", "zoo-torchvision"]


@pytest.fixture
def checkout(tmp_path):
    """A repository with the files in which versions stand."""
    release = runpy.run_path(str(RELEASE))
    for path in [*release["files_of"](ROOT), ROOT / "CHANGELOG.md"]:
        to = tmp_path / path.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    text = "# Changelog\n\n## Unreleased\n\n### Added\n\n- A thing.\n\n## 0.1.0 (2026-11-28)\n\nThe first.\n"
    (tmp_path / "CHANGELOG.md").write_text(text)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "config", "user.name", "A test")
    git(tmp_path, "config", "user.email", "test@example.org")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "Begin")
    return tmp_path


def git(folder, *words):
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def cut(folder, version):
    command = [sys.executable, str(RELEASE), version, "--root", str(folder), "--no-build"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_one_command_cuts_a_release(checkout):
    answer = cut(checkout, "0.2.0")
    assert answer.returncode == 0, answer.stderr
    assert git(checkout, "tag") == "v0.2.0\n"
    assert git(checkout, "status", "--porcelain") == ""
    assert '__version__ = "0.2.0"' in (checkout / "zoo_core" / "__init__.py").read_text()
    assert "version: 0.2.0" in (checkout / "CITATION.cff").read_text()
    for path in checkout.glob("plugins/*/pyproject.toml"):
        said = project(path.parent)
        assert said["version"] == "0.2.0"
        assert any(re.fullmatch(r"zoo-core(\[[\w,]+\])?>=0\.2,<0\.3", line) for line in said["dependencies"])
    text = (checkout / "CHANGELOG.md").read_text()
    assert re.search(r"## Unreleased\n\n## 0\.2\.0 \(\d{4}-\d\d-\d\d\)\n\n### Added\n\n- A thing\.\n\n## 0\.1\.0", text)
    assert cut(checkout, "0.3.0").returncode  # nothing has changed since


@pytest.mark.parametrize(("version", "words"), [("v1", "is no version"), ("1.2", "is no version")])
def test_what_is_no_version_changes_nothing(checkout, version, words):
    answer = cut(checkout, version)
    assert words in answer.stderr
    assert git(checkout, "status", "--porcelain") == ""


def test_a_tree_with_changes_is_no_release(checkout):
    (checkout / "CITATION.cff").write_text("x")
    assert "commit them first" in cut(checkout, "0.2.0").stderr


def test_no_message_advises_to_install_what_is_not_published():
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/README.md")]
    code = [*ROOT.glob("zoo_core/**/*.py"), *ROOT.glob("plugins/*/zoo_*/**/*.py")]
    for path in [*pages, *code, *ROOT.glob("examples/third-party/*/README.md")]:
        for line in re.findall(r"pip install ([^`\"\n#]+)", path.read_text(encoding="utf-8")):
            names = [word.strip("',;.") for word in line.split()]
            assert not [name for name in names if re.fullmatch(r"zoo-[\w-]+", name)], f"{path}: {line}"


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml")), ids=lambda path: path.stem)
def test_a_form_for_issues_has_what_a_form_needs(path):
    form = pytest.importorskip("yaml").safe_load(path.read_text(encoding="utf-8"))
    assert form["name"]
    assert form["description"]
    assert all(field["attributes"]["label"] for field in form["body"])

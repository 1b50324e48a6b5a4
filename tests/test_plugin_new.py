"""``zoo plugin new``: what it writes is generated, installed and checked for real."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version

import pytest
from click.testing import CliRunner

from zoo_core.cli.group import zoo as commands
from zoo_core.cli.write_plugin import traced_cards, write_plugin
from zoo_core.errors import UsageError, ZooError

NAMES = ["acme", "acme-nets", "nets_2", "3d", "class", "import-as-2"]


def run(folder, *command):
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def zoo(folder, *command):
    return run(folder, "-m", "zoo_core.cli", *command)


def installed(folder):
    """Make the entry point of a distribution visible, as an editable installation does: by its dist-info."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"{name} = {value}\n" for name, value in project["entry-points"]["zoo_core"].items()]
    (info / "entry_points.txt").write_text("[zoo_core]\n" + "".join(lines))
    return folder


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    return installed(write_plugin("acme-nets", directory=tmp_path_factory.mktemp("new")))


def test_its_family_is_there(plugin):
    answer = run(plugin, "-m", "zoo_core.cli", "list", "--family", "acme_nets")
    assert answer.stdout == "acme_nets/toynet\n", answer.stderr


def test_its_own_tests_pass(plugin):
    answer = run(plugin, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert " passed" in answer.stdout
    assert "failed" not in answer.stdout


MODELS = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self, classes, sizes=(2, 2)):
        first, last = sizes
        stage = nn.Sequential(nn.Conv2d(first, last, 3, 2), nn.ReLU())
        pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        super().__init__(nn.Conv2d(1, first, 3, 2), nn.BatchNorm2d(first), stage, *pool, nn.Linear(last, classes))
"""


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    directory = tmp_path_factory.mktemp("traced")
    (directory / "acme_models.py").write_text(MODELS)
    models = ("--models", "acme_models:Net(classes=5, sizes=(4, 8))", "--input-size", "1x32x32")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.syspath_prepend(directory)
        answer = CliRunner().invoke(commands, ["plugin", "new", "acme", *models])
        del sys.modules["acme_models"]  # which was imported for its models
    assert answer.exit_code == 0, answer.stderr
    assert "acme/net: head 5; stages 8 at 4" in answer.stderr
    return installed(directory / "zoo-acme"), directory


def test_models_of_a_library_make_a_plugin_whose_kit_passes(traced, monkeypatch):
    folder, directory = traced
    monkeypatch.setenv("PYTHONPATH", str(directory))
    answer = zoo(folder, "check", "acme")
    assert "acme: 1 of its 1 models checked, 0 failed" in answer.stdout, answer.stdout + answer.stderr


def test_a_plugin_whose_anatomy_is_traced_is_under_thirty_lines(traced):
    folder, _ = traced
    assert sum(len(path.read_text().splitlines()) for path in folder.glob("zoo_acme/*.py")) < 30
    for command in (["check"], ["format", "--check"]):
        assert run(folder, "-m", "ruff", *command, "--no-cache", ".").returncode == 0


def test_a_library_that_needs_another_is_no_reason_to_write_a_function(tmp_path, monkeypatch):
    (tmp_path / "lacking.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZooError, match="install what its library needs"):
        traced_cards("acme", "lacking:Net", (3, 64, 64))


def test_a_classifier_whose_head_is_a_convolution_is_no_segmenter():
    (card,) = traced_cards("acme", "torchvision.models:squeezenet1_1", (3, 64, 64))
    assert (card.task, card.num_classes) == ("classification", 1000)


def test_models_of_one_class_with_other_arguments_have_names_of_their_own():
    models = ", ".join(f"torch.nn:Conv2d(kernel_size=(3, 3), in_channels=1, out_channels={width})" for width in (2, 4))
    one, two = traced_cards("acme", models, (1, 8, 8))
    assert (one.name, two.name) == ("conv2d", "conv2d-2")
    assert two.options == {"in_channels": 1, "out_channels": 4, "kernel_size": [3, 3]}


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("json:dumps", "json:dumps builds no model"),
        ("json:dumps(obj=)", r"json:dumps\(obj=\) is not read"),
        ("json:dumps(1)", r"json:dumps\(1\) is not read"),
        ("json:dumps(obj=open('x'))", "is not read"),
        ("json:dumps(**{'obj': 1})", "is not read"),
        ("json:dumps(obj={1, 2})", "is not read"),
        ("json.dumps", "json.dumps is not read"),
    ],
)
def test_what_builds_no_model_is_refused_before_anything_is_written(models, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZooError, match=f"--models: .*{message}"):
        CliRunner().invoke(commands, ["plugin", "new", "acme", "--models", models], catch_exceptions=False)
    assert not [*tmp_path.iterdir()]


def test_a_model_that_takes_no_images_of_that_size_is_named_with_the_option_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = ("--models", "torchvision.models:alexnet", "--input-size", "3x16x16")
    with pytest.raises(ZooError, match=r"--models: torchvision.models:alexnet: this AlexNet does not run") as raised:
        CliRunner().invoke(commands, ["plugin", "new", "acme", *models], catch_exceptions=False)
    assert "--input-size gives the size" in str(raised.value)


def test_the_guide_is_printed_for_those_who_have_only_the_wheel(tmp_path):
    answer = zoo(tmp_path, "plugin", "guide")
    assert answer.stdout.startswith("# A family of your own"), answer.stderr


@pytest.fixture(scope="class")
def mypy(tmp_path_factory):
    cache = tmp_path_factory.mktemp("mypy")  # it reads torch once
    return lambda folder: run(folder, "-m", "mypy", "--cache-dir", cache, "--follow-imports", "silent")


@pytest.mark.full
class TestTypes:  # a class, for --dist loadscope gives it to one worker
    def test_it_passes_strict_types(self, plugin, mypy):
        answer = mypy(plugin)
        assert answer.returncode == 0, answer.stdout

    def test_what_is_written_for_a_library_passes_strict_types(self, tmp_path, mypy):
        answer = mypy(write_plugin("acme", library="efficientnet-pytorch", directory=tmp_path))
        assert answer.returncode == 0, answer.stdout


@pytest.mark.parametrize("name", NAMES)
def test_any_name_passes_lint_and_imports(name, tmp_path):
    folder = write_plugin(name, directory=tmp_path)
    for command in (["check"], ["format", "--check"]):
        answer = run(folder, "-m", "ruff", *command, "--no-cache", ".")
        assert answer.returncode == 0, answer.stdout
    [package] = [path.parent.name for path in folder.glob("*/__init__.py")]
    family = package.removeprefix("zoo_")
    answer = run(folder, "-c", f"import {package} as p; print(p.zoo_families()[0].name)")
    assert answer.stdout == f"{family}\n", answer.stderr


def test_a_library_is_required_and_installed(tmp_path):
    folder = write_plugin("acme", library="Acme-Models", directory=tmp_path)
    assert tomllib.loads((folder / "pyproject.toml").read_text())["project"]["dependencies"] == [
        "zoo-core>=0.1,<0.2",
        "Acme-Models",
    ]
    hook = (folder / "zoo_acme" / "__init__.py").read_text()
    assert 'requires="Acme-Models"' in hook
    assert 'tested=""' in hook


@pytest.mark.full
def test_what_is_written_for_a_library_that_is_installed_passes_lint_and_the_kit(tmp_path):
    folder = installed(write_plugin("acme", library="efficientnet-pytorch", directory=tmp_path))
    for command in (["check"], ["format", "--check"]):
        assert run(folder, "-m", "ruff", *command, "--no-cache", ".").returncode == 0
    answer = run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    row = next(row for row in json.loads(zoo(folder, "plugins", "--json").stdout) if row["name"] == "acme")
    assert (row["problems"], row["notes"]) == ([], [])


def test_the_version_of_the_library_that_is_installed_is_the_one_that_was_tested(tmp_path):
    folder = write_plugin("acme", library="efficientnet-pytorch", directory=tmp_path)
    assert f'tested="=={version("efficientnet-pytorch")}"' in (folder / "zoo_acme" / "__init__.py").read_text()


@pytest.mark.parametrize(
    "name", ["Acme", "", "-acme", "acme-", "a--b", "a b", "acme/nets", "../acme", "acme.nets", "é", "a" * 41]
)
def test_a_name_that_cannot_be_a_package_is_refused(name, tmp_path):
    with pytest.raises(UsageError, match="cannot be called"):
        write_plugin(name, directory=tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("zoo-acme", "zoo plugin new acme"),
        ("core", "zoo-core is a distribution of zoo itself"),
        ("timm", "zoo-timm is a distribution of zoo itself"),
        ("tiny", "zoo-tiny is a distribution of zoo itself"),
    ],
)
def test_a_name_that_somebody_has_is_refused_with_the_reason(name, reason, tmp_path):
    with pytest.raises(UsageError, match=reason):
        write_plugin(name, directory=tmp_path)


def test_a_library_with_a_version_is_refused(tmp_path):
    with pytest.raises(UsageError, match="without a version"):
        write_plugin("acme", library="acme-models>=2", directory=tmp_path)


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "zoo-acme").mkdir()
    with pytest.raises(UsageError, match="is there already"):
        write_plugin("acme", directory=tmp_path)
    assert not [*(tmp_path / "zoo-acme").iterdir()]


@pytest.mark.parametrize(
    ("pip", "expected"),
    [
        (True, r"pip install -e {0} pytest && pytest {0}\n"),
        (False, r"uv pip install -e {0} --python \S+ pytest && uv run pytest {0}\n"),
    ],
)
def test_the_command_says_what_comes_next(tmp_path, monkeypatch, pip, expected):
    monkeypatch.setattr("zoo_core.text._has_pip", lambda: pip)
    command = ["plugin", "new", "acme", "--directory", str(tmp_path)]
    said = CliRunner().invoke(commands, command).stdout
    assert re.search(rf"^  {expected.format(re.escape(str(tmp_path / 'zoo-acme')))}", said, re.MULTILINE)


def test_the_command_leaves_a_folder_that_is_there_alone(tmp_path):
    (tmp_path / "zoo-acme").mkdir()
    answer = run(tmp_path, "-m", "zoo_core.cli", "plugin", "new", "acme")
    assert answer.returncode == 2
    assert answer.stderr.startswith("zoo: zoo-acme is there already")


def test_a_plugin_that_is_installed_from_the_current_folder_passes_the_kit(plugin, monkeypatch):
    from zoo_core.testing.checks import family

    monkeypatch.setattr(family, "import_path", lambda: [each for each in sys.path if each and each != str(plugin)])
    monkeypatch.setenv("PYTHONPATH", str(plugin))  # where an editable installation has a .pth file
    monkeypatch.syspath_prepend(str(plugin))
    monkeypatch.chdir(plugin)
    import zoo_core as zoo

    with zoo.use(zoo.Zoo()):
        family.check_light("acme_nets")

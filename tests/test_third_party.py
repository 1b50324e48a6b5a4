"""Plugins from outside the workspace: built, installed beside the built zoo-core in fresh environments, and used."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.loopback import Server, sha256, status

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "third-party"
PLUGINS = {
    "zoo-transformers": "transformers/deit-tiny-distilled-patch16-224",
    "zoo-segmentation-models": "segmentation_models/resnet18",
    "zoo-monai": "monai/densenet121",
    "zoo-open-clip": "open_clip/PE-Core-T-16-384",
    "zoo-torchaudio": "torchaudio/wav2letter",
}
"""Each example to a model of its family."""
WITHOUT_WEIGHTS = {"zoo-monai", "zoo-torchaudio"}
VERSIONS = (
    "monai==1.6.1",
    "open-clip-torch==3.3.0",
    "segmentation-models-pytorch==0.6.0",
    "torchaudio==2.11.1",
    "transformers==5.23.0",
)
"""The libraries that the examples were tested with; everything else is what this workspace pins."""


WRITE_FILE = """
import json, sys
import zoo_core as zoo
from safetensors.torch import save_file

state = zoo.get(sys.argv[1], weights=None, seed=1).state_dict()
save_file({name: tensor.contiguous() for name, tensor in state.items()}, "model.safetensors")
print(json.dumps({"url": zoo.info(sys.argv[1]).find().urls[0], "tensors": len(state)}))
"""
"""Writes a file that could be the weights of a model, and says where the plugin looks for these."""


def source_of(plugin):
    return {path: path.read_text() for path in sorted((FOLDER / plugin).glob("zoo_*/*.py"))}


def test_every_example_is_tested():
    examples = {path.name for path in FOLDER.iterdir() if path.is_dir()}
    assert examples == set(PLUGINS) == {each.plugin for each in Outside.__subclasses__()}


@pytest.mark.parametrize("plugin", PLUGINS)
def test_an_example_uses_public_names_only(plugin):
    used = set(re.findall(r"^\s*(?:from|import) (zoo_core[\w.]*)", "".join(source_of(plugin).values()), re.MULTILINE))
    assert used <= {"zoo_core", "zoo_core.plugin"}


@pytest.mark.parametrize("plugin", PLUGINS)
def test_an_example_says_which_versions_it_was_tested_with(plugin):
    assert re.search(r'tested=">=[\d.]+,<[\d.]+"', "".join(source_of(plugin).values()))


ARCHITECTURES = {
    "zoo-transformers": 4,
    "zoo-segmentation-models": 26,
    "zoo-monai": 4,
    "zoo-open-clip": 3,
    "zoo-torchaudio": 2,
}
"""How many layouts each example describes; the plugin of the guide, which has one, is held to 60 lines as a whole."""


@pytest.mark.parametrize("plugin", PLUGINS)
def test_an_example_takes_under_sixty_lines_an_architecture_and_few_in_all(plugin):
    code = re.sub(r'""".*?"""', "", "".join(source_of(plugin).values()), flags=re.DOTALL)
    lines = len([line for line in code.splitlines() if line.strip()])
    assert lines / ARCHITECTURES[plugin] < 60
    assert lines <= 200


class Environment:
    """A fresh virtual environment that knows the built wheels and nothing of this checkout."""

    def __init__(self, plugin, folder):
        self.folder = folder
        self.python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["constraint-dependencies"]
        (folder / "constraints.txt").write_text("\n".join([*pins, *VERSIONS]))
        for source in (ROOT, FOLDER / plugin):
            self._uv("build", "--wheel", "--out-dir", folder / "dist", source)
        self._uv("venv", folder / "venv")
        wheels = sorted((folder / "dist").glob("*.whl"))
        self._uv(
            *("pip", "install", "--python", self.python, "--constraint", folder / "constraints.txt"),
            *(*wheels, "pytest", "torchvision"),
        )
        shutil.copytree(FOLDER / plugin / "tests", folder / "tests")

    def _uv(self, *command):
        done = subprocess.run(["uv", "--quiet", *map(str, command)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def run(self, *command, **settings):
        """Run a module of the environment outside the checkout."""
        return self.python_with("-m", *command, **settings)

    def python_with(self, *arguments, **settings):
        """Run its python, with environment variables of our own."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        return subprocess.run(
            [self.python, *arguments], cwd=self.folder, env=own | settings, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="class")
def environment(request, tmp_path_factory):
    environment = Environment(request.cls.plugin, tmp_path_factory.mktemp("outside"))
    environment.plugin = request.cls.plugin
    yield environment
    shutil.rmtree(environment.folder / "venv")


@pytest.mark.full
@pytest.mark.timeout(600)
class Outside:
    """What holds of each: a class each, all of whose tests ``--dist loadscope`` gives to one worker and environment."""

    def test_its_own_tests_pass(self, environment):
        answer = environment.run("pytest", "-q", "-p", "no:cacheprovider", "tests")
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert re.search(r"^\d+ passed", answer.stdout, re.MULTILINE), answer.stdout

    def test_zoo_finds_nothing_wrong_with_it(self, environment):
        rows = json.loads(environment.run("zoo_core.cli", "plugins", "--json").stdout)
        assert [row["origin"] for row in rows] == [f"{environment.plugin} 0.1.0"]
        assert not rows[0]["problems"]
        assert not rows[0]["notes"]

    def test_zoo_get_builds_a_model_of_it(self, environment):
        name = PLUGINS[environment.plugin]
        answer = environment.run("zoo_core.cli", "get", name, "--weights", "none", "--json")
        assert answer.returncode == 0, answer.stderr
        assert json.loads(answer.stdout)["model"] == name

    def test_zoo_get_fetches_and_proves_and_loads_weights_of_it(self, environment, tmp_path):
        if environment.plugin in WITHOUT_WEIGHTS:
            pytest.skip("its cards have no weights")
        name = PLUGINS[environment.plugin]
        written = environment.python_with("-c", WRITE_FILE, name)
        assert written.returncode == 0, written.stderr
        facts, data = json.loads(written.stdout), (environment.folder / "model.safetensors").read_bytes()
        digest = sha256(data)
        server = Server()
        try:
            blob = server.put(f"/blobs/{digest}", data)
            server.always[urlsplit(facts["url"]).path] = status(302, Location=blob, X_Linked_Etag=f'"{digest}"')
            settings = {"HF_ENDPOINT": server.url(""), "ZOO_CACHE": str(tmp_path)}
            answer = environment.run("zoo_core.cli", "get", name, "--json", **settings)
        finally:
            server.close()
        assert answer.returncode == 0, answer.stderr
        got = json.loads(answer.stdout)
        assert (got["model"], got["sha256"], got["strength"]) == (name, digest, "declared")
        assert got["receipt"] == {"loaded": facts["tensors"]}

    def test_it_runs_without_the_checkout(self, environment):
        code = "import zoo_core, sys; sys.exit(not zoo_core.__file__.startswith(sys.prefix))"
        assert subprocess.run([environment.python, "-c", code], cwd=environment.folder, check=False).returncode == 0


class TestSegmentationModels(Outside):  # the slowest first
    plugin = "zoo-segmentation-models"


class TestOpenClip(Outside):
    plugin = "zoo-open-clip"


class TestTransformers(Outside):
    plugin = "zoo-transformers"


class TestMonai(Outside):
    plugin = "zoo-monai"


class TestTorchaudio(Outside):
    plugin = "zoo-torchaudio"

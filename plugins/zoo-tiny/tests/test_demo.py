import importlib.util
import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image
from zoo_tiny.demo import command as module
from zoo_tiny.demo.command import MODEL, demo

import zoo_core as zoo
from zoo_core.errors import ZooError


def runner(folder, patch):
    """Runs the demo in an empty folder with an empty cache, and without a network."""

    def refuse(*address):
        raise OSError(f"the demo tried to reach {address}")

    patch.setattr(socket.socket, "connect", refuse)
    patch.setattr(socket, "getaddrinfo", refuse)
    patch.setenv("ZOO_CACHE", str(folder / "cache"))
    patch.chdir(folder)
    return lambda *arguments: CliRunner().invoke(demo, arguments)


@pytest.fixture
def run(tmp_path, monkeypatch):
    return runner(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """The folder of a run without options but ``--json``, and its figures."""
    folder = tmp_path_factory.mktemp("usual")
    with pytest.MonkeyPatch.context() as patch:
        result = runner(folder, patch)("--json")
    assert result.exit_code == 0, result.output
    return folder, json.loads(result.stdout)


def test_the_pretrained_backbone_is_well_ahead_of_the_random_one(usual):
    accuracy = usual[1]["accuracy"]
    assert accuracy["pretrained"] > 93
    assert accuracy["pretrained"] > accuracy["random"] + 10


def test_the_random_backbone_is_no_straw_man(usual):
    # Chance is 11 %; a linear layer on the pixels themselves, which keeps where they are, gets about 90 %.
    assert usual[1]["accuracy"]["random"] > 65


def test_the_json_states_what_was_done(run, usual):
    figures = json.loads(run("--json", "--epochs", "2", "--seed", "5", "--output", "other.png").stdout)
    assert figures["model"] == MODEL
    assert figures["sha256"] == zoo.info(MODEL).find().sha256
    assert figures["strength"] == "proven"
    assert (figures["labelled"], figures["held_out"]) == (90, 1529)
    assert (figures["epochs"], figures["seed"]) == (2, 5)
    assert [len(curve) for curve in figures["curves"].values()] == [3, 3]
    assert figures["curves"]["pretrained"][-1] == pytest.approx(figures["accuracy"]["pretrained"], abs=0.1)
    assert figures["image"] == "other.png"
    assert figures["curves"] != {name: curve[:3] for name, curve in usual[1]["curves"].items()}


def test_the_same_seed_gives_the_same_figures(run, usual):
    again = json.loads(run("--json", "--epochs", "2").stdout)
    assert again["curves"] == {name: curve[:3] for name, curve in usual[1]["curves"].items()}


def test_the_image_shows_two_curves_in_their_colours(usual):
    with Image.open(usual[0] / "zoo-demo.png") as image:
        assert image.format == "PNG"
        assert image.width > 1000
        left = image.convert("RGB").crop((0, 0, image.width // 2, image.height))
        colors = {color for _, color in left.getcolors(maxcolors=1 << 20)}
    assert {(0x0B, 0x5C, 0xAD), (0xC0, 0x5A, 0x00)} <= colors


def test_people_are_told_both_accuracies_and_where_the_image_is(run):
    result = run("--epochs", "1")
    assert "pretrained" in result.stdout
    assert "random" in result.stdout
    assert "proven" in result.stdout
    assert "zoo-demo.png" in result.stdout
    assert "1/1 epochs" in result.stderr


def test_the_trained_model_is_saved_loaded_used_and_looked_into(usual, monkeypatch):
    folder, figures = usual
    run = runner(folder, monkeypatch)
    right = sum(a == b for a, b in zip(figures["truth"], figures["predicted"], strict=True))
    assert right >= 7
    assert zoo.class_names(zoo.load(figures["saved"])) == tuple("123456789")
    assert "77,689 parameters" in Path(figures["report"]).read_text()
    with Image.open(figures["cam"]) as image:
        assert min(image.size) >= 160
    assert json.loads(run("--json", "--epochs", "1").stdout)["saved"] == str(Path("zoo-demo", "model-2"))


def test_the_weights_come_through_the_cache(usual):
    weights = zoo.info(MODEL).find()
    assert [file.name for file in (usual[0] / "cache").rglob("*.safetensors")] == [weights.file_name]


def test_a_missing_library_is_one_clear_error_with_the_install_command(run, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "sklearn" else find_spec(name))
    result = run()
    assert isinstance(result.exception, ZooError)
    assert "scikit-learn" in str(result.exception)
    assert "pip install 'zoo-tiny[demo]'" in str(result.exception)


def test_a_folder_that_is_not_there_is_a_usage_error_before_any_work(run, tmp_path):
    result = run("--output", "nowhere/image.png")
    assert result.exit_code == 2
    assert "nowhere" in result.stderr
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which no file can be made")
def test_an_image_that_cannot_be_written_is_one_clear_error_before_any_work(run, tmp_path):
    result = run("--output", "/proc/image.png")
    assert isinstance(result.exception, ZooError)
    assert "the image cannot be written to /proc/image.png" in str(result.exception)
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_fills_up_while_the_image_is_written_is_one_clear_error(run):
    result = run("--output", "/dev/full", "--epochs", "1")
    assert isinstance(result.exception, ZooError)
    assert "No space left on device" in str(result.exception)


@pytest.mark.parametrize("arguments", [("--epochs", "0"), ("--seed", "-1"), ("--epochs", "many")])
def test_impossible_numbers_are_usage_errors(run, arguments):
    assert run(*arguments).exit_code == 2

"""Files that a user names: whole, or as they were, on a full disk; links are replaced, and devices written to."""

import errno
import os
import resource

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import zoo_core as zoo
from zoo_core.cli.group import zoo as main
from zoo_core.errors import ZooError
from zoo_core.prediction.results import Segmentation
from zoo_core.utils.atomic_write import whole_file

IMAGE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


@pytest.fixture
def full_disk():
    """Files of at most 100 bytes, as where the disk fills up in the middle of one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def browse(path):
    answer = CliRunner().invoke(main, ["browse", "--out", str(path)])
    raise answer.exception


WRITERS = {
    "net.html": lambda path: zoo.summary("tiny/glyphnet").save(path),
    "net.txt": lambda path: zoo.summary("tiny/glyphnet").save(path),
    "net.svg": lambda path: zoo.draw("tiny/glyphnet", path),
    "maps.png": lambda path: zoo.activation_maps("tiny/glyphnet", IMAGE).save(path),
    "mask.png": lambda path: Segmentation(torch.arange(4096).reshape(64, 64) % 200, ("a",) * 200).save(path),
    "stats.pdf": lambda path: zoo.activation_stats(zoo.get("tiny/glyphnet"), torch.zeros(1, 1, 32, 32)).plot(path),
    "scores.npy": lambda path: zoo.sliding_window("tiny/glyphnet", torch.zeros(1, 32, 96), stride=16, out=path),
    "page.html": browse,
}


@pytest.mark.parametrize("name", WRITERS)
def test_on_a_full_disk_a_file_is_as_it_was(name, tmp_path, full_disk):
    path = tmp_path / "out" / name
    path.parent.mkdir()
    path.write_text("years of work")
    with pytest.raises(ZooError, match="cannot write") as raised:
        WRITERS[name](path)
    assert "next step: free some space" in str(raised.value)
    assert path.read_text() == "years of work"
    assert [each.name for each in path.parent.iterdir()] == [name]


def test_a_link_in_the_place_of_an_output_is_replaced_and_not_written_through(tmp_path):
    (tmp_path / "notes").write_text("years of work")
    (tmp_path / "net.txt").symlink_to(tmp_path / "notes")
    zoo.summary("tiny/glyphnet").save(tmp_path / "net.txt")
    assert (tmp_path / "notes").read_text() == "years of work"
    assert "glyphnet" in (tmp_path / "net.txt").read_text()
    assert not (tmp_path / "net.txt").is_symlink()


def test_a_file_keeps_its_permissions_and_is_found_after_a_change_of_the_folder(tmp_path, monkeypatch):
    (tmp_path / "private.txt").write_text("mine")
    (tmp_path / "private.txt").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    with whole_file("private.txt") as out:
        out.write_text("new")
        os.chdir("/")
    assert (tmp_path / "private.txt").read_text() == "new"
    assert (tmp_path / "private.txt").stat().st_mode & 0o777 == 0o600


def test_a_read_only_file_is_refused_and_stays(tmp_path, monkeypatch):
    (tmp_path / "net.txt").write_text("mine")
    monkeypatch.setattr("os.access", lambda _path, mode: mode != os.W_OK)  # root may write to any
    with pytest.raises(ZooError, match="the file is read-only"), whole_file(tmp_path / "net.txt"):
        pass
    assert [each.read_text() for each in tmp_path.iterdir()] == ["mine"]


def test_a_folder_that_may_not_be_written_to_is_named_as_that(tmp_path):
    with pytest.raises(ZooError, match="in a folder that you may write to"), whole_file(tmp_path / "net.txt"):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_a_device_is_written_to_and_stays_what_it_is(tmp_path):
    with whole_file("/dev/stdout") as out:
        assert out.as_posix() == "/dev/stdout"
    os.mkfifo(tmp_path / "pipe")
    with whole_file(tmp_path / "pipe") as out:
        assert out == tmp_path / "pipe"


@pytest.mark.parametrize(
    "write",
    [
        zoo.save,
        lambda model, path: zoo.export(model, path.with_suffix(".pt2"), overwrite=True),
        lambda model, path: zoo.draw(model, path.with_suffix(".svg")),
    ],
    ids=["save", "export", "draw"],
)
def test_a_path_that_the_system_cannot_have_is_refused(write, tmp_path):
    with pytest.raises(ZooError, match="File name too long"):
        write(zoo.get("tiny/glyphnet"), tmp_path / ("n" * 300))


@pytest.mark.parametrize(
    "arguments", ["mirror export", "bundle export", "plugin new acme --directory", "finetune . --out"]
)
def test_an_empty_path_is_not_the_current_folder_for_a_command(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(main, [*arguments.split(), ""])
    assert (answer.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert "the path is empty; '.' is the folder you are in" in answer.output


def test_an_empty_path_is_not_the_current_folder_for_a_save(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZooError, match="not a path: ''"):
        zoo.save(zoo.get("tiny/glyphnet", weights=None), "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_pipe_is_no_place_to_export_to(suffix, tmp_path):
    path = tmp_path / f"net{suffix}"
    os.mkfifo(path)
    with pytest.raises(ZooError, match="a pipe, a socket or a device"):
        zoo.export("tiny/glyphnet", path, overwrite=True)
    assert path.is_fifo()


def test_a_suffix_that_is_none_is_named(tmp_path):
    with pytest.raises(ZooError, match=r"a suffix such as \.png"):
        zoo.activation_maps("tiny/glyphnet", IMAGE).save(tmp_path / "maps.nothing")


def test_room_for_a_file_that_is_mapped_is_taken_before(tmp_path, monkeypatch):
    def refuse(_file, _start, length):
        raise OSError(errno.ENOSPC, f"no room for {length} bytes")

    monkeypatch.setattr("os.posix_fallocate", refuse)
    with pytest.raises(ZooError, match=r"no room for 3\d\d bytes"):
        zoo.sliding_window("tiny/glyphnet", torch.zeros(1, 32, 32), outputs="embeddings", out=tmp_path / "out.npy")

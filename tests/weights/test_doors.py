"""Whatever a path leads to, what comes out of the doors that read weights is weights or a ZooError."""

from __future__ import annotations

import os
import pickle
import random
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from support import fuzz_files

import zoo_core as zoo
from zoo_core.cli.inspect import inspect
from zoo_core.errors import Unreadable, ZooError
from zoo_core.weights import read_state_dict
from zoo_core.weights.formats import sniff

NAME = "tiny/glyphnet"


@pytest.fixture(scope="module")
def model():
    return zoo.get(NAME, weights=None, num_classes=3, seed=0)


@pytest.fixture(params=["get", "load_partial", "read_state_dict", "inspect"])
def door(request, model):
    if request.param == "get":
        return lambda path: zoo.get(NAME, weights=Path(path) if isinstance(path, str) else path)
    if request.param == "load_partial":
        return lambda path: zoo.load_partial(model, path)
    return read_state_dict if request.param == "read_state_dict" else inspected


def inspected(path):
    if "\0" in os.fspath(path):
        raise ZooError("no argument of a process can hold it")
    outcome = CliRunner().invoke(inspect, [os.fspath(path)], standalone_mode=False)
    if outcome.exception:
        raise outcome.exception
    return outcome.output


def pipe(folder):
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def link_to_itself(folder):
    (folder / "link").symlink_to(folder / "link")
    return folder / "link"


def zipped(folder):
    with zipfile.ZipFile(folder / "net.zip", "w") as archive:
        archive.writestr("inner/model.pth", "x")
    return folder / "net.zip"


def without_tensors(folder):
    torch.save({"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "epoch": 3}, folder / "opt.pth")
    return folder / "opt.pth"


def deep(folder):
    content: object = {}
    for _ in range(150):
        content = [content]
    torch.save(content, folder / "deep.pth")
    return folder / "deep.pth"


PATHS = {
    "pipe": pipe,
    "link to itself": link_to_itself,
    "archive": zipped,
    "no tensors": without_tensors,
    "deep": deep,
    "nothing": lambda folder: folder / "none.pth",
    "folder": lambda folder: folder,
    "device": lambda _: "/dev/zero",
    "null": lambda _: os.devnull,
    "zero byte": lambda folder: f"{folder}/a\0b.pth",
    "long name": lambda folder: folder / f"{'x' * 300}.pth",
    "below a file": lambda _: Path(__file__) / "net.pth",
}


@pytest.mark.parametrize("make", PATHS.values(), ids=PATHS)
def test_what_is_no_file_of_weights_is_an_error_of_ours_at_every_door(door, make, tmp_path):
    with pytest.raises(ZooError):
        door(make(tmp_path))


HEADS = {
    "model.h5": (b"\x89HDF\r\n\x1a\n", "an HDF5"),
    "model.keras": (b"", "a Keras archive"),
    "saved_model.pb": (b"\x08\x01\x12\x0a", "a TensorFlow SavedModel"),
    "model.ckpt.index": (b"\0\0\5\0\0", "a TensorFlow checkpoint"),
    "model.ckpt.data-00000-of-00001": (b"\7\7", "a TensorFlow checkpoint"),
    "net.tflite": (b"\x1c\0\0\0TFL3", "a TensorFlow Lite model"),
    "net.onnx": (b"\x08\x08\x12\x07pytorch", "an ONNX model"),
    "graph.onnx": (b"\x08\x0a\x3a\x10torch_jit", "an ONNX model"),
    "net.gguf": (b"GGUF\3\0\0\0", "a GGUF file"),
    "net.msgpack": (b"\x81\xa6params\x80", "a Flax checkpoint"),
    "net.mlmodel": (b"\x08\x04\x12\x05", "a Core ML model"),
    "net.npy": (b"\x93NUMPY\1\0", "a numpy array"),
    "net.pth.gz": (b"\x1f\x8b\x08", "a gzip archive"),
    "net.pth": (b"<html>", "an HTML page"),
    "pointer.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a git-lfs pointer"),
    "answer.pth": (b'{"message": "Not Found"}', "a JSON document"),
    "denied.pth": (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "an XML document"),
    "empty.pth": (b"", "an empty file"),
    "hole.pth": (b"\0" * 600, "a file of zero bytes"),
}


@pytest.mark.parametrize(("name", "head", "kind"), [(name, *each) for name, each in HEADS.items()], ids=HEADS)
def test_files_of_others_are_named_with_the_next_step(tmp_path, name, head, kind):
    path = tmp_path / name
    path.write_bytes(head)
    if name.endswith(".keras"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model.weights.h5", "")
    with pytest.raises(ZooError, match=f"got: {kind}(.|\n)*next step: ") as error:
        inspected(path)
    step = str(error.value).partition("next step: ")[2]
    assert step in sniff.NEXT_STEPS.values()
    assert "likely cause" not in str(error.value)


@pytest.mark.parametrize("first", range(0, 128, 64))
def test_a_short_run_of_the_fuzzer_gives_no_error_but_ours(tmp_path, first):
    for number in range(first, first + 64):
        data, end = fuzz_files.made(number, 0)
        path = (tmp_path / "file").with_suffix(end)
        path.write_bytes(data)
        assert [*fuzz_files.tried(path, number)] == []


def test_a_file_of_the_fuzzer_is_the_same_each_time():
    assert fuzz_files.made(7, 1) == fuzz_files.made(7, 1) != fuzz_files.made(8, 1)
    assert fuzz_files.mutated(b"x" * 50, random.Random(1)) != b"x" * 50


def long_header(tmp_path):
    header = b'{"a":[' + b"[]," * 10**6 + b"[]]}"
    (tmp_path / "net.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return tmp_path / "net.safetensors"


def many_tensors(tmp_path):
    entry = b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = b"{" + b",".join(entry % number for number in range(10**5)) + b"}"
    (tmp_path / "net.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return tmp_path / "net.safetensors"


def long_index(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_bytes(b'{"weight_map":[' + b"[]," * 10**6 + b"[]]}")
    return tmp_path


def one_chunk_by_many_names(tmp_path):
    from torch.distributed import checkpoint

    checkpoint.save({"weight": torch.zeros(10**4)}, checkpoint_id=str(tmp_path))
    content = pickle.loads((tmp_path / ".metadata").read_bytes())
    ((place, info),) = content.storage_data.items()
    for number in range(100):
        content.state_dict_metadata[str(number)] = content.state_dict_metadata["weight"]
        content.storage_data[replace(place, fqn=str(number))] = info
    (tmp_path / ".metadata").write_bytes(pickle.dumps(content))
    return tmp_path


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch saves without a group of processes
@pytest.mark.parametrize("made", [long_header, many_tensors, long_index, one_chunk_by_many_names])
def test_a_file_that_would_take_far_more_memory_than_its_size_is_refused(made, model, tmp_path):
    path = made(tmp_path)
    with pytest.raises(Unreadable, match=r"far more memory than the file|longer together than their file"):
        zoo.load_partial(model, path)

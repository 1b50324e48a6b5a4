import json
import os
import pickle
import subprocess
import sys
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

from zoo_core.errors import Unreadable
from zoo_core.weights import read_state_dict

STATE = {"fc.weight": torch.arange(12.0).reshape(3, 4), "fc.bias": torch.zeros(3), "n": torch.tensor(7)}


def same(got, expected):
    return list(got) == list(expected) and all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "net.pth"


@pytest.mark.parametrize("zipped", [True, False])
def test_both_formats_of_torch_save_are_read(file, zipped):
    torch.save(STATE, file, _use_new_zipfile_serialization=zipped)
    assert same(read_state_dict(file), STATE)


def test_safetensors_are_read_whatever_the_name(file):
    save_file(STATE, file)
    got = read_state_dict(file)
    assert same({name: got[name] for name in STATE}, STATE)


def test_a_checkpoint_that_is_called_safetensors_is_read(tmp_path):
    torch.save(STATE, tmp_path / "net.safetensors")
    assert same(read_state_dict(tmp_path / "net.safetensors"), STATE)


def test_changing_a_tensor_does_not_change_the_file(file):
    torch.save(STATE, file)
    file.chmod(0o444)
    read_state_dict(file)["fc.bias"].fill_(5)
    assert same(read_state_dict(file), STATE)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
def test_a_wrapper_is_taken_off(file, wrapper):
    torch.save({wrapper: STATE, "epoch": 3}, file)
    assert same(read_state_dict(file), STATE)


def test_the_prefix_of_data_parallel_training_is_taken_off(file):
    torch.save({f"module.{name}": value for name, value in STATE.items()}, file)
    assert same(read_state_dict(file), STATE)


def test_a_prefix_that_only_some_names_have_stays(file):
    mixed = {"module.fc": torch.zeros(1), "bias": torch.zeros(1)}
    torch.save(mixed, file)
    assert list(read_state_dict(file)) == list(mixed)


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_code_in_a_pickle_is_never_run(file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    torch.save({"fc": Evil()}, file)
    with pytest.raises(Unreadable, match="nothing in it was run"):
        read_state_dict(file)
    assert not (tmp_path / "pwned").exists()


def test_a_bare_pickle_is_refused(file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    file.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(Unreadable, match="nothing in it was run"):
        read_state_dict(file)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "an HTML page"),
        (b'{"error": "not found"}', "a JSON document"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "a git-lfs pointer"),
        (b"", "an empty file"),
        (b"\x1f\x8b\x08\x00", "a gzip archive"),
        (b"\x00" * 600, "a file of zero bytes"),
    ],
)
def test_a_file_that_is_not_weights_says_what_it_is(file, content, name):
    file.write_bytes(content)
    with pytest.raises(Unreadable, match=name):
        read_state_dict(file)


@pytest.mark.parametrize(
    "save", [torch.save, lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False)]
)
def test_a_name_that_is_no_utf_8_is_read(file, tmp_path, save):
    save(STATE, file)
    odd = tmp_path / os.fsdecode(b"n\xff\xfe.pth")
    try:
        file.rename(odd)
    except OSError:
        pytest.skip("this file system takes no such name")
    assert same(read_state_dict(odd), STATE)


def test_an_archive_of_something_else_is_refused(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(Unreadable, match="a zip archive"):
        read_state_dict(file)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_unreadable(file, zipped):
    torch.save({"w": torch.zeros(10_000)}, file, _use_new_zipfile_serialization=zipped)
    os.truncate(file, 20_000)
    with pytest.raises(Unreadable, match="cannot be read as weights"):
        read_state_dict(file)


def test_a_truncated_safetensors_file_is_unreadable(file):
    save_file({"w": torch.zeros(10_000)}, file)
    os.truncate(file, 20_000)
    with pytest.raises(Unreadable, match="broken safetensors"):
        read_state_dict(file)


def test_a_safetensors_file_with_a_side_beyond_64_bits_is_unreadable(tmp_path):
    header = json.dumps({"x": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}}).encode()
    file = tmp_path / "net.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(Unreadable, match="broken safetensors"):
        read_state_dict(file)


def test_a_safetensors_file_with_a_very_long_header_is_not_called_broken(file):
    places = {f"t{at}": {"dtype": "U8", "shape": [1], "data_offsets": [at, at + 1]} for at in range(70_000)}
    header = json.dumps(places).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(len(places)))
    with pytest.raises(Unreadable, match=r"is not read\n[\s\S]*far more memory than the file"):
        read_state_dict(file)


@pytest.mark.parametrize(
    "notes",
    [
        {"epoch": 3, "arch": "net", "best": 0.5, "lr": [0.1, 0.01], "done": True, "seed": None},
        {"epoch": 3, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "args": {"layers": [1, 2]}},
    ],
    ids=["numbers and words", "what training needs"],
)
def test_notes_beside_the_tensors_of_a_state_dict_are_put_aside(file, notes):
    state = {"fc.weight": torch.ones(2, 3), "fc.bias": torch.ones(2)}
    torch.save({**notes, **state}, file)
    assert read_state_dict(file).keys() == state.keys()


@pytest.mark.parametrize("suffix", ["", ".pth"])
def test_a_tar_archive_of_other_files_is_called_that(tmp_path, suffix):
    (tmp_path / "net.pth").write_bytes(b"weights")
    with tarfile.open(tmp_path / f"net{suffix}.tar", "w") as archive:
        archive.add(tmp_path / "net.pth", "net.pth")
    with pytest.raises(Unreadable, match=r"got: a tar archive of other files\n[\s\S]*next step: unpack it") as raised:
        read_state_dict(tmp_path / f"net{suffix}.tar")
    assert "cause" not in str(raised.value)


_WITHOUT_MEMORY = """
import pathlib, resource, sys
import zoo_core as zoo
from zoo_core.weights.checkpoint.read import open_checkpoint
small, *large = map(pathlib.Path, sys.argv[1:])
for name in ("net.safetensors", "net.pth", "net.npz", "old.pth", "steps"):
    open_checkpoint(small / name)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20),) * 2)
for path in large:
    try:
        open_checkpoint(path)
    except zoo.ZooError as error:
        print(str(error).replace("\\n", " "))
"""


def test_a_file_that_takes_more_memory_than_there_is_is_not_called_broken(tmp_path):
    for folder, numbers in (("small", 4), ("large", 1 << 24)):
        state = {"fc.weight": torch.zeros(numbers)}
        (tmp_path / folder).mkdir()
        save_file(state, tmp_path / folder / "net.safetensors")
        torch.save(state, tmp_path / folder / "net.pth")
        torch.save(state, tmp_path / folder / "old.pth", _use_new_zipfile_serialization=False)
        np.savez(tmp_path / folder / "net.npz", **{"fc.weight": state["fc.weight"].numpy()})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there is one process only
            dcp.save(state, checkpoint_id=tmp_path / folder / "steps", no_dist=True)
    large = sorted((tmp_path / "large").iterdir())
    command = [sys.executable, "-c", _WITHOUT_MEMORY, str(tmp_path / "small"), *map(str, large)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout.splitlines()
    assert len(said) == len(large) == 5, done.stderr
    for path, line in zip(large, said, strict=True):
        assert line.startswith(f"{path} is not read ")
        assert "likely cause: it takes more memory than this process can have" in line


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.zeros(2)], {"w": torch.zeros(1), "epoch": 3}, {}])
def test_what_is_not_tensors_by_name_is_refused(file, content):
    torch.save(content, file)
    with pytest.raises(Unreadable, match="no state dict"):
        read_state_dict(file)


def test_a_missing_file_is_named(file):
    with pytest.raises(Unreadable, match=r"net\.pth"):
        read_state_dict(file)


def test_reading_works_in_a_fresh_process_with_warnings_as_errors(file):
    import sys

    torch.save(STATE, file)
    code = f"from zoo_core.weights import read_state_dict; assert len(read_state_dict({str(file)!r})) == 3"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.parametrize("averaged", ["state_dict_ema", "model_ema"])
def test_averaged_weights_come_before_the_last_ones(file, averaged):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "model": {"a": torch.zeros(1)}, averaged: STATE}, file)
    assert same(read_state_dict(file), STATE)


def test_an_average_that_is_no_state_dict_is_passed_over(file):
    torch.save({"model": STATE, "model_ema": {"decay": 0.999}}, file)
    assert same(read_state_dict(file), STATE)


def test_the_counter_of_an_averaged_model_is_left_out(file):
    averaged = {f"module.{name}": tensor for name, tensor in STATE.items()}
    torch.save({"model_ema": {"n_averaged": torch.tensor(3), **averaged}}, file)
    assert same(read_state_dict(file), STATE)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])
def test_archives_of_numpy_arrays_are_read(file, save):
    arrays = {"a/kernel": np.arange(6.0).reshape(2, 3), "step": np.array(7), "big": np.arange(3, dtype=">f4")}
    with file.open("wb") as opened:
        save(opened, **arrays)
    read = read_state_dict(file)
    assert {name: tensor.tolist() for name, tensor in read.items()} == {k: v.tolist() for k, v in arrays.items()}


@pytest.mark.parametrize(
    ("array", "cause"),
    [(np.array([print], dtype=object), "an array of objects"), (np.array(["a"]), "an array of <U1")],
    ids=["objects", "texts"],
)
def test_an_array_that_is_no_numbers_is_refused_and_not_unpickled(file, array, cause):
    with file.open("wb") as opened:
        np.savez(opened, weight=array)
    with pytest.raises(Unreadable, match=f"weight is {cause}"):
        read_state_dict(file)


def test_a_truncated_numpy_archive_is_unreadable(file):
    with file.open("wb") as opened:
        np.savez(opened, weight=np.zeros(1000))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(Unreadable, match="a zip archive"):
        read_state_dict(file)

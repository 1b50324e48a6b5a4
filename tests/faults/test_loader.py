"""Files that want to do more than hold tensors."""

import io
import os
import pickle
import struct
import tarfile
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from support.old_tar import old_tar

from zoo_core.errors import Unreadable
from zoo_core.weights import read_state_dict


class Runs:
    """A pickle of it runs a command when it is read by an unpickler that trusts it."""

    def __init__(self, function, *arguments):
        self.how = (function, arguments)

    def __reduce__(self):
        return self.how


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


PAYLOADS = {
    "a shell command": Runs(os.system, "touch pwned"),
    "an evaluation": Runs(eval, "open('pwned', 'w')"),
    "an execution": Runs(exec, "open('pwned', 'w')"),
    "an import": Runs(__import__, "antigravity"),
    "an open file": Runs(open, "pwned", "w"),
    "a nested load": Runs(pickle.loads, pickle.dumps(Runs(os.system, "touch pwned"))),
    "an attribute": Runs(getattr, "", "join"),
}


@pytest.mark.parametrize("how", ["zip", "old", "bare"])
@pytest.mark.parametrize("what", PAYLOADS)
def test_nothing_in_a_file_is_run(tmp_path, what, how):
    file = tmp_path / "net.pth"
    content = {"fc.weight": torch.zeros(2), "extra": PAYLOADS[what]}
    if how == "bare":
        file.write_bytes(pickle.dumps({"extra": PAYLOADS[what]}))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(Unreadable, match="nothing in it was run"):
        read_state_dict(file)
    assert not (tmp_path / "pwned").exists()


class Wakes(torch.nn.Linear):
    """A module that runs a command when an unpickler that trusts it sets its state."""

    def __setstate__(self, state):
        os.system("touch pwned")


def test_a_whole_module_gives_its_tensors_and_does_not_wake(tmp_path):
    torch.save(Wakes(2, 2), tmp_path / "net.pth")
    assert list(read_state_dict(tmp_path / "net.pth")) == ["weight", "bias"]
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("what", PAYLOADS)
def test_code_beside_a_state_dict_is_left_alone(tmp_path, what):
    torch.save({"model": {"fc.weight": torch.ones(2)}, "args": PAYLOADS[what]}, tmp_path / "net.pth")
    assert torch.equal(read_state_dict(tmp_path / "net.pth")["fc.weight"], torch.ones(2))
    assert not (tmp_path / "pwned").exists()


def test_a_scripted_module_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.pth", "w") as archive:
        archive.writestr("net/data.pkl", pickle.dumps({}))
        archive.writestr("net/constants.pkl", pickle.dumps(()))
        archive.writestr("net/code/__torch__.py", "raise SystemExit")
    with pytest.raises(Unreadable):
        read_state_dict(tmp_path / "net.pth")


def header(text, size=0):
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded + bytes(size)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(header('{"w":{"dtype":"F32","shape":[100],"data_offsets":[0,400]}}', 40), id="data missing"),
        pytest.param(
            header('{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,400]}}', 400), id="shape and length differ"
        ),
        pytest.param(header('{"w":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}', 4), id="unknown dtype"),
        pytest.param(header('{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', 4), id="offsets backwards"),
        pytest.param(header('{"w":', 4), id="broken header"),
        pytest.param(struct.pack("<Q", 90_000_000) + b"{" + bytes(100), id="header longer than the file"),
        pytest.param(header("{}" + " " * 10) + b"more", id="bytes that belong to nothing"),
        pytest.param(
            header(
                '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
                4,
            ),
            id="two tensors in one place",
        ),
    ],
)
def test_broken_safetensors_are_refused(tmp_path, content):
    (tmp_path / "net.safetensors").write_bytes(content)
    with pytest.raises(Unreadable):
        read_state_dict(tmp_path / "net.safetensors")


def test_a_zip_with_a_bent_record_is_refused(tmp_path):
    torch.save({"w": torch.arange(1000.0)}, tmp_path / "net.pth")
    data = bytearray((tmp_path / "net.pth").read_bytes())
    at = data.index(b"data.pkl") + 60
    data[at : at + 8] = b"\xff" * 8
    (tmp_path / "net.pth").write_bytes(bytes(data))
    with pytest.raises(Unreadable):
        read_state_dict(tmp_path / "net.pth")


@pytest.mark.parametrize("keep", [1, 2, 10, 50, 200, 600])
def test_a_pickle_that_ends_early_is_refused(tmp_path, keep):
    torch.save({"w": torch.arange(1000.0)}, tmp_path / "net.pth", _use_new_zipfile_serialization=False)
    os.truncate(tmp_path / "net.pth", keep)
    with pytest.raises(Unreadable):
        read_state_dict(tmp_path / "net.pth")


def test_a_tar_of_something_else_is_refused(tmp_path):
    with tarfile.open(tmp_path / "net.tar", "w") as archive:
        info = tarfile.TarInfo("../../evil.txt")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"evil"))
    with pytest.raises(Unreadable, match="a tar archive"):
        read_state_dict(tmp_path / "net.tar")
    assert not (tmp_path.parent.parent / "evil.txt").exists()


def test_an_old_tar_checkpoint_is_read(tmp_path):
    state = {"fc.weight": torch.arange(12.0).reshape(3, 4), "fc.bias": torch.ones(3)}
    old_tar(tmp_path / "net.pth", state)
    got = read_state_dict(tmp_path / "net.pth")
    assert list(got) == list(state)
    assert all(torch.equal(got[name], state[name]) for name in state)


def test_a_view_in_an_old_tar_checkpoint_that_repeats_few_numbers_is_refused(tmp_path):
    old_tar(tmp_path / "net.pth", {"w": torch.zeros(1)})
    data = (tmp_path / "net.pth").read_bytes()
    one = struct.pack("<qqq", 1, 1, 0)  # length, step and place of the only number
    assert data.count(one) == 1
    (tmp_path / "net.pth").write_bytes(data.replace(one, struct.pack("<qqq", 1 << 48, 0, 0)))
    with pytest.raises(Unreadable, match="repeats few numbers"):
        read_state_dict(tmp_path / "net.pth")


@pytest.mark.parametrize("count", [-1, 5, 10**15])
def test_an_old_tar_checkpoint_that_lies_about_its_length_is_refused(tmp_path, count):
    old_tar(tmp_path / "net.pth", {"w": torch.arange(12.0)}, storages=count)
    with pytest.raises(Unreadable):
        read_state_dict(tmp_path / "net.pth")


def test_a_compressed_zip_is_read_and_not_mapped(tmp_path):
    torch.save({"w": torch.arange(10.0)}, tmp_path / "net.pth")
    with (
        zipfile.ZipFile(tmp_path / "net.pth") as source,
        zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert torch.equal(read_state_dict(tmp_path / "small.pth")["w"], torch.arange(10.0))


def test_safetensors_whose_names_are_code_are_only_names(tmp_path):
    save_file({"__import__('os').system('touch pwned')": torch.zeros(1)}, tmp_path / "net.safetensors")
    assert list(read_state_dict(tmp_path / "net.safetensors")) == ["__import__('os').system('touch pwned')"]
    assert not (tmp_path / "pwned").exists()

"""Converted copies: the same tensors, mapped, and believed no further than the object they were made from."""

import errno
import os
import shutil
import threading
import zipfile

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from support.loopback import sha256

from zoo_core import Card, Weights
from zoo_core.errors import Unreadable, ZooWarning
from zoo_core.weights import Cache, obtain, read_state_dict
from zoo_core.weights.cache import inventory, pruning
from zoo_core.weights.cache.converted import FOLDER, Copy, state_dict_of
from zoo_core.weights.download import disk

TIED = torch.randn(5, 3)
STATE = {
    "z.weight": torch.randn(7, 9),
    "a.bias": torch.randn(3).half(),
    "tied.one": TIED,
    "count": torch.tensor(7),
    "tied.two": TIED,
    "empty": torch.empty(0, 4),
    "odd": torch.randn(16, 24, 3, 3).to(memory_format=torch.channels_last),
    "flags": torch.tensor([True, False, True]),
    "brain": torch.randn(33).bfloat16(),
    "slice": torch.randn(40, 40)[3:5, 1:],
    "zoo.filler.3": torch.ones(64, dtype=torch.uint8),
}


def put(tmp_path, name="net.pth", *, save=None, state=STATE, wrap=lambda state: state):
    """The artefact of a file that was made by ``save`` and taken into the cache from a file url."""
    path = tmp_path / "published" / name
    path.parent.mkdir(exist_ok=True)
    (save or old_pickle)(wrap(state), path)
    return taken_in(path)


def taken_in(path):
    weights = Weights("V1", (path.as_uri(),), sha256(path.read_bytes()))
    return obtain(Card("acme", path.stem, "acme:net", weights=(weights,), default="V1"), weights)


def old_pickle(state, path):
    torch.save(state, path, _use_new_zipfile_serialization=False)


def compressed(state, path):
    torch.save(state, path)
    with zipfile.ZipFile(path) as stored:
        members = {item.filename: stored.read(item) for item in stored.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def misaligned(state, path):
    """As published safetensors are: the header ends where it ends."""
    save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    padding = (8 - length) % 64 + 8
    path.write_bytes(
        (length + padding).to_bytes(8, "little") + data[8 : 8 + length] + b" " * padding + data[8 + length :]
    )


def same(got, expected):
    return list(got) == list(expected) and all(
        got[name].dtype == expected[name].dtype
        and got[name].shape == expected[name].shape
        and torch.equal(got[name], expected[name])
        for name in expected
    )


def copy_of(artefact):
    return Copy(Cache(), artefact.sha256)


@pytest.mark.parametrize("save", [old_pickle, compressed], ids=["pickle", "compressed"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    ],
    ids=["plain", "wrapped", "data-parallel"],
)
def test_the_copy_holds_what_the_object_holds(tmp_path, save, wrap):
    artefact = put(tmp_path, save=save, wrap=wrap)
    expected = read_state_dict(artefact.path)
    assert same(state_dict_of(artefact), expected)
    assert copy_of(artefact).prove()
    assert same(state_dict_of(artefact), expected)


def test_every_tensor_of_the_copy_is_aligned_and_any_reader_reads_it(tmp_path):
    artefact = put(tmp_path)
    assert all(tensor.data_ptr() % 64 == 0 for tensor in state_dict_of(artefact).values() if tensor.numel())
    with safe_open(copy_of(artefact).prove(), framework="pt") as file:
        assert torch.equal(file.get_tensor("z.weight"), STATE["z.weight"])
        assert {name for name in file.offset_keys() if not name.startswith("zoo.")} <= set(STATE)


def test_changing_a_tensor_leaves_the_copy_as_it_was(tmp_path):
    artefact = put(tmp_path)
    state_dict_of(artefact)["z.weight"].zero_()
    assert copy_of(artefact).prove(again=True)
    assert same(state_dict_of(artefact), read_state_dict(artefact.path))


def test_weights_that_can_be_mapped_get_no_copy(tmp_path):
    assert same(state_dict_of(artefact := put(tmp_path, save=torch.save)), read_state_dict(artefact.path))
    assert copy_of(artefact).files() == []


def test_misaligned_safetensors_get_a_copy_when_they_are_large(tmp_path):
    large = put(tmp_path, "large.safetensors", save=misaligned, state={"weight": torch.randn(600, 500)})
    small = put(tmp_path, "small.safetensors", save=misaligned, state={"weight": torch.randn(6, 5)})
    assert read_state_dict(large.path)["weight"].data_ptr() % 64
    assert state_dict_of(large)["weight"].data_ptr() % 64 == 0
    assert same(state_dict_of(large), read_state_dict(large.path))
    state_dict_of(small)
    assert copy_of(small).files() == []


def test_a_file_of_the_users_own_gets_no_copy(tmp_path):
    from zoo_core.weights import obtain_file

    old_pickle(STATE, tmp_path / "mine.pth")
    state_dict_of(obtain_file(tmp_path / "mine.pth"))
    assert not (Cache().root / FOLDER).exists()


def test_no_copy_is_made_or_believed_when_everything_is_to_be_verified(tmp_path, monkeypatch):
    artefact = put(tmp_path)
    state_dict_of(artefact)
    forged(copy_of(artefact))
    monkeypatch.setenv("ZOO_VERIFY", "always")
    assert same(state_dict_of(artefact), read_state_dict(artefact.path))


def forged(copy):
    """Replace a copy by another whole one, with a ref to match."""
    path = copy.prove()
    save_file(
        {"z.weight": torch.zeros(7, 9)}, path.with_name("forged"), metadata={"zoo.names": '{"z.weight": "z.weight"}'}
    )
    path.with_name("forged").replace(path)
    copy._note(path, sha256(path.read_bytes()), disk.Stamp.of(path))


def test_copies_can_be_switched_off(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CONVERT", "0")
    artefact = put(tmp_path)
    assert same(state_dict_of(artefact), read_state_dict(artefact.path))
    assert copy_of(artefact).files() == []


def flip(path):
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def halve(path):
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size // 2)


def replace_by_a_link(path):
    path.unlink()
    path.symlink_to("/dev/null")


DAMAGE = {
    "a flipped bit": flip,
    "half of it": halve,
    "nothing there": lambda path: path.unlink(),
    "a link": replace_by_a_link,
    "no ref": lambda path: path.with_name("ref").unlink(),
    "a ref of nonsense": lambda path: path.with_name("ref").write_text("nonsense"),
    "a ref of another object": lambda path: path.with_name("ref").write_text(
        path.with_name("ref").read_text().replace("source sha256:", "source sha256:0")
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_copy_is_noticed_and_made_again(tmp_path, damage):
    artefact = put(tmp_path)
    expected = read_state_dict(artefact.path)
    state_dict_of(artefact)
    damage(copy_of(artefact).prove())
    assert same(state_dict_of(artefact), expected)
    assert copy_of(artefact).prove(again=True)
    assert len(copy_of(artefact).files()) == 2


def test_a_copy_that_was_only_touched_is_hashed_and_kept(tmp_path):
    artefact = put(tmp_path)
    state_dict_of(artefact)
    path = copy_of(artefact).prove()
    inode = path.stat().st_ino
    os.utime(path, (1, 1))
    assert same(state_dict_of(artefact), read_state_dict(artefact.path))
    assert copy_of(artefact).prove().stat().st_ino == inode


def test_a_copy_does_not_outlive_the_trust_in_its_object(tmp_path):
    artefact = put(tmp_path)
    state_dict_of(artefact)
    flip(artefact.path)
    again = taken_in(tmp_path / "published" / "net.pth")
    assert again.fetched


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES], ids=["read-only", "forbidden"])
def test_a_cache_that_cannot_be_written_does_without_and_says_nothing(tmp_path, monkeypatch, code):
    artefact = put(tmp_path)
    refuse_to_write(monkeypatch, code)
    assert same(state_dict_of(artefact), read_state_dict(artefact.path))
    assert copy_of(artefact).files() == []


def test_a_full_disk_costs_a_warning_and_not_the_weights(tmp_path, monkeypatch):
    artefact = put(tmp_path)
    refuse_to_write(monkeypatch, errno.ENOSPC)
    with pytest.warns(ZooWarning, match="No space left"):
        assert same(state_dict_of(artefact), read_state_dict(artefact.path))
    assert copy_of(artefact).files() == []
    assert not list(Cache().arriving.glob(".*.partial"))


def refuse_to_write(monkeypatch, code):
    """Every file that arrives meets that error of the operating system, as on a full or read-only disk."""
    usual = os.open

    def refusing(path, flags, *rest, **named):
        if str(path).endswith(".partial"):
            raise OSError(code, os.strerror(code))
        return usual(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", refusing)


def test_no_room_is_found_out_before_anything_is_written(tmp_path, monkeypatch):
    artefact = put(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.warns(ZooWarning, match="no room"):
        assert same(state_dict_of(artefact), read_state_dict(artefact.path))


def test_a_tensor_that_unfolds_to_gigabytes_is_refused(tmp_path):
    artefact = put(tmp_path, state={"weight": torch.zeros(1).expand(1 << 30)})
    with pytest.raises(Unreadable, match="repeats few numbers"):
        state_dict_of(artefact)


def test_a_tensor_that_is_larger_than_its_storage_gets_no_copy(tmp_path):
    artefact = put(tmp_path, state={"weight": torch.zeros(1).expand(1 << 20)})
    assert state_dict_of(artefact)["weight"].stride() == (0,)
    assert copy_of(artefact).files() == []


def test_what_safetensors_cannot_hold_is_read_as_it_is(tmp_path):
    artefact = put(tmp_path, state={"weight": torch.randn(3, dtype=torch.complex128)})
    assert same(state_dict_of(artefact), read_state_dict(artefact.path))
    assert copy_of(artefact).files() == []


def test_many_at_once_make_one_copy(tmp_path):
    artefact = put(tmp_path)
    expected, results = read_state_dict(artefact.path), []

    def compare():
        results.append(same(state_dict_of(artefact), expected))

    threads = [threading.Thread(target=compare) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 6
    assert len(copy_of(artefact).files()) == 2


def test_removing_weights_removes_their_copy(tmp_path):
    artefact = put(tmp_path)
    state_dict_of(artefact)
    whole = artefact.size + copy_of(artefact).size
    assert pruning.remove(Cache(), inventory.contents(Cache())[0]) == whole
    assert not copy_of(artefact).folder.exists()


def test_prune_removes_copies_of_what_is_gone_and_no_others(tmp_path, monkeypatch):
    kept, gone = put(tmp_path, "kept.pth"), put(tmp_path, "gone.pth", state={"weight": torch.randn(9)})
    for artefact in (kept, gone):
        state_dict_of(artefact)
    Cache().ref_path("acme", "gone", "V1").unlink()
    assert pruning.leftovers(Cache())[0] == []  # a copy without a ref may be about to get one
    monkeypatch.setattr(pruning, "_FRESH", -1.0)
    assert {item.path.parent.name for item in pruning.leftovers(Cache())[0]} == {gone.sha256}
    pruning.prune(Cache())
    assert copy_of(kept).prove()
    assert copy_of(gone).files() == []


def test_verify_reports_a_bad_copy_and_removes_it(tmp_path):
    artefact = put(tmp_path)
    state_dict_of(artefact)
    path = copy_of(artefact).prove()
    assert all(good for _, good in inventory.verify(Cache()))
    flip(path)
    assert (path, False) in list(inventory.verify(Cache()))
    assert copy_of(artefact).files() == []
    assert all(good for _, good in inventory.verify(Cache()))


def test_the_list_counts_the_copies(tmp_path):
    from click.testing import CliRunner

    from zoo_core.cli.cache import cache

    state_dict_of(put(tmp_path))
    assert "1 copy of them that can be mapped" in CliRunner().invoke(cache, ["ls"]).output


def test_a_model_from_a_copy_is_bit_for_bit_that_from_the_object(tmp_path, monkeypatch):
    import zoo_core as zoo

    model = zoo.get("tiny/glyphnet").eval()
    old_pickle(model.state_dict(), path := tmp_path / "glyphnet.pth")
    own = zoo.Zoo()
    card = own.resolve("tiny/glyphnet")[0]
    weights = Weights("V1", (path.as_uri(),), sha256(path.read_bytes()), num_classes=card.num_classes)
    own.add(
        Card(
            "tiny",
            "glyphnet",
            card.build,
            num_classes=card.num_classes,
            options=card.options,
            weights=(weights,),
            default="V1",
        )
    )
    x = torch.randn(2, 1, 32, 32)
    with zoo.use(own), torch.no_grad():
        first, second = zoo.get("tiny/glyphnet").eval(), zoo.get("tiny/glyphnet").eval()
        assert Copy(Cache(), weights.sha256).prove()
        assert torch.equal(first(x), model(x))
        assert torch.equal(second(x), model(x))


def test_names_that_share_a_tensor_in_a_file_are_apart_in_a_model_that_has_them_apart(tmp_path):
    from zoo_core.surgery.load_state_dict import load_state

    model = torch.nn.ModuleDict({"one": torch.nn.Linear(3, 5, bias=False), "two": torch.nn.Linear(3, 5, bias=False)})
    state = state_dict_of(put(tmp_path, state={"one.weight": TIED, "two.weight": TIED}))
    load_state(model, state, assign=True)
    with torch.no_grad():
        model["one"].weight.zero_()
    assert torch.equal(model["two"].weight, TIED)

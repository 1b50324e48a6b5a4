"""A user's own checkpoint is kept once more, so that the second load maps what the first has copied."""

from __future__ import annotations

import os
import shutil

import pytest
import torch

import zoo_core as zoo
from zoo_core.errors import Unreadable
from zoo_core.weights.cache import converted
from zoo_core.weights.cache.converted import copies, open_own
from zoo_core.weights.cache.pruning import leftovers
from zoo_core.weights.cache.store import Cache
from zoo_core.weights.checkpoint.read import open_checkpoint

NAME = "tiny/glyphnet"


@pytest.fixture(autouse=True)
def small_files_are_worth_it(monkeypatch):
    monkeypatch.setattr(converted, "_WORTH_A_COPY", 1)


@pytest.fixture(scope="module")
def net():
    return zoo.get(NAME, weights=None, num_classes=9, seed=1).eval()


@pytest.fixture(
    params=[{}, {"_use_new_zipfile_serialization": False}],
    ids=["zip", "stream"],
)
def path(request, net, tmp_path):
    raw = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in net.state_dict().items()}
    content = {"state_dict": {f"model.{name}": tensor for name, tensor in raw.items()}, "epoch": 3}
    content |= {"state_dict_ema": net.state_dict(), "optimizer": {"exp_avg": torch.ones(1000)}}
    torch.save(content, tmp_path / "last.ckpt", **request.param)
    return tmp_path / "last.ckpt"


def same(model, net):
    own, other = model.state_dict(), net.state_dict()
    return own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


def test_a_copy_holds_what_the_file_holds(path):
    before, made, after = open_checkpoint(path), open_own(path), open_own(path)
    for checkpoint in (made, after):
        assert [(each.keys, each.averaged) for each in checkpoint.candidates] == [
            (each.keys, each.averaged) for each in before.candidates
        ]
        for mine, theirs in zip(checkpoint.candidates, before.candidates, strict=True):
            assert list(mine.tensors) == list(theirs.tensors)
            assert all(torch.equal(mine.tensors[name], theirs.tensors[name]) for name in theirs.tensors)


def test_the_second_load_does_not_open_the_file(path, net, monkeypatch):
    first = zoo.get(NAME, weights=path)
    monkeypatch.setattr(converted, "open_checkpoint", lambda _: pytest.fail("the file was opened"))
    second = zoo.get(NAME, weights=path)
    assert same(first, net)
    assert same(second, net)
    assert zoo.receipt(second) == zoo.receipt(first)
    assert zoo.receipt(second).taken == "averaged weights, from 'state_dict_ema'"


def test_a_file_that_is_written_to_again_is_read_again_and_leaves_one_copy(path, net):
    model = zoo.get(NAME, weights=path)
    other = {name: tensor * 2 if tensor.is_floating_point() else tensor for name, tensor in net.state_dict().items()}
    torch.save(other, path)
    assert torch.equal(zoo.get(NAME, weights=path).fc.bias, other["fc.bias"])
    assert same(model, net)  # what was loaded before is no view of the file
    assert len(copies(Cache())) == 1


def test_changing_a_model_changes_neither_file_nor_copy(path, net):
    model = zoo.get(NAME, weights=path)
    with torch.no_grad():
        model.fc.weight.zero_()
    assert same(zoo.get(NAME, weights=path), net)


def test_a_model_outlives_its_file(path, net, monkeypatch):
    monkeypatch.setenv("ZOO_CONVERT", "0")
    model = zoo.get(NAME, weights=path)
    os.truncate(path, 10)
    assert same(model, net)
    assert copies(Cache()) == []


def test_a_file_that_changes_while_it_is_read_is_refused(path, monkeypatch):
    def meddled(file):
        checkpoint = open_checkpoint(file)
        os.utime(file, (1, 1))
        return checkpoint

    monkeypatch.setattr(converted, "open_checkpoint", meddled)
    with pytest.raises(Unreadable, match="was written to while it was read"):
        zoo.get(NAME, weights=path)


def test_a_damaged_copy_is_made_again(path, net):
    zoo.get(NAME, weights=path)
    (copy,) = copies(Cache())
    (file,) = (each for each in copy.files() if each.suffix == ".safetensors")
    file.chmod(0o644)
    file.write_bytes(b"x" * file.stat().st_size)
    assert same(zoo.get(NAME, weights=path), net)


def test_prune_keeps_the_copy_of_a_file_that_is_as_it_was(path, monkeypatch):
    monkeypatch.setattr("zoo_core.weights.cache.pruning._FRESH", -1)
    zoo.get(NAME, weights=path)
    assert leftovers(Cache())[0] == []
    path.unlink()
    assert {item.reason for item in leftovers(Cache())[0]} == {"a converted copy of what is gone, or not a whole one"}


def test_only_the_latest_files_have_a_copy(net, tmp_path, monkeypatch):
    monkeypatch.setattr(converted, "_MOST", 2)
    for number in range(4):
        torch.save({**net.state_dict(), "fc.bias": torch.full((9,), float(number))}, tmp_path / f"{number}.pth")
        zoo.get(NAME, weights=tmp_path / f"{number}.pth")
    assert len(copies(Cache())) == 2


@pytest.mark.skipif(os.name == "nt", reason="there are no modes")
def test_what_others_may_not_read_gets_no_copy_where_they_may(path, net):
    Cache().make()
    Cache().root.chmod(0o755)
    path.chmod(0o600)
    assert same(zoo.get(NAME, weights=path), net)
    assert copies(Cache()) == []
    Cache().root.chmod(0o700)
    assert same(zoo.get(NAME, weights=path), net)
    assert len(copies(Cache())) == 1


def test_an_odd_tensor_gets_no_copy_and_the_error_that_names_it(net, tmp_path):
    torch.save({**net.state_dict(), "fc.bias": torch.ones(9).to_sparse()}, tmp_path / "odd.pth")
    with pytest.raises(Unreadable, match="sparse"):
        zoo.get(NAME, weights=tmp_path / "odd.pth")
    assert copies(Cache()) == []


@pytest.mark.parametrize("bring", [shutil.move, shutil.copy], ids=["moved", "copied"])
def test_a_file_in_another_place_takes_the_copy_that_is_there(path, net, tmp_path, bring, monkeypatch):
    zoo.get(NAME, weights=path)
    (before,) = copies(Cache())
    bring(path, tmp_path / "best.ckpt")
    monkeypatch.setattr(converted.Copy, "write", lambda *_, **__: pytest.fail("it was converted again"))
    for _ in range(2):
        assert same(zoo.get(NAME, weights=tmp_path / "best.ckpt"), net)
    assert copies(Cache()) == [before]


def test_a_file_of_the_same_size_with_other_numbers_gets_a_copy_of_its_own(net, tmp_path):
    state = net.state_dict()
    torch.save(state, tmp_path / "one.pth")
    torch.save({**state, "fc.bias": -torch.zeros(9)}, tmp_path / "two.pth")  # equal to 0.0, and another number
    torch.save({**state, "fc.bias": torch.zeros(9)}, tmp_path / "two,.pth")
    for name in ("one", "two", "two,"):
        loaded = zoo.get(NAME, weights=tmp_path / f"{name}.pth")
        assert torch.equal(loaded.fc.bias.signbit(), torch.load(tmp_path / f"{name}.pth")["fc.bias"].signbit())
    assert len(copies(Cache())) == 3


def test_a_copy_that_two_places_share_stays_while_one_of_them_is_as_it_was(path, net, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo_core.weights.cache.pruning._FRESH", -1)
    zoo.get(NAME, weights=path)
    shutil.copy(path, tmp_path / "best.ckpt")
    zoo.get(NAME, weights=tmp_path / "best.ckpt")
    path.unlink()
    assert leftovers(Cache())[0] == []
    monkeypatch.setattr(converted, "open_checkpoint", lambda _: pytest.fail("the file was opened"))
    assert same(zoo.get(NAME, weights=tmp_path / "best.ckpt"), net)

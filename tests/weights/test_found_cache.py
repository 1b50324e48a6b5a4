"""A cache that a checkout brought along: hashed and not believed, until this user has seen its bytes."""

import hashlib
import json
import os
import shutil

import pytest
import torch
from torch import nn

import zoo_core as zoo
from zoo_core import Card, Weights
from zoo_core.errors import FetchError, Offline, ZooError
from zoo_core.weights import Cache, obtain
from zoo_core.weights import digest as digests
from zoo_core.weights.cache.converted import Copy, state_dict_of
from zoo_core.weights.cache.refs import Ref
from zoo_core.weights.digest import Stamp

NOWHERE = "https://127.0.0.1:1/net.pth"


@pytest.fixture(params=["weights_cache", "zoo.toml"])
def found(request, tmp_path, monkeypatch):
    """A cache in the current folder, found by its name or because a file there names it."""
    for name in ("ZOO_CACHE", "ZOO_CONFIG"):
        monkeypatch.delenv(name)
    for name in ("STATE", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
    folder = tmp_path / "checkout" / ("weights_cache" if request.param == "weights_cache" else "weights")
    Cache(folder).make()
    if request.param == "zoo.toml":
        (tmp_path / "checkout" / "zoo.toml").write_text('cache = "weights"')
    monkeypatch.chdir(tmp_path / "checkout")
    assert Cache().root == folder
    return Cache()


def planted(cache, data):
    """Put an object and a ref with its stamp there, as the author of the checkout could; the digest of the data."""
    digest = hashlib.sha256(data).hexdigest()
    path = cache.place(digest, "net.pth")
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    refer(cache, digest, path)
    return digest


def refer(cache, digest, path):
    stamp = Stamp.of(path)
    ref = Ref(digest, stamp.size, "net.pth", NOWHERE, "declared", "2026-01-01T00:00:00Z", stamp)
    cache.write_ref(cache.ref_path("acme", "net", "V1"), ref)


def obtained(digest):
    weights = Weights("V1", (NOWHERE,), digest)
    return obtain(Card("acme", "net", "acme:net", weights=(weights,)), weights)


@pytest.fixture
def hashed(monkeypatch):
    """The files that were hashed."""
    paths, real = [], digests.steady_digest
    monkeypatch.setattr(digests, "steady_digest", lambda path: paths.append(path) or real(path))
    return paths


def test_its_stamps_are_not_believed(found):
    digest = planted(found, b"weights")
    path = found.place(digest, "net.pth")
    path.write_bytes(b"planted")
    refer(found, digest, path)
    with pytest.raises(FetchError):
        obtained(digest)
    assert not path.exists()


def test_its_files_are_hashed_once(found, hashed):
    digest = planted(found, b"weights")
    assert [obtained(digest).fetched for _ in range(3)] == [False] * 3
    assert len(hashed) == 1


def test_what_changes_in_it_is_hashed_again(found, hashed):
    path = obtained(planted(found, b"weights")).path
    os.utime(path, (1, 1))
    hashed.clear()
    assert obtained(path.parent.name).path == path
    assert hashed == [path]


@pytest.mark.parametrize("digits", [8, 0], ids=["a prefix", "no digest"])
def test_its_refs_vouch_for_nothing(found, digits, monkeypatch):
    digest = planted(found, b"forged")
    with pytest.raises(ZooError):
        obtained(digest[:digits])
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    with pytest.raises(Offline, match=f"ZOO_CACHE={found.root}"):
        obtained(digest[:digits])
    monkeypatch.setenv("ZOO_CACHE", str(found.root))  # as the error says
    assert obtained(digest[:digits]).sha256 == digest


def test_what_this_user_fetched_into_it_stays_pinned(found, server):
    weights = Weights("V1", (server.put("/net.pth", b"weights"),), "")
    card = Card("acme", "net", "acme:net", weights=(weights,))
    obtain(card, weights, trust="first-use")
    server.close()
    assert obtain(card, weights).fetched is False


def test_without_a_home_folder_its_files_are_hashed_each_time(found, monkeypatch, hashed):
    monkeypatch.setattr(digests, "_digest_note", lambda _: None)
    digest = planted(found, b"weights")
    assert [obtained(digest[:8]).sha256 for _ in range(2)] == [digest] * 2
    assert len(hashed) == 2


def test_a_converted_copy_in_it_is_made_anew(found, tmp_path):
    torch.save({"weight": torch.ones(9)}, tmp_path / "net.pth", _use_new_zipfile_serialization=False)
    artefact = obtained(planted(found, (tmp_path / "net.pth").read_bytes()))
    assert Copy(Cache(found.root), artefact.sha256).write({"weight": torch.zeros(9)}, "net")
    shutil.rmtree(tmp_path / "STATE")
    assert state_dict_of(artefact)["weight"].sum() == 9


def test_cached_features_in_it_are_computed_anew(found):
    dataset = torch.utils.data.TensorDataset(torch.ones(4, 1, 2, 2), torch.zeros(4))
    zoo.cached_features(nn.Flatten(), dataset)
    file = next((found.root / "features").glob("*/features.bin"))
    file.write_bytes(bytes(file.stat().st_size))
    digest, stamp = digests.steady_digest(file)
    record = json.loads(file.with_name("whole.json").read_text())
    record["features"] |= {"sha256": digest, "stamp": str(stamp)}
    file.with_name("whole.json").write_text(json.dumps(record))
    assert zoo.cached_features(nn.Flatten(), dataset)[0][0].sum() == 4


def test_a_cache_that_the_user_names_is_believed(found, monkeypatch, hashed):
    monkeypatch.setenv("ZOO_CACHE", str(found.root))
    digest = planted(found, b"weights")
    assert obtained(digest[:8]).path == found.place(digest, "net.pth")
    assert hashed == []

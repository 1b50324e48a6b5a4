import os
import tarfile
import time

import pytest
from support.loopback import sha256

from zoo_core import Card, Weights
from zoo_core.errors import CacheError, DigestMismatch, Offline, Untrusted, UsageError
from zoo_core.weights import Cache, obtain
from zoo_core.weights.cache import inventory, pruning
from zoo_core.weights.cache.bundle import export_bundle, import_bundle
from zoo_core.weights.cache.mirrors import export_mirror
from zoo_core.weights.cache.other_caches import adopt

ONE, TWO = os.urandom(30_000), os.urandom(20_000)


def card(name, *urls, data=ONE, digest=None):
    weights = Weights("V1", urls, sha256(data) if digest is None else digest)
    return Card("acme", name, "acme:net", weights=(weights,), default="V1")


@pytest.fixture
def cache(server):
    for name, data in (("one", ONE), ("two", TWO)):
        made = card(name, server.put(f"/{name}.pth", data), data=data)
        obtain(made, made.find())
    return Cache()


def names(cache):
    return [item.name for item in inventory.contents(cache)[0]]


def everything(cache):
    return inventory.contents(cache)[0]


def test_the_cache_lists_what_it_has(cache):
    kept, problems = inventory.contents(cache)
    assert [(item.name, item.ref.size, item.present) for item in kept] == [
        ("acme/one@V1", 30_000, True),
        ("acme/two@V1", 20_000, True),
    ]
    assert problems == []


def test_patterns_choose_with_or_without_the_tag(cache):
    assert [item.name for item in inventory.contents(cache, ["acme/o*"])[0]] == ["acme/one@V1"]
    assert [item.name for item in inventory.contents(cache, ["acme/two@V1"])[0]] == ["acme/two@V1"]


def test_a_pattern_that_matches_nothing_is_an_error_with_the_close_ones(cache):
    with pytest.raises(UsageError, match="acme/one@V1"):
        inventory.contents(cache, ["acme/on@V1"])


def test_one_bad_ref_does_not_hide_the_others(cache):
    cache.ref_path("acme", "one", "V1").write_text("nonsense")
    kept, problems = inventory.contents(cache)
    assert [item.name for item in kept] == ["acme/two@V1"]
    assert problems[0].line == 1


def test_the_last_use_is_remembered(cache, server):
    path = cache.ref_path("acme", "one", "V1")
    os.utime(path, (1, 1))
    made = card("one", server.url("/one.pth"))
    obtain(made, made.find())
    assert time.time() - everything(cache)[0].used.timestamp() < 60


def test_removing_a_name_frees_its_file(cache):
    kept, _ = inventory.contents(cache, ["acme/one"])
    assert pruning.remove(cache, kept) == 30_000
    assert names(cache) == ["acme/two@V1"]
    assert not kept[0].path.exists()


def test_a_file_that_another_name_needs_stays(cache, server):
    again = card("again", server.url("/one.pth"))
    obtain(again, again.find())
    kept, _ = inventory.contents(cache, ["acme/one"])
    assert pruning.remove(cache, kept) == 0
    assert kept[0].path.exists()


def test_prune_removes_what_nothing_needs(cache):
    kept = everything(cache)[0]
    (kept.path.parent / ".one.pth.bad").write_bytes(bytes(500))
    (cache.arriving / ".x.otherhost-1-ab.partial").write_bytes(bytes(70))
    os.utime(cache.arriving / ".x.otherhost-1-ab.partial", (1, 1))
    assert pruning.prune(cache) == 570
    assert names(cache) == ["acme/one@V1", "acme/two@V1"]


def test_prune_leaves_a_fresh_object_alone(cache):
    kept = everything(cache)[0]
    kept.ref_path.unlink()
    assert pruning.prune(cache) == 0
    assert kept.path.exists()


def test_prune_removes_what_was_long_unused(cache):
    kept = everything(cache)[0]
    os.utime(kept.ref_path, (1, 1))
    assert pruning.prune(cache, unused_days=30) == 30_000
    assert names(cache) == ["acme/two@V1"]


def test_prune_removes_nothing_while_a_ref_cannot_be_read(cache):
    cache.ref_path("acme", "one", "V1").write_text("nonsense")
    with pytest.raises(CacheError, match="line 1"):
        pruning.prune(cache)


def test_verify_finds_and_moves_aside_what_is_bad(cache):
    kept = everything(cache)[0]
    kept.path.chmod(0o644)
    kept.path.write_bytes(ONE[:-1] + b"x")
    assert sorted(good for _, good in inventory.verify(cache)) == [False, True]
    assert not kept.path.exists()


def test_a_file_that_is_here_is_taken_in_under_every_name_it_proves(tmp_path):
    (tmp_path / "renamed.bin").write_bytes(ONE)
    cards = [
        card("one", "https://h/one.pth"),
        card("other", "https://h/x.pth", digest=sha256(ONE)[:8]),
        card("two", "h", data=TWO),
    ]
    adopted = adopt(Cache(), tmp_path / "renamed.bin", cards)
    assert adopted.names == ("acme/one@V1", "acme/other@V1")
    assert obtain(cards[0], cards[0].find()).path.samefile(tmp_path / "renamed.bin")


def test_a_file_that_nothing_knows_is_refused(tmp_path):
    (tmp_path / "net.pth").write_bytes(b"?")
    with pytest.raises(Untrusted, match=r"net\.pth"):
        adopt(Cache(), tmp_path / "net.pth", [card("one", "https://h/one.pth"), card("free", "https://h/a", digest="")])


def test_a_mirror_serves_another_machine(cache, server, tmp_path, monkeypatch):
    assert export_mirror(cache, everything(cache), tmp_path / "mirror") == 2
    for path in (tmp_path / "mirror").rglob("*"):
        if path.is_file():
            server.put(f"/m/{path.relative_to(tmp_path / 'mirror')}", path.read_bytes())
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("ZOO_MIRROR", server.url("/m"))
    proven = card("one", "https://dead.invalid/one.pth")
    weak = card("two", "http://dead.invalid/two.pth", digest=sha256(TWO)[:8])
    assert obtain(proven, proven.find()).path.read_bytes() == ONE
    assert obtain(weak, weak.find()).path.read_bytes() == TWO


def test_a_mirror_has_a_list_that_sha256sum_reads(cache, tmp_path):
    import subprocess

    export_mirror(cache, everything(cache), tmp_path / "mirror")
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "mirror", check=True)


def test_a_mirror_can_be_written_twice(cache, tmp_path):
    export_mirror(cache, everything(cache), tmp_path / "mirror")
    assert export_mirror(cache, everything(cache)[:1], tmp_path / "mirror") == 2
    assert not list((tmp_path / "mirror").glob(".*"))


def test_a_bad_object_is_not_given_away(cache, tmp_path):
    kept = everything(cache)
    kept[0].path.chmod(0o644)
    kept[0].path.write_bytes(b"bad")
    with pytest.raises(DigestMismatch, match="acme/one@V1"):
        export_mirror(cache, kept, tmp_path / "mirror")
    with pytest.raises(DigestMismatch, match="acme/one@V1"):
        export_bundle(cache, kept, tmp_path / "bundle.tar")
    assert not (tmp_path / "bundle.tar").exists()


def test_a_bundle_carries_weights_to_a_machine_without_a_network(cache, tmp_path, monkeypatch):
    export_bundle(cache, everything(cache), tmp_path / "bundle.tar")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    assert import_bundle(Cache(), tmp_path / "bundle.tar") == ["acme/one@V1", "acme/two@V1"]
    one = card("one", "https://dead.invalid/one.pth")
    assert obtain(one, one.find()).path.read_bytes() == ONE


def test_one_selection_gives_one_bundle(cache, tmp_path):
    export_bundle(cache, everything(cache), tmp_path / "a.tar")
    export_bundle(cache, reversed(everything(cache)), tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_importing_twice_is_importing_once(cache, tmp_path):
    export_bundle(cache, everything(cache), tmp_path / "bundle.tar")
    assert import_bundle(cache, tmp_path / "bundle.tar") == import_bundle(cache, tmp_path / "bundle.tar")


def test_a_bundle_does_not_move_a_pin(tmp_path):
    pinned, other = tmp_path / "here", tmp_path / "there"
    file = tmp_path / "net.pth"
    made = card("one", file.as_uri(), digest="")
    for folder, data in ((pinned, ONE), (other, TWO)):
        file.write_bytes(data)
        obtain(made, made.find(), cache=Cache(folder), trust="first-use")
    export_bundle(Cache(other), everything(Cache(other)), tmp_path / "bundle.tar")
    with pytest.raises(DigestMismatch) as caught:
        import_bundle(Cache(pinned), tmp_path / "bundle.tar")
    assert (caught.value.expected_digest, caught.value.got_digest) == (sha256(ONE), sha256(TWO))
    assert obtain(made, made.find(), cache=Cache(pinned)).sha256 == sha256(ONE)


def test_a_bundle_does_not_vouch_for_itself(cache, tmp_path):
    kept = everything(cache)
    assert {item.ref.strength for item in kept} == {"proven"}
    export_bundle(cache, kept, tmp_path / "bundle.tar")
    import_bundle(Cache(tmp_path / "elsewhere"), tmp_path / "bundle.tar")
    assert {item.ref.strength for item in everything(Cache(tmp_path / "elsewhere"))} == {"first-use"}
    import_bundle(cache, tmp_path / "bundle.tar")
    assert {item.ref.strength for item in everything(cache)} == {"proven"}


def test_a_file_with_the_same_prefix_does_not_move_a_pin(tmp_path):
    file = tmp_path / "net.pth"
    file.write_bytes(ONE)
    made = card("one", file.as_uri(), digest=sha256(ONE)[:8])
    obtain(made, made.find())
    forged = tmp_path / "forged.pth"
    forged.write_bytes(TWO)
    loose = card("one", file.as_uri(), digest=sha256(TWO)[:8])
    with pytest.raises(DigestMismatch, match="is pinned to other bytes"):
        adopt(Cache(), forged, [loose])


@pytest.mark.parametrize("take", [import_bundle, lambda cache, file: adopt(cache, file, [])])
def test_a_file_that_cannot_be_read_is_called_that(cache, tmp_path, take):
    with pytest.raises(CacheError, match=r"cannot read .*missing"):
        take(cache, tmp_path / "missing")


def test_a_damaged_bundle_is_refused(cache, tmp_path, monkeypatch):
    export_bundle(cache, everything(cache), tmp_path / "bundle.tar")
    data = (tmp_path / "bundle.tar").read_bytes()
    at = data.index(ONE)
    (tmp_path / "bundle.tar").write_bytes(data[: at + 5] + bytes([data[at + 5] ^ 1]) + data[at + 6 :])
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "elsewhere"))
    with pytest.raises(DigestMismatch, match="in the bundle"):
        import_bundle(Cache(), tmp_path / "bundle.tar")
    assert not any(path.read_bytes() != TWO for path in inventory.objects(Cache()))


@pytest.mark.parametrize("keep", [0, 100, 700, 20_000])
def test_a_truncated_bundle_is_refused(cache, tmp_path, monkeypatch, keep):
    export_bundle(cache, everything(cache), tmp_path / "bundle.tar")
    os.truncate(tmp_path / "bundle.tar", keep)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "elsewhere"))
    with pytest.raises((CacheError, DigestMismatch)):
        import_bundle(Cache(), tmp_path / "bundle.tar")
    assert names(Cache()) == []


@pytest.mark.parametrize(
    "member",
    [
        "../evil",
        "/etc/evil",
        "objects/../../evil",
        "refs/../x",
        "refs/.a/b",
        "objects/ab/x",
        "other",
        "refs/a/b\n@c",
        "refs/a/\x1b[2J@c",
        "refs/a/b\udcff@c",
    ],
)
def test_a_bundle_writes_nothing_outside_the_cache(tmp_path, member):
    import io

    with tarfile.open(tmp_path / "bundle.tar", "w") as archive:
        info = tarfile.TarInfo(member)
        info.size = 4
        archive.addfile(info, io.BytesIO(b"evil"))
    with pytest.raises(CacheError, match="does not belong"):
        import_bundle(Cache(), tmp_path / "bundle.tar")
    assert not list(tmp_path.parent.rglob("evil"))


def test_a_bundle_whose_headers_are_broken_is_none(tmp_path):
    with tarfile.open(tmp_path / "bundle.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo(f"objects/{'a' * 64}/net.pth")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}  # and no list of holes follows
        archive.addfile(info)
    with pytest.raises(CacheError, match="is not a whole bundle"):
        import_bundle(Cache(), tmp_path / "bundle.tar")


def test_a_pipe_is_no_bundle(tmp_path):
    os.mkfifo(tmp_path / "bundle.tar")
    with pytest.raises(CacheError, match="not a plain file"):
        import_bundle(Cache(), tmp_path / "bundle.tar")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_a_bundle_holds_files_only(tmp_path, kind):
    with tarfile.open(tmp_path / "bundle.tar", "w") as archive:
        info = tarfile.TarInfo(f"objects/{'0' * 64}/net.pth")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(CacheError, match="does not belong"):
        import_bundle(Cache(), tmp_path / "bundle.tar")


@pytest.fixture
def shared(cache, monkeypatch, tmp_path):
    """The cache of a team, below an empty one of one's own."""
    monkeypatch.setenv("ZOO_CACHE_SHARED", str(cache.root))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    return cache


@pytest.mark.parametrize("digest", [sha256(ONE), sha256(ONE)[:8], ""], ids=["whole", "prefix", "none"])
def test_what_the_shared_cache_has_is_used_where_it_is(shared, digest):
    made = card("one", "https://example.invalid/one.pth", digest=digest)
    for _ in range(2):
        artefact = obtain(made, made.find())
        assert artefact.path.is_relative_to(shared.root)
        assert artefact.path.read_bytes() == ONE


def test_a_bad_file_in_the_shared_cache_is_not_used_and_not_touched(shared):
    path = shared.find(sha256(ONE))
    path.chmod(0o644)
    path.write_bytes(bytes(len(ONE)))
    made = card("one", "https://example.invalid/one.pth")
    with pytest.raises(Offline):
        obtain(made, made.find())
    assert path.read_bytes() == bytes(len(ONE))


def test_what_is_looked_after_is_ones_own_cache(shared):
    made = card("one", "https://example.invalid/one.pth")
    obtain(made, made.find())
    own = Cache()
    assert [item.present for item in inventory.contents(own)[0]] == [True]
    assert list(inventory.verify(own)) == []
    pruning.remove(own, inventory.contents(own)[0])
    assert shared.find(sha256(ONE)) is not None

import os
import stat

import pytest
from support.loopback import good, serving, sha256

from zoo_core import Card, Weights
from zoo_core.errors import CacheError, DigestMismatch, FetchError, Offline, Unreadable, Untrusted, UsageError
from zoo_core.weights.cache.store import Cache
from zoo_core.weights.proven_file import obtain, obtain_file

DATA = os.urandom(200_000)
OTHER = os.urandom(200_000)


def card(*urls, digest=None, tag="V1", size=None):
    weights = Weights(tag=tag, urls=urls, sha256=sha256(DATA) if digest is None else digest, size=size)
    return Card(family="acme", name="net", build="acme:net", weights=(weights,), default=tag)


def get(card, **keywords):
    return obtain(card, card.find(), **keywords)


@pytest.fixture
def url(server):
    return server.put("/net-5c106cde.pth", DATA)


def flip(path):
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(bytes(data))


def objects():
    return sorted(path for path in Cache().root.glob("objects/*/*"))


def test_the_first_call_fetches_and_the_second_touches_no_network(server, url):
    first = get(card(url))
    server.close()
    second = get(card(url))
    assert (first.fetched, second.fetched) == (True, False)
    assert first.path == second.path == Cache().place(sha256(DATA), "net-5c106cde.pth")
    assert second.source == url
    assert second.strength == "proven"
    assert len(server.requests) == 1


def test_an_object_is_read_only(url):
    assert stat.S_IMODE(get(card(url)).path.stat().st_mode) & 0o222 == 0


def test_a_warm_hit_hashes_nothing(url, monkeypatch):
    get(card(url))
    path = get(card(url)).path
    read = path.stat().st_atime_ns
    os.utime(path.parent)  # the folder may change; the file's own stamp is what counts
    monkeypatch.setattr(
        "zoo_core.weights.digest.sha256_of", lambda _path: pytest.fail("hashed a file that had not changed")
    )
    assert get(card(url)).path.stat().st_atime_ns == read


def test_a_wrong_byte_is_refused_and_nothing_is_left(server, url):
    server.always["/net-5c106cde.pth"] = serving(OTHER)
    with pytest.raises(DigestMismatch, match="acme/net@V1"):
        get(card(url))
    assert objects() == []


@pytest.mark.parametrize("damage", [flip, lambda p: (p.chmod(0o644), p.write_bytes(b"")), lambda p: os.truncate(p, 10)])
def test_a_damaged_object_is_moved_aside_and_fetched_again(server, url, damage):
    damage(get(card(url)).path)
    again = get(card(url))
    assert again.fetched
    assert again.path.read_bytes() == DATA
    assert again.path.with_name(f".{again.path.name}.bad").exists()
    assert len(server.requests) == 2


def test_a_flip_that_hides_behind_the_old_times_is_noticed(url):
    path = get(card(url)).path
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert get(card(url)).path.read_bytes() == DATA


def test_a_damaged_object_with_the_server_down_is_a_clear_error(server, url, policy):
    flip(get(card(url)).path)
    server.close()
    with pytest.raises(FetchError, match="cannot fetch acme/net@V1"):
        get(card(url), policy=policy)


def test_verify_always_hashes_on_every_hit(url, monkeypatch):
    import zoo_core.weights.digest as digests

    get(card(url))
    hashed = []
    real = digests.steady_digest
    monkeypatch.setattr(digests, "steady_digest", lambda path: hashed.append(path) or real(path))
    monkeypatch.setenv("ZOO_VERIFY", "always")
    get(card(url))
    assert len(hashed) == 1


def test_a_prefix_is_weak_and_the_digest_seen_first_is_pinned(server, url):
    weak = card(url, digest=sha256(DATA)[:8])
    first = get(weak)
    assert (first.strength, first.sha256) == ("weak", sha256(DATA))
    first.path.unlink()
    server.always["/net-5c106cde.pth"] = serving(OTHER)
    with pytest.raises(DigestMismatch) as caught:
        get(weak)
    assert caught.value.expected_digest == sha256(DATA)


def test_a_ref_that_is_damaged_is_an_error_where_its_pin_is_all_there_is(url):
    weak = card(url, digest=sha256(DATA)[:8])
    get(weak)
    ref = Cache().ref_path("acme", "net", "V1")
    ref.write_text(ref.read_text().replace("sha256", "sha257"))
    with pytest.raises(CacheError, match=r"line 1") as caught:
        get(weak)
    assert (caught.value.file, caught.value.line) == (str(ref), 1)


def test_a_ref_that_is_damaged_does_not_matter_where_the_card_has_the_digest(server, url):
    get(card(url))
    Cache().ref_path("acme", "net", "V1").write_text("")
    assert get(card(url)).fetched is False
    assert len(server.requests) == 1


def test_no_digest_at_all_is_refused_unless_first_use_is_trusted(url):
    with pytest.raises(Untrusted, match="first-use"):
        get(card(url, digest=""))
    first = get(card(url, digest=""), trust="first-use")
    assert (first.strength, first.sha256) == ("first-use", sha256(DATA))
    assert get(card(url, digest="")).fetched is False


@pytest.mark.parametrize("digest", ["", sha256(DATA)[:8]], ids=["no digest", "a prefix"])
def test_first_use_may_be_trusted_over_plain_http_too(server, monkeypatch, digest):
    server.files["http://weights.invalid/net.pth"] = DATA
    monkeypatch.setenv("http_proxy", server.url(""))
    far = card("http://weights.invalid/net.pth", digest=digest)
    with pytest.raises(Untrusted):
        get(far)
    assert get(far, trust="first-use").sha256 == sha256(DATA)


def test_an_unknown_kind_of_trust_is_a_usage_error(url):
    with pytest.raises(UsageError, match="first-use"):
        get(card(url), trust="first_use")


def test_the_next_source_is_tried_when_one_fails(server, url, policy):
    artefact = get(card(server.url("/gone.pth"), url), policy=policy)
    assert artefact.source == url
    assert [each.path for each in server.requests] == ["/gone.pth", "/net-5c106cde.pth"]


def test_the_next_source_is_tried_when_one_has_other_bytes(server, url):
    bad = server.put("/bad/net.pth", OTHER)
    assert get(card(bad, url)).source == url


def test_a_mirror_serves_by_digest_and_comes_first(server, url, monkeypatch):
    server.put(f"/mirror/{sha256(DATA)}", DATA)
    monkeypatch.setenv("ZOO_MIRROR", server.url("/mirror/"))
    assert get(card(url)).source == server.url(f"/mirror/{sha256(DATA)}")


def test_a_rewritten_prefix_goes_elsewhere(server, url, monkeypatch):
    monkeypatch.setenv("ZOO_REWRITE", f"http://dead.invalid/pub/={server.url('/')}")
    assert get(card("http://dead.invalid/pub/net-5c106cde.pth")).source == url


def test_offline_a_miss_names_the_file_and_how_to_bring_it(server, url, monkeypatch):
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    with pytest.raises(Offline, match="acme/net@V1") as caught:
        get(card(url))
    assert "zoo cache import" in str(caught.value)
    assert server.requests == []


def test_offline_a_hit_works(url, monkeypatch):
    get(card(url))
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    assert get(card(url)).fetched is False


def test_a_file_of_torch_hub_is_linked_in_after_hashing(server, url, tmp_path):
    held = tmp_path / "torch" / "hub" / "checkpoints" / "net-5c106cde.pth"
    held.parent.mkdir(parents=True)
    held.write_bytes(DATA)
    artefact = get(card(url, digest=sha256(DATA)[:8]))
    assert artefact.path.samefile(held)
    assert artefact.sha256 == sha256(DATA)
    assert server.requests == []


def test_a_bad_file_of_torch_hub_is_left_alone(server, url, tmp_path):
    held = tmp_path / "torch" / "hub" / "checkpoints" / "net-5c106cde.pth"
    held.parent.mkdir(parents=True)
    held.write_bytes(OTHER)
    assert get(card(url)).path.read_bytes() == DATA
    assert held.read_bytes() == OTHER


def test_a_file_of_the_hugging_face_hub_is_linked_in(tmp_path):
    repository = tmp_path / "hf" / "hub" / "models--org--repo"
    (repository / "blobs").mkdir(parents=True)
    (repository / "blobs" / sha256(DATA)).write_bytes(DATA)
    artefact = get(card("https://huggingface.co/org/repo/resolve/main/model.safetensors"))
    assert artefact.path.samefile(repository / "blobs" / sha256(DATA))
    assert artefact.path.name == "model.safetensors"


def test_two_names_of_one_file_share_one_object(server, url):
    get(card(url))
    again = get(card(server.put("/other-name.pth", DATA), tag="V2"))
    assert again.fetched is False
    assert len(objects()) == 1


def test_a_changed_digest_in_the_card_is_fetched_anew(server, url):
    get(card(url))
    server.put("/net-5c106cde.pth", OTHER)
    assert get(card(url, digest=sha256(OTHER))).path.read_bytes() == OTHER


def test_the_cache_is_tagged_for_backup_programs(url):
    get(card(url))
    assert (Cache().root / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55")


def test_a_progress_bar_is_shown_when_asked_for(server, url, capsys):
    server.script("/net-5c106cde.pth", good)
    get(card(url), progress=True)
    assert "net-5c106cde.pth" in capsys.readouterr().err


def test_a_users_own_file_is_taken_as_it_is(tmp_path):
    (tmp_path / "my.pth").write_bytes(DATA)
    artefact = obtain_file(tmp_path / "my.pth")
    assert (artefact.strength, artefact.sha256, artefact.size) == ("local", "", len(DATA))


def test_a_users_own_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(Unreadable, match=r"my\.pth"):
        obtain_file(tmp_path / "my.pth")


def test_a_damaged_object_does_not_stand_in_for_a_good_file_of_torch_hub(url, tmp_path):
    damaged = get(card(url)).path
    flip(damaged)
    Cache().ref_path("acme", "net", "V1").unlink()
    held = tmp_path / "torch" / "hub" / "checkpoints" / "net-5c106cde.pth"
    held.parent.mkdir(parents=True)
    held.write_bytes(DATA)
    assert get(card(url, digest=sha256(DATA)[:8])).path.read_bytes() == DATA


def test_an_object_under_another_file_name_is_found(server, url):
    path = get(card(url)).path
    path.rename(path.with_name("renamed.pth"))
    assert get(card(url)).fetched is False
    assert len(server.requests) == 1

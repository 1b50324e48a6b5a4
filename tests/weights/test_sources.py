"""Mirrors, the hub's own digests, and stores that fsspec reaches."""

import os

import pytest
from loopback import sha256, status

from zoo_core import Card, Weights
from zoo_core.errors import DigestMismatch, FetchError, Untrusted
from zoo_core.weights import Cache, fetch, obtain

DATA = os.urandom(50_000)
DIGEST = sha256(DATA)
HUB = "/org/repo/resolve/main/model.safetensors"


def card(*urls, digest=""):
    weights = Weights("V1", urls, digest)
    return Card("acme", "net", "acme:net", weights=(weights,)), weights


def like_the_hub(server, digest=DIGEST, data=DATA):
    """A large file on the hub: its metadata with a redirect, and its bytes on another path."""
    server.put("/cdn/blob", data)
    server.always[HUB] = status(302, Location="/cdn/blob", X_Linked_Etag=f'"{digest}"', ETag=f'"{digest}"')
    return server.url(HUB)


def test_the_digest_that_the_hub_declares_is_compared_with_the_bytes(server):
    artefact = obtain(*card(like_the_hub(server)))
    assert (artefact.strength, artefact.sha256) == ("declared", DIGEST)
    assert artefact.path.read_bytes() == DATA


def test_bytes_that_are_not_what_the_hub_declares_are_refused(server, policy):
    url = like_the_hub(server, data=os.urandom(50_000))
    with pytest.raises(DigestMismatch) as caught:
        obtain(*card(url), policy=policy)
    assert caught.value.expected_digest == DIGEST


def test_a_declared_digest_that_contradicts_the_card_is_an_error(server):
    with pytest.raises(DigestMismatch, match="has moved"):
        obtain(*card(like_the_hub(server), digest="00000000"))
    assert not any(asked.path == "/cdn/blob" for asked in server.asked)


def test_a_small_file_whose_etag_is_no_sha256_is_not_declared(server):
    server.always[HUB] = status(200, DATA, ETag='"0123456789abcdef0123456789abcdef01234567"')
    with pytest.raises(Untrusted):
        obtain(*card(server.url(HUB)))


def test_the_digest_of_a_repository_that_was_renamed_is_found(server):
    like_the_hub(server)
    server.always["/old/repo/resolve/main/model.safetensors"] = status(307, Location=HUB)
    assert obtain(*card(server.url("/old/repo/resolve/main/model.safetensors"))).strength == "declared"


@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_hub_that_refuses_a_file_says_so(server, policy, code):
    server.always[HUB] = status(code)
    with pytest.raises(FetchError, match=str(code)):
        obtain(*card(server.url(HUB)), policy=policy)


def test_an_endpoint_replaces_the_hub(server, monkeypatch):
    like_the_hub(server)
    monkeypatch.setenv("HF_ENDPOINT", server.url("/"))
    assert obtain(*card(f"https://huggingface.co{HUB}")).sha256 == DIGEST


def test_a_mirror_gives_weak_weights_their_whole_digest(server, monkeypatch):
    obtain(*card(server.put("/net.pth", DATA), digest=DIGEST))
    ref = Cache().ref_path("acme", "net", "V1").read_bytes()
    server.put("/mirror/refs/acme/net@V1", ref)
    server.put(f"/mirror/{DIGEST}", DATA)
    monkeypatch.setenv("ZOO_CACHE", os.environ["ZOO_CACHE"] + "-2")
    monkeypatch.setenv("ZOO_MIRROR", server.url("/mirror"))
    artefact = obtain(*card("http://dead.invalid/net.pth", digest=DIGEST[:8]))
    assert artefact.source == server.url(f"/mirror/{DIGEST}")
    assert artefact.strength == "weak"


def test_a_mirror_that_does_not_have_it_costs_nothing_but_a_question(server, monkeypatch, policy):
    monkeypatch.setenv("ZOO_MIRROR", server.url("/mirror"))
    assert obtain(*card(server.put("/net.pth", DATA), digest=DIGEST), policy=policy).source == server.url("/net.pth")


def test_a_mirror_with_other_bytes_is_passed_over(server, monkeypatch, policy):
    server.put(f"/mirror/{DIGEST}", os.urandom(50_000))
    monkeypatch.setenv("ZOO_MIRROR", server.url("/mirror"))
    assert obtain(*card(server.put("/net.pth", DATA), digest=DIGEST), policy=policy).source == server.url("/net.pth")


def test_weights_of_a_dead_plain_http_host_come_from_any_mirror_that_has_the_bytes(server, monkeypatch, policy):
    server.put("/pretrained/net-5c106cde.pth", DATA)
    monkeypatch.setenv("ZOO_REWRITE", f"http://dead.invalid/cadene/models/={server.url('/pretrained/')}")
    assert obtain(*card("http://dead.invalid/cadene/models/net-5c106cde.pth", digest=DIGEST[:8]), policy=policy).fetched


def test_a_store_that_fsspec_knows_is_a_source(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://bucket/net.pth", "wb") as file:
        file.write(DATA)
    assert fetch("memory://bucket/net.pth", tmp_path, sha256=DIGEST).read_bytes() == DATA


def test_a_store_without_its_library_names_it(tmp_path, policy):
    pytest.importorskip("fsspec")
    with pytest.raises(FetchError, match="s3"):
        fetch("s3://bucket/net.pth", tmp_path, sha256=DIGEST, policy=policy)


def test_a_missing_object_in_a_store_is_an_error_of_ours(tmp_path, policy):
    pytest.importorskip("fsspec")
    with pytest.raises(FetchError):
        fetch("memory://bucket/none.pth", tmp_path, sha256=DIGEST, policy=policy)


def test_a_hub_that_does_not_answer_is_named_where_nothing_else_is_known(policy, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FetchError, match=r"127\.0\.0\.1:9"):
        obtain(*card(f"https://huggingface.co{HUB}"), policy=policy)


def test_a_hub_that_does_not_answer_is_passed_over_where_a_prefix_is_known(server, policy, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    urls = (f"https://huggingface.co{HUB}", server.put("/net.pth", DATA))
    assert obtain(*card(*urls, digest=DIGEST[:8]), policy=policy).source == server.url("/net.pth")

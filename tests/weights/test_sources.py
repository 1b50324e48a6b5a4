"""Mirrors, the hub's own digests, and stores that fsspec reaches."""

import os
import re
import sys

import pytest
from support.loopback import Server, good, sha256, status

from zoo_core import Card, Weights
from zoo_core.errors import DigestMismatch, FetchError, Offline, Untrusted
from zoo_core.weights import Cache, fetch, obtain
from zoo_core.weights.cache.other_caches import adopt
from zoo_core.weights.transport.hub import hub_token

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
    assert not any(each.path == "/cdn/blob" for each in server.requests)


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


def test_a_hub_that_a_checkout_put_in_place_of_the_real_one_declares_nothing(server, monkeypatch, tmp_path):
    like_the_hub(server)
    (tmp_path / "zoo.toml").write_text(f'[rewrite]\n"https://huggingface.co/" = "{server.url("/")}"\n')
    monkeypatch.delenv("ZOO_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Untrusted, match='trust="first-use"'):
        obtain(*card(f"https://huggingface.co{HUB}"))
    assert not server.requests
    assert obtain(*card(f"https://huggingface.co{HUB}"), trust="first-use").sha256 == DIGEST


def test_a_mirror_that_a_checkout_names_declares_nothing(server, monkeypatch, tmp_path, closed_port):
    obtain(*card(server.put("/net.pth", DATA), digest=DIGEST))
    server.put("/mirror/refs/acme/net@V1", Cache().ref_path("acme", "net", "V1").read_bytes())
    server.put(f"/mirror/{DIGEST}", DATA)
    monkeypatch.setenv("ZOO_CACHE", os.environ["ZOO_CACHE"] + "-2")
    monkeypatch.delenv("ZOO_CONFIG", raising=False)
    (tmp_path / "zoo.toml").write_text(f'mirror = ["{server.url("/mirror")}"]\n')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Untrusted):
        obtain(*card(f"http://127.0.0.1:{closed_port}/net.pth"))
    monkeypatch.setenv("ZOO_CONFIG", str(tmp_path / "zoo.toml"))  # said by the user
    assert obtain(*card(f"http://127.0.0.1:{closed_port}/net.pth")).sha256 == DIGEST


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


def test_a_store_that_fsspec_knows_is_a_source(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo_core.weights.transport.sources._STORES", ("memory",))  # fsspec's own, for tests
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://bucket/net.pth", "wb") as file:
        file.write(DATA)
    assert fetch("memory://bucket/net.pth", tmp_path, sha256=DIGEST).read_bytes() == DATA


def test_a_store_without_its_library_names_it(tmp_path, policy):
    pytest.importorskip("fsspec")
    with pytest.raises(FetchError, match="s3"):
        fetch("s3://bucket/net.pth", tmp_path, sha256=DIGEST, policy=policy)


@pytest.mark.parametrize("url", ["reference::file:///x", "simplecache::s3://b/x", "memory://b/x", "ftp://h/x"])
def test_a_scheme_that_is_not_listed_and_a_chain_never_reach_fsspec(url, tmp_path, policy, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda *_, **__: pytest.fail("fsspec was handed the url"))
    with pytest.raises(FetchError):
        fetch(url, tmp_path, sha256=DIGEST, policy=policy)


def test_a_missing_object_in_a_store_is_an_error_of_ours(tmp_path, policy, monkeypatch):
    monkeypatch.setattr("zoo_core.weights.transport.sources._STORES", ("memory",))
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


def hub_cache(folder, digest=DIGEST, data=DATA):
    """What huggingface_hub leaves: a blob named as the hub declared, and a link to it under its commit."""
    repository = folder / "hub" / "models--org--repo"
    for name in ("blobs", "refs", f"snapshots/{'a' * 40}"):
        (repository / name).mkdir(parents=True)
    (repository / "blobs" / digest).write_bytes(data)
    (repository / "refs" / "main").write_text("a" * 40)
    link = repository / "snapshots" / ("a" * 40) / "model.safetensors"
    link.symlink_to(repository / "blobs" / digest)
    return link


@pytest.fixture
def hub_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    return tmp_path


def on_the_hub():
    return card("https://huggingface.co" + HUB)


def test_what_the_cache_of_the_hub_has_is_used_offline(hub_home, monkeypatch):
    hub_cache(hub_home)
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    artefact = obtain(*on_the_hub())
    assert (artefact.sha256, artefact.strength) == (DIGEST, "declared")


def test_what_is_not_as_the_hub_declared_is_not_used(hub_home, monkeypatch):
    hub_cache(hub_home, data=b"other bytes")
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    with pytest.raises(Offline):
        obtain(*on_the_hub())


def test_a_file_of_the_cache_of_the_hub_can_be_taken_in(hub_home, monkeypatch):
    model, _ = on_the_hub()
    assert adopt(Cache(), hub_cache(hub_home), [model]).names == ("acme/net@V1",)
    hub_home.joinpath("hub").rename(hub_home / "gone")
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    assert obtain(*on_the_hub()).strength == "declared"


def test_the_hub_is_left_alone_when_its_own_setting_says_so(hub_home, server, monkeypatch):
    url = like_the_hub(server)
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Offline, match="HF_HUB_OFFLINE"):
        obtain(*card(url))
    assert not server.requests


@pytest.mark.parametrize("token", ["", "hf_abc"])
def test_a_gated_repository_says_where_to_accept_its_licence(server, policy, monkeypatch, token):
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    monkeypatch.setenv("HF_TOKEN", token)
    server.always[HUB] = status(401, X_Error_Code="GatedRepo")
    then = "your token has no access" if token else "set HF_TOKEN"
    advice = f"accept the licence at {server.url('/org/repo')}; {then}"
    with pytest.raises(FetchError, match=re.escape(advice)):
        obtain(*on_the_hub(), policy=policy)


def test_the_token_goes_to_the_hub_alone(server, monkeypatch, hub_home):
    other = Server(files={"/cdn/blob": DATA})
    server.always[HUB] = status(302, Location=other.url("/cdn/blob"), X_Linked_Etag=f'"{DIGEST}"')
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    try:
        assert obtain(*on_the_hub()).path.read_bytes() == DATA
        assert {each.headers.get("Authorization") for each in server.requests} == {"Bearer hf_abc"}
        assert [each.headers.get("Authorization") for each in other.requests] == [None]
    finally:
        other.close()


@pytest.mark.parametrize(("forbidden", "sent"), [("0", "Bearer hf_kept"), ("1", None)])
def test_the_token_that_hf_auth_login_keeps_is_sent_to_the_hub(server, monkeypatch, tmp_path, forbidden, sent):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", forbidden)
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "token").write_text("hf_kept\n")
    server.always[HUB] = status(401, X_Error_Code="GatedRepo")
    with pytest.raises(FetchError):
        obtain(*on_the_hub())
    assert {each.headers.get("Authorization") for each in server.requests} == {sent}
    assert hub_token("https://huggingface.co.evil.example/org/repo/resolve/main/x") == ""


def test_headers_go_to_the_url_that_they_are_for_alone(server, monkeypatch, closed_port):
    other = Server(files={"/blob": DATA})
    server.always[f"/zoo/{DIGEST}"] = status(302, Location=other.url("/blob"))
    monkeypatch.setenv("ZOO_MIRROR", server.url("/zoo"))
    monkeypatch.setenv("ZOO_HEADERS", f"{server.url('/zoo')}=X-Key: abc\n{server.url('/other')}=X-Other: d")
    try:
        assert obtain(*card(f"http://127.0.0.1:{closed_port}/net.pth", digest=DIGEST)).path.read_bytes() == DATA
        assert [(each.headers.get("X-Key"), each.headers.get("X-Other")) for each in server.requests] == [("abc", None)]
        assert [each.headers.get("X-Key") for each in other.requests] == [None]
    finally:
        other.close()


@pytest.mark.parametrize("code", [401, 500])
def test_a_mirror_that_fails_is_named_with_its_answer(server, policy, monkeypatch, closed_port, code):
    server.otherwise = status(code)
    monkeypatch.setenv("ZOO_MIRROR", server.url("/zoo"))
    with pytest.raises(FetchError, match=rf"{re.escape(server.url('/zoo'))}: status {code}"):
        obtain(*card(f"http://127.0.0.1:{closed_port}/net-5c106cde.pth", digest=DIGEST[:8]), policy=policy)


def test_the_signature_of_a_mirror_stays_at_the_end_of_its_url(server, monkeypatch, closed_port):
    paths = []

    def signed(handler, data):
        paths.append(handler.path)
        good(handler, DATA)

    server.always[f"/zoo/{DIGEST}"] = signed
    monkeypatch.setenv("ZOO_MIRROR", server.url("/zoo") + "?sig=abc")
    assert obtain(*card(f"http://127.0.0.1:{closed_port}/net.pth", digest=DIGEST)).path.read_bytes() == DATA
    assert paths == [f"/zoo/{DIGEST}?sig=abc"]


def test_a_proxy_that_speaks_socks_says_what_to_install(monkeypatch, tmp_path, policy):
    monkeypatch.setitem(sys.modules, "socks", None)
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(FetchError, match=r"pip install 'requests\[socks\]'"):
        fetch("http://example.invalid/net.pth", tmp_path, sha256=DIGEST, policy=policy)

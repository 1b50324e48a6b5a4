"""Where an answer came from: proxies and redirects are named, passwords and strangers' secrets are not."""

import os
import socket
import threading

import pytest
from support.loopback import cut, serving, sha256, status
from torch import nn

import zoo_core as zoo
from zoo_core.errors import DigestMismatch, FetchError, UsageError, ZooError
from zoo_core.weights import fetch
from zoo_core.weights.transport.policy import Policy

DATA = os.urandom(100_000)
DIGEST = sha256(DATA)
PATH = "/net.pth"
QUICK = Policy(timeout=0.4, attempts=2, sleep=lambda _seconds: None)


def stalled(handler, data):
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    handler.wfile.flush()
    threading.Event().wait(2)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(status(403), "403", id="403"),
        pytest.param(status(407), "407", id="407"),
        pytest.param(status(502), "502", id="502"),
        pytest.param(stalled, "bytes a second|in time", id="a stall"),
        pytest.param(status(302, Location="file:///etc/passwd"), "not on the web", id="a redirect to nowhere"),
        pytest.param(serving(b"<!DOCTYPE html><html>"), "an HTML page", id="a page to sign in on"),
    ],
)
def test_a_proxy_is_named_in_whatever_fails_through_it(server, tmp_path, monkeypatch, answer, reason):
    server.otherwise = answer
    port = server.http.server_port
    monkeypatch.setenv("http_proxy", f"http://me:secret@127.0.0.1:{port}")
    with pytest.raises((FetchError, DigestMismatch), match=reason) as caught:
        fetch("http://weights.invalid/net.pth", tmp_path, sha256=DIGEST, policy=QUICK)
    assert f"through the proxy http://127.0.0.1:{port}, from the environment" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_what_a_server_says_of_its_status_is_not_repeated(server, tmp_path, policy):
    def reply(handler, _data):
        handler.send_response(404, f"no {handler.path}")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    url = f"{server.url(PATH)}?key=secret"
    server.always[url.partition(server.url("/")[:-1])[2]] = server.always[PATH] = reply
    with pytest.raises(FetchError, match="status 404 Not Found") as caught:
        fetch(url, tmp_path, sha256="0" * 64, policy=policy)
    assert "secret" not in f"{caught.value} {vars(caught.value)}"


@pytest.mark.parametrize("url", ["https://me:secret@example.org/net", "https://me:secret@[::/net"])
def test_a_url_in_the_place_of_a_saved_folder_is_shown_without_its_password(url):
    with pytest.raises(UsageError, match="is a url") as caught:
        zoo.load(url)
    assert "secret" not in f"{caught.value} {vars(caught.value)}"


def test_a_url_that_cannot_be_read_is_an_error_of_ours_also_where_a_model_is_registered():
    zoo.register("acme/broken", weights="http://me:secret@[::bad/x", sha256="0" * 64)(nn.Identity)
    with pytest.raises(ZooError) as caught:
        zoo.get("acme/broken")
    assert "secret" not in f"{caught.value} {vars(caught.value)}"


def test_the_library_of_the_hub_is_given_no_password(tmp_path, policy):
    with pytest.raises(FetchError, match="takes no user or password") as caught:
        fetch("hf://me:secret@owner/name/net.pth", tmp_path, sha256="0" * 64, policy=policy)
    assert "secret" not in f"{caught.value} {vars(caught.value)}"


def test_a_password_in_a_proxy_that_is_misspelled_stays_out_of_messages(tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "me:secret@127.0.0.1:9")
    with pytest.raises(FetchError, match=r"through the proxy http://127\.0\.0\.1:9") as caught:
        fetch("http://weights.invalid/net.pth", tmp_path, sha256=DIGEST, policy=QUICK)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("line", "times"), [("407 Proxy Authentication Required", 1), ("503 Busy", 2)])
def test_a_proxy_that_opens_no_tunnel_is_named(tmp_path, monkeypatch, line, times):
    received = []

    def serve(listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                received.append(connection.recv(4096))
                connection.sendall(f"HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n".encode())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        port = listener.getsockname()[1]
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        with pytest.raises(FetchError, match=f"through the proxy http://127.0.0.1:{port}") as caught:
            fetch("https://weights.invalid/net.pth", tmp_path, sha256=DIGEST, policy=QUICK)
    assert line in str(caught.value)
    assert len(received) == times


def test_a_host_that_needs_no_proxy_is_not_said_to_be_behind_one(server, tmp_path, monkeypatch, policy):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.always[PATH] = status(404)
    with pytest.raises(FetchError) as caught:
        fetch(server.url(PATH), tmp_path, sha256=DIGEST, policy=policy)
    assert "proxy" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(status(403), "403", id="403"),
        pytest.param(status(503), "503", id="503"),
        pytest.param(stalled, "bytes a second|in time", id="a stall"),
        pytest.param(serving(b"<!DOCTYPE html><html>"), "an HTML page", id="a page to sign in on"),
    ],
)
def test_the_host_that_a_failure_was_redirected_to_is_named(server, tmp_path, answer, reason):
    server.always["/elsewhere/net.pth"] = answer
    target = server.url("/elsewhere/net.pth")
    server.always[PATH] = status(302, Location=f"{target}?signature=secret")
    with pytest.raises((FetchError, DigestMismatch), match=reason) as caught:
        fetch(server.url(PATH), tmp_path, sha256=DIGEST, policy=QUICK)
    assert f"(redirected to {target})" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_host_that_a_redirect_leads_to_and_that_is_not_there_is_named(server, tmp_path, policy):
    server.always[PATH] = status(302, Location="http://weights.invalid/net.pth")
    with pytest.raises(FetchError, match=r"redirected to http://weights\.invalid/net\.pth"):
        fetch(server.url(PATH), tmp_path, sha256=DIGEST, policy=policy)


def test_a_password_for_one_host_is_not_sent_to_the_next(server, tmp_path):
    server.put("/there.pth", DATA)
    port = server.http.server_port
    server.always[PATH] = status(302, Location=f"http://localhost:{port}/there.pth")
    url = f"http://me:secret@127.0.0.1:{port}{PATH}"
    assert fetch(url, tmp_path, sha256=DIGEST).read_bytes() == DATA
    assert [("Authorization" in each.headers) for each in server.requests] == [True, False]


@pytest.mark.parametrize("between", ["\\", "\\\\", "\t\\", "\\\n", " "])
@pytest.mark.parametrize("is_redirect", [False, True])
def test_a_url_whose_host_readers_differ_in_is_not_requested(is_redirect, between, server, tmp_path, policy):
    server.put("/there.pth", DATA)
    odd = f"http://127.0.0.1:{server.http.server_port}{between}@localhost:1/there.pth"
    server.always[PATH] = status(302, Location=odd.replace("\n", "\r\n "))
    with pytest.raises(FetchError):
        fetch(server.url(PATH) if is_redirect else odd, tmp_path, sha256=DIGEST, policy=policy)
    assert len(server.requests) == is_redirect


def test_the_token_of_the_hub_is_not_sent_to_a_host_before_a_backslash(server, tmp_path, policy, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", "http://localhost:1")
    server.put("/there.pth", DATA)
    server.always[PATH] = status(302, Location=f"http://127.0.0.1:{server.http.server_port}\\@localhost:1/there.pth")
    with pytest.raises(FetchError, match="one host or another"):
        fetch(server.url(PATH), tmp_path, sha256=DIGEST, policy=policy)
    assert len(server.requests) == 1


def test_a_cookie_is_not_sent_to_another_host(server, tmp_path):
    server.put("/there.pth", DATA)
    port = server.http.server_port
    server.always[PATH] = status(302, Location=f"http://localhost:{port}/there.pth", Set_Cookie="id=secret")
    assert fetch(server.url(PATH), tmp_path, sha256=DIGEST).read_bytes() == DATA
    assert "Cookie" not in server.requests[1].headers


def test_what_netrc_knows_of_one_host_stays_with_it(server, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server.put("/there.pth", DATA)
    port = server.http.server_port
    server.always[PATH] = status(302, Location=f"http://localhost:{port}/there.pth")
    assert fetch(server.url(PATH), tmp_path / "dest", sha256=DIGEST).read_bytes() == DATA
    assert [("Authorization" in each.headers) for each in server.requests] == [True, False]


@pytest.mark.parametrize(
    "url", ["http://me:secret@127.0.0.1:{port}/net.pth", "http://127.0.0.1:{port}/net.pth?key=secret"]
)
def test_what_a_failed_download_leaves_holds_no_password(server, tmp_path, policy, url):
    server.put(PATH, DATA)
    server.always[PATH] = status(404)
    server.script(PATH, cut(50_000))
    with pytest.raises(FetchError, match="kept apart"):
        fetch(url.format(port=server.http.server_port), tmp_path, sha256=DIGEST, policy=policy)
    left = list(tmp_path.iterdir())
    assert any(path.name.endswith(".origin") for path in left)
    assert all(b"secret" not in path.read_bytes() for path in left)

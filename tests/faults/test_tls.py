"""Certificates that are wrong, and lines that are meant to be protected."""

import os
import shutil
import socket
import threading
import time

import pytest
from support.loopback import certificate, secured, sha256, status

from zoo_core.errors import FetchError
from zoo_core.weights import fetch
from zoo_core.weights.transport.policy import Policy

DATA = os.urandom(100_000)
DIGEST = sha256(DATA)

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificates of these tests")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    return {name: certificate(folder, name) for name in ("localhost", "elsewhere.invalid")}


@pytest.fixture
def secure(certificates):
    server = secured(certificates["localhost"])
    yield server
    server.close()


def https(server, path):
    return f"https://localhost:{server.http.server_port}{path}"


@pytest.fixture
def trusted(certificates, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates["localhost"][1]))


@pytest.mark.usefixtures("trusted")
def test_a_companys_own_authority_can_be_named(secure, tmp_path):
    secure.put("/net.pth", DATA)
    assert fetch(https(secure, "/net.pth"), tmp_path, sha256=DIGEST).read_bytes() == DATA


def test_an_unknown_certificate_is_refused_at_once_and_the_remedy_named(secure, tmp_path):
    slept = []
    with pytest.raises(FetchError, match="REQUESTS_CA_BUNDLE"):
        fetch(https(secure, "/net.pth"), tmp_path, sha256=DIGEST, policy=Policy(timeout=2, sleep=slept.append))
    assert slept == []


def test_a_certificate_for_another_host_is_refused(certificates, tmp_path, policy, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates["elsewhere.invalid"][1]))
    server = secured(certificates["elsewhere.invalid"])
    try:
        with pytest.raises(FetchError, match="certificate"):
            fetch(https(server, "/net.pth"), tmp_path, sha256=DIGEST, policy=policy)
        assert server.requests == []
    finally:
        server.close()


@pytest.mark.usefixtures("trusted")
def test_a_redirect_from_https_to_plain_http_is_refused(secure, server, tmp_path, policy):
    server.put("/net.pth", DATA)
    secure.always["/old"] = status(302, Location=server.url("/net.pth"))
    with pytest.raises(FetchError, match="from https to plain http"):
        fetch(https(secure, "/old"), tmp_path, sha256=DIGEST, policy=policy)
    assert server.requests == []


@pytest.mark.usefixtures("trusted")
def test_a_redirect_from_http_to_https_is_followed(secure, server, tmp_path):
    secure.put("/net.pth", DATA)
    server.always["/old"] = status(302, Location=https(secure, "/net.pth"))
    assert fetch(server.url("/old"), tmp_path, sha256=DIGEST).read_bytes() == DATA


def test_plain_http_where_https_was_meant_is_given_up(server, tmp_path, policy):
    server.put("/net.pth", DATA)
    url = server.url("/net.pth").replace("http://", "https://")
    with pytest.raises(FetchError):
        fetch(url, tmp_path, sha256=DIGEST, policy=policy)


def test_a_handshake_that_never_ends_is_given_up(tmp_path):
    def dawdle(listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(connection,), daemon=True).start()

    def drip(connection):
        with connection:
            try:
                for _ in range(200):
                    connection.send(b"\x16")
                    time.sleep(0.05)
            except OSError:
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=dawdle, args=(listener,), daemon=True).start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/net.pth"
        started = time.monotonic()
        with pytest.raises(FetchError):
            fetch(url, tmp_path, sha256=DIGEST, policy=Policy(timeout=0.5, sleep=lambda _seconds: None))
        assert time.monotonic() - started < 10


def test_the_authorities_of_ssl_cert_file_are_believed(secure, tmp_path, policy, monkeypatch, certificates):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates["localhost"][1]))
    secure.put("/net.pth", DATA)
    assert fetch(https(secure, "/net.pth"), tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    with pytest.raises(FetchError, match=r"missing\.pem; SSL_CERT_FILE names it"):
        fetch(https(secure, "/net.pth"), tmp_path / "b", sha256=DIGEST, policy=policy)


def test_a_list_of_authorities_that_is_missing_is_named(secure, tmp_path, policy, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    with pytest.raises(FetchError, match=r"missing\.pem; REQUESTS_CA_BUNDLE names it"):
        fetch(https(secure, "/net.pth"), tmp_path, sha256="0" * 64, policy=policy)

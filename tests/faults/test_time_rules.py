"""Every rule about time, whatever frames the body: a length, the end of the line, HTTP/1.0, chunks; plain and over TLS.

Many downloads of the table run at once, since all they do is wait.
"""

import os
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest
from support.loopback import Server, certificate, secured, sha256

from zoo_core.errors import FetchError, ZooError
from zoo_core.weights import fetch
from zoo_core.weights.transport.policy import Policy

DATA = os.urandom(60_000)
DIGEST = sha256(DATA)
FRAMES = ("keep-alive", "close", "HTTP/1.0", "chunked")
FAULTS = ("is silent in the headers", "drips in the headers", "is silent in the body", "drips in the body")
CONNECTIONS = ("the only connection", "one of several", "each of several")
SCHEMES = ("http", "https")
CELLS = [" ".join(cell) for cell in product(SCHEMES, FRAMES, CONNECTIONS, FAULTS)]
SECONDS = 40.0
"""For which such an answer goes on; a client that believes it waits for as long."""
AT_ONCE = 16


def policy(connections):
    """Little patience; more where the file has to come, on a machine that is busy."""
    several = {"connections": 3, "split_from": 6_000, "split_below": 1e12, "piece": 6_000}
    one = {"connections": 1}
    patience = {"timeout": 2} if connections == "one of several" else {"timeout": 0.5, "attempts": 1}
    return Policy(sleep=lambda _seconds: None, **patience, **(one if "only" in connections else several))


def bounds(handler):
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
    return (int(match[1]), int(match[2] or len(DATA) - 1) + 1) if match else (0, len(DATA))


def head(handler, frame, start, end):
    """The first line and the headers of an answer in that frame."""
    handler.close_connection = frame in ("close", "HTTP/1.0")
    version, own = {
        "keep-alive": ("1.1", f"Content-Length: {end - start}"),
        "close": ("1.1", f"Connection: close\r\nContent-Length: {end - start}"),
        "HTTP/1.0": ("1.0", "Server: old"),
        "chunked": ("1.1", "Transfer-Encoding: chunked"),
    }[frame]
    part = f"Content-Range: bytes {start}-{end - 1}/{len(DATA)}\r\n" if "Range" in handler.headers else ""
    status = "206 Partial Content" if part else "200 OK"
    return f'HTTP/{version} {status}\r\n{part}{own}\r\nETag: "abc"\r\nAccept-Ranges: bytes\r\n\r\n'.encode()


def framed(frame, body):
    return b"%x\r\n%s\r\n" % (len(body), body) if frame == "chunked" else body


def send(handler, frame):
    """The right bytes."""
    start, end = bounds(handler)
    handler.wfile.write(head(handler, frame, start, end) + framed(frame, DATA[start:end]))
    handler.wfile.write(b"0\r\n\r\n" if frame == "chunked" else b"")


def fail(handler, frame, fault):
    """An answer that never ends, of which nothing comes any more or a byte at a time."""
    start, end = bounds(handler)
    handler.close_connection = True
    text = head(handler, frame, start, end)
    in_headers = "headers" in fault
    handler.wfile.write(text[:-2] if in_headers else text)
    if "silent" in fault:
        handler.connection.settimeout(SECONDS)
        handler.rfile.read(1)  # until the client hangs up
    for step in range(int(SECONDS / 0.05) if "drips" in fault else 0):
        byte = DATA[start + step : start + step + 1]
        handler.wfile.write(b"X-%d: y\r\n" % step if in_headers else framed(frame, byte))
        time.sleep(0.05)


def reply(frame, connections, fault):
    lock, failed = threading.Lock(), []

    def answer(handler, _data):
        start, _ = bounds(handler)
        with lock:
            is_wrong = {
                "the only connection": True,
                "one of several": start >= 30_000 and not failed,
                "each of several": start > 0,
            }[connections]
            failed.extend([start] if is_wrong else [])
        try:
            fail(handler, frame, fault) if is_wrong else send(handler, frame)
        except OSError:  # the client has hung up
            handler.close_connection = True

    return answer


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What became of each download: whether its bytes are right, or the error."""
    folder = tmp_path_factory.mktemp("downloads")
    servers, settings = {"http": Server()}, pytest.MonkeyPatch()
    if shutil.which("openssl"):
        key_and_certificate = certificate(folder, "localhost")
        settings.setenv("REQUESTS_CA_BUNDLE", str(key_and_certificate[1]))
        servers["https"] = secured(key_and_certificate)
    settings.setenv("NO_PROXY", "*")

    def download(number, scheme, frame, connections, fault):
        path, server = f"/{number}/net.pth", servers[scheme]
        server.always[path] = reply(frame, connections, fault)
        url = f"{scheme}://localhost:{server.http.server_port}{path}"
        try:
            got = fetch(url, folder / str(number), sha256=DIGEST, size=len(DATA), policy=policy(connections))
        except ZooError as error:
            return error
        return got.read_bytes() == DATA

    with ThreadPoolExecutor(AT_ONCE) as pool:
        cells = [cell for cell in product(SCHEMES, FRAMES, CONNECTIONS, FAULTS) if cell[0] in servers]
        waiting = {" ".join(cell): pool.submit(download, number, *cell) for number, cell in enumerate(cells)}
        outcomes = {cell: result.result() for cell, result in waiting.items()}
    yield outcomes
    settings.undo()
    for server in servers.values():
        server.close()


@pytest.mark.parametrize("cell", CELLS)
def test_a_connection_is_given_up_that(cell, results):
    if cell.startswith("https") and not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    result = results[cell]
    if "one of several" in cell:
        assert result is True, str(result)
    else:
        assert isinstance(result, FetchError)

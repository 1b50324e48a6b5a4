"""Answers that are malformed, contradictory or meant to harm, one after the other."""

import gzip
import os
import socket
import struct
import threading
import time
import zlib

import pytest
from support.loopback import Server, cut, hang_up, requested_start, serving, sha256, status

from zoo_core.errors import DigestMismatch, FetchError, WeightsError
from zoo_core.weights import fetch
from zoo_core.weights.transport.policy import Policy

DATA = os.urandom(300_000)
DIGEST = sha256(DATA)
PATH = "/net.pth"
LENGTH = b"Content-Length: %d\r\n" % len(DATA)


@pytest.fixture
def url(server):
    return server.put(PATH, DATA)


def raw(*pieces, pause=0.0):
    def reply(handler, _data):
        for piece in pieces:
            handler.wfile.write(piece)
            handler.wfile.flush()
            time.sleep(pause)
        hang_up(handler)

    return reply


def answer(headers=LENGTH, body=DATA, line=b"HTTP/1.1 200 OK"):
    return raw(line + b"\r\n" + headers + b"\r\n" + body)


def multipart(handler, data):
    body = b"--x\r\nContent-Range: bytes 0-9/10\r\n\r\n" + data[requested_start(handler) :] + b"\r\n--x--\r\n"
    status(206, body, Content_Type="multipart/byteranges; boundary=x")(handler, data)


def unasked_part(handler, data):
    status(206, data[:1000], Content_Range=f"bytes 0-999/{len(data)}")(handler, data)


def later_part(handler, data):
    status(206, data[1000:], Content_Range=f"bytes 1000-{len(data) - 1}/{len(data)}")(handler, data)


def packed_and_cut(handler, data):
    status(200, gzip.compress(data)[:-2000], Content_Encoding="gzip")(handler, data)


def reset_after_the_end(handler, data):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data) + 1))
    handler.end_headers()
    handler.send_body(data)
    handler.wfile.flush()
    time.sleep(0.3)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


FAKE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(multipart, id="parts in parts"),
        pytest.param(unasked_part, id="a part that was not requested"),
        pytest.param(later_part, id="a later part that was not requested"),
        pytest.param(packed_and_cut, id="an encoding that ends too early"),
        pytest.param(answer(LENGTH + b"Content-Length: 5\r\n"), id="two lengths"),
        pytest.param(answer(b"Content-Length: 5, 300000\r\n"), id="two lengths in one"),
        pytest.param(answer(b"Content-Length: 5\r\n", DATA[:5] + FAKE), id="a second answer after the first"),
        pytest.param(answer(line=b"HTTP/1.1 2000 OK"), id="a status of four digits"),
        pytest.param(answer(line=b"HTTP/1.1 -20 OK"), id="a negative status"),
        pytest.param(answer(line=b"HTTP/9.9 200 OK"), id="a version to come"),
        pytest.param(answer(line=b"ICY 200 OK"), id="a radio station"),
        pytest.param(raw(b"\r\n\r\n\r\n"), id="empty lines"),
        pytest.param(raw(bytes(5000)), id="zero bytes"),
        pytest.param(raw(b"SSH-2.0-OpenSSH_9.6\r\n"), id="another protocol"),
        pytest.param(
            answer(b"Transfer-Encoding: chunked\r\n", b"FFFFFFFFFFFFFFFFFFFFFF\r\n" + DATA),
            id="a chunk of many exabytes",
        ),
        pytest.param(answer(b"Transfer-Encoding: chunked\r\n", b"-5\r\n" + DATA), id="a negative chunk"),
        pytest.param(answer(b"Transfer-Encoding: chunked\r\n", b"5" * 100_000), id="an endless chunk length"),
        pytest.param(answer(b"Transfer-Encoding: gzip\r\n", b"x"), id="a transfer encoding of its own"),
        pytest.param(answer(LENGTH + b"Content-Encoding: gzip, gzip\r\n"), id="said to be packed twice"),
        pytest.param(reset_after_the_end, id="a reset after the last byte"),
        pytest.param(answer(LENGTH + b'ETag: "a"b\x0b\x85c"\r\n', DATA[:1000]), id="a tag with odd characters"),
        pytest.param(answer(LENGTH + b'ETag: "' + b"x" * 30_000 + b'"\r\n', DATA[:1000]), id="a tag without end"),
        pytest.param(answer(LENGTH + b'ETag: "\r\n', DATA[:1000]), id="half a tag"),
    ],
)
def test_what_is_malformed_once_does_no_harm(server, url, tmp_path, policy, fault):
    server.script(PATH, fault)
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(answer(b"Content-Length: +300000\r\n"), id="a length with a sign"),
        pytest.param(answer(b"Content-Length: 300_000\r\n"), id="a length with an underscore"),
        pytest.param(answer(b"Content-Length: 0x493e0\r\n"), id="a length in hex"),
        pytest.param(answer(b"content-LENGTH:300000\r\n"), id="a header in odd case"),
        pytest.param(answer(LENGTH + b"no colon here\r\n"), id="a header without a colon"),
        pytest.param(answer(LENGTH + b"X: a\r\n\tb\r\n"), id="a folded header"),
        pytest.param(answer(LENGTH + b"X: \x00\xff\r\n"), id="a zero byte in a header"),
        pytest.param(answer(line=b"HTTP/1.1 200"), id="no reason"),
        pytest.param(answer(line=b"HTTP/1.0 200 OK"), id="an old version"),
        pytest.param(raw((b"HTTP/1.1 200 OK\n" + LENGTH.replace(b"\r", b"") + b"\n") + DATA), id="bare line feeds"),
        pytest.param(answer(LENGTH + b"Content-Range: bytes 5-9/10\r\n"), id="a range that 200 does not have"),
        pytest.param(answer(LENGTH + b"Last-Modified: never\r\n"), id="a date that is none"),
        pytest.param(answer(LENGTH + b"Content-Encoding: identity\r\n"), id="said to be as it is"),
        pytest.param(answer(LENGTH + b"Content-Encoding: aws-chunked\r\n"), id="an unknown encoding"),
        pytest.param(answer(LENGTH + b"Content-Encoding: br\r\n"), id="only said to be brotli"),
        pytest.param(
            answer(LENGTH + b"Transfer-Encoding: chunked\r\n", b"493e0;x=y\r\n" + DATA + b"\r\n0\r\nT: r\r\n\r\n"),
            id="chunks with a length, an extension and a trailer",
        ),
        pytest.param(status(200, zlib.compress(DATA), Content_Encoding="deflate"), id="deflated"),
        pytest.param(status(206, DATA, Content_Range=f"bytes 0-{len(DATA) - 1}/{len(DATA)}"), id="206 and all of it"),
        pytest.param(status(206, DATA, Content_Range=f"bytes 0-{len(DATA) - 1}/*"), id="206 of unknown length"),
    ],
)
def test_what_is_only_odd_is_understood(server, url, tmp_path, policy, fault):
    server.always[PATH] = fault
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA


def spam(handler, _data):
    while True:
        handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 100)


def endless_redirects(handler, _data):
    status(302, Location=f"{PATH}?{time.monotonic_ns()}")(handler, _data)


def endless_headers(handler, _data):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        handler.wfile.write(b"X: y\r\n" * 1000)


def endless_body_of_a_redirect(handler, _data):
    handler.send_response(302)
    handler.send_header("Location", "/elsewhere.pth")
    handler.end_headers()
    while True:
        handler.send_body(bytes(100_000))


def ever_another(handler, _data):
    """Each time other bytes, another tag, and half of them."""
    cut(150_000)(handler, os.urandom(300_000))


def trailers_without_end(handler, _data):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwrong\r\n0\r\n")
    while True:
        handler.wfile.write(b"X: y\r\n" * 1000)


@pytest.mark.parametrize(
    "fault", [spam, endless_redirects, endless_headers, ever_another, trailers_without_end, endless_body_of_a_redirect]
)
def test_what_never_ends_is_ended_by_us(server, url, tmp_path, fault):
    server.always[PATH] = fault
    started = time.monotonic()
    with pytest.raises(WeightsError):
        fetch(url, tmp_path, sha256=DIGEST, policy=Policy(timeout=0.5, sleep=lambda _seconds: None))
    assert time.monotonic() - started < 12
    assert len(server.requests) < 60


@pytest.mark.parametrize(
    "location",
    [
        "/there.pth#part",
        "//{host}/there.pth",
        "there.pth",
        "./x/../there.pth",
        "HTTP://{host}/there.pth",
        "  /there.pth  ",
    ],
)
def test_a_redirect_may_be_written_in_many_ways(server, tmp_path, policy, location):
    server.put("/there.pth", DATA)
    host = f"127.0.0.1:{server.http.server_port}"
    server.always["/old"] = status(302, Location=location.format(host=host))
    assert fetch(server.url("/old"), tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA


@pytest.mark.parametrize(
    "location",
    [
        "http://",
        "http:///x",
        "http://a b/",
        "http://\u00e4" + "a" * 70 + ".invalid/",
        "http://x:y/",
        "data:,x",
        "/\x00",
    ],
)
def test_a_redirect_that_means_nothing_is_an_error_of_ours(server, tmp_path, policy, location):
    server.always["/old"] = raw(b"HTTP/1.1 302 Found\r\nLocation: %s\r\n\r\n" % location.encode())
    server.always["/\x00"] = status(404)
    with pytest.raises(FetchError):
        fetch(server.url("/old"), tmp_path, sha256=DIGEST, policy=policy)


@pytest.mark.parametrize(
    "url",
    [
        "http://" + "a" * 70 + ".invalid/net.pth",
        "http://" + ".".join(["a" * 60] * 6) + "/net.pth",
        "http://127.0.0.1:0/net.pth",
        "http://127.0.0.1:99999/net.pth",
        "http://127.0.0.1:port/net.pth",
        "http:///net.pth",
        "http://%00/net.pth",
        "http://exa mple.invalid/net.pth",
        "http://[::1%25lo]:1/net.pth",
        "http://\u2603.invalid/net.pth",
    ],
)
def test_a_host_that_cannot_be_is_an_error_of_ours(tmp_path, policy, url):
    with pytest.raises((WeightsError, ValueError)) as caught:
        fetch(url, tmp_path, sha256=DIGEST, policy=policy)
    assert type(caught.value).__module__ == "zoo_core.errors"


@pytest.mark.parametrize(
    "path", ["/n\u00e9t w\u00f6rk.pth", "/a%2Fb.pth", "/net.pth;v=1", "/%E2%98%83.pth", "/a//b.pth"]
)
def test_a_path_may_have_odd_characters(server, tmp_path, policy, path):
    server.otherwise = serving(DATA)
    assert fetch(server.url(path), tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA


def test_a_line_that_is_closed_between_two_requests_costs_no_attempt(server, url, tmp_path):
    def answer_and_close(handler, data):
        status(503)(handler, data)
        handler.wfile.flush()
        hang_up(handler)

    server.script(PATH, answer_and_close, answer_and_close, answer_and_close)
    assert fetch(url, tmp_path, sha256=DIGEST, policy=Policy(sleep=lambda _s: time.sleep(0.05))).read_bytes() == DATA
    assert len(server.requests) == 4


def test_a_server_that_is_not_up_yet_is_waited_for(closed_port, tmp_path):
    servers = []

    def start_later(_seconds):
        if not servers:
            servers.append(Server(port=closed_port))
            servers[0].put(PATH, DATA)

    try:
        url = f"http://127.0.0.1:{closed_port}{PATH}"
        assert fetch(url, tmp_path, sha256=DIGEST, policy=Policy(sleep=start_later)).read_bytes() == DATA
    finally:
        for server in servers:
            server.close()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_an_address_of_the_sixth_version_is_reached(tmp_path, policy):
    try:
        server = Server(host="::1")
    except OSError:
        pytest.skip("no IPv6 loopback here")
    try:
        server.put(PATH, DATA)
        url = f"http://[::1]:{server.http.server_port}{PATH}"
        assert fetch(url, tmp_path, sha256=DIGEST[:12], policy=policy).read_bytes() == DATA
    finally:
        server.close()


def test_a_file_that_changes_where_only_a_date_says_so_is_begun_again(server, url, tmp_path, policy):
    new = os.urandom(len(DATA))

    def cut_and_change(handler, data):
        raw(b"HTTP/1.1 200 OK\r\nLast-Modified: Sat, 01 Jan 2000 00:00:00 GMT\r\n" + LENGTH + b"\r\n" + data[:90_000])(
            handler, data
        )
        server.files[PATH] = new

    server.script(PATH, cut_and_change)
    assert fetch(url, tmp_path, sha256=sha256(new), policy=policy).read_bytes() == new


@pytest.mark.parametrize("count", [0, 1, 1 << 20, (1 << 20) + 1])
def test_every_length_arrives(server, tmp_path, policy, count):
    data = os.urandom(count)
    path = fetch(server.put("/odd.bin", data), tmp_path, sha256=sha256(data), size=count, policy=policy)
    assert path.read_bytes() == data


def test_one_byte_short_in_every_attempt_is_given_up(server, url, tmp_path, policy):
    server.always[PATH] = lambda handler, data: cut(max(0, len(data) - 1 - requested_start(handler)))(handler, data)
    with pytest.raises(FetchError, match="closed too early"):
        fetch(url, tmp_path, sha256=DIGEST, policy=policy)
    assert len(server.requests) <= 2 * policy.attempts


def test_two_that_want_other_bytes_of_one_url_do_not_disturb_each_other(server, tmp_path, policy):
    one, two = os.urandom(400_000), os.urandom(400_000)
    server.put(PATH, one)
    outcomes = {}

    def ask(data):
        try:
            outcomes[data] = fetch(server.url(PATH), tmp_path, sha256=sha256(data), policy=policy).read_bytes()
        except DigestMismatch as error:
            outcomes[data] = error

    threads = [threading.Thread(target=ask, args=(data,)) for data in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes[one] == one
    assert isinstance(outcomes[two], DigestMismatch)


@pytest.mark.parametrize("spelled", ["{}", "sha256:{}", " {}\n", "SHA256:{}"])
@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_a_digest_may_be_spelled_in_many_ways(url, tmp_path, policy, spelled, case):
    assert fetch(url, tmp_path, sha256=spelled.format(case(DIGEST)), policy=policy).name == f"net-{DIGEST[:16]}.pth"


def test_a_file_that_begins_with_the_same_digits_is_another_file(server, tmp_path, policy):
    """Two urls of one file name and one prefix; only a whole digest tells them apart, and it does."""
    first = fetch(server.put("/a/net.pth", DATA), tmp_path, sha256=DIGEST[:8], policy=policy)
    other = DIGEST[:16] + "0" * 48
    with pytest.raises(DigestMismatch):
        fetch(server.url("/a/net.pth"), tmp_path, sha256=other, policy=policy)
    assert first.read_bytes() == DATA

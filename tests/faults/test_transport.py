"""Servers, lines and proxies that fail."""

import os
import socket
import struct
import threading
import time

import pytest
from support.loopback import cut, hang_up, requested_start, serving, sha256, status

from zoo_core.errors import DigestMismatch, FetchError, WeightsError
from zoo_core.weights import fetch
from zoo_core.weights.transport.policy import Policy

DATA = os.urandom(300_000)
DIGEST = sha256(DATA)
PATH = "/net.pth"


@pytest.fixture
def url(server):
    return server.put(PATH, DATA)


def visible(folder):
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


def reset(handler, data):
    """Close with a RST instead of a FIN."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


def silence(handler, data):
    time.sleep(8)
    handler.close_connection = True


def raw(text):
    def reply(handler, data):
        handler.wfile.write(text)
        hang_up(handler)

    return reply


def reset_in_the_middle(handler, data):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.send_body(data[:100_000])
    reset(handler, data)


def chunks(*pieces, end=b"0\r\n\r\n"):
    def reply(handler, data):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for piece in pieces or (data,):
            handler.send_body(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(end)
        hang_up(handler)

    return reply


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(reset, id="the line is reset"),
        pytest.param(raw(b""), id="closed without an answer"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nContent-Le"), id="closed in the headers"),
        pytest.param(raw(b"\x00\x01\x02 nonsense\r\n\r\n"), id="not http"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n"), id="too many headers"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"), id="an endless header"),
        pytest.param(reset_in_the_middle, id="reset in the middle"),
        pytest.param(cut(150_000), id="closed in the middle"),
        pytest.param(cut(0), id="closed before the first byte"),
        pytest.param(chunks(DATA[:1000], end=b""), id="chunks that end too early"),
        pytest.param(chunks(DATA[:1000], end=b"zz\r\n"), id="a chunk length that is no number"),
        pytest.param(chunks(DATA[:1000], end=b"ffffff\r\n" + DATA[1000:1003]), id="a chunk shorter than it says"),
        pytest.param(status(408), id="408"),
        pytest.param(status(429), id="429"),
        pytest.param(status(500), id="500"),
        pytest.param(status(502, b"<html>bad gateway</html>"), id="502"),
        pytest.param(status(503), id="503"),
        pytest.param(status(504), id="504"),
    ],
)
def test_what_passes_is_tried_again(server, url, tmp_path, policy, fault):
    server.script(PATH, fault)
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA
    assert len(server.requests) == 2


@pytest.mark.parametrize("code", [400, 401, 403, 404, 405, 410, 418, 451])
def test_a_refusal_is_asked_for_once(server, url, tmp_path, policy, code):
    server.always[PATH] = status(code)
    with pytest.raises(FetchError, match=str(code)):
        fetch(url, tmp_path, sha256=DIGEST, policy=policy)
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [201, 202, 203, 204, 304])
def test_a_success_that_is_no_file_is_refused(server, url, tmp_path, policy, code):
    server.always[PATH] = status(code)
    with pytest.raises(FetchError, match=str(code)):
        fetch(url, tmp_path, sha256=DIGEST, policy=policy)


def test_a_server_that_always_fails_is_given_up(server, url, tmp_path, policy):
    server.always[PATH] = status(500)
    with pytest.raises(FetchError, match="500"):
        fetch(url, tmp_path, sha256=DIGEST, policy=policy)
    assert len(server.requests) == policy.attempts


def test_pauses_grow_between_attempts(server, url, tmp_path):
    slept = []
    server.always[PATH] = status(500)
    with pytest.raises(FetchError):
        fetch(url, tmp_path, sha256=DIGEST, policy=Policy(sleep=slept.append, jitter=lambda: 1.0))
    assert slept == [0.2, 0.4, 0.8]


@pytest.mark.parametrize("code", [429, 503])
def test_a_server_that_asks_for_time_gets_it(server, url, tmp_path, code):
    slept = []
    server.script(PATH, status(code, Retry_After="7"))
    assert fetch(url, tmp_path, sha256=DIGEST, policy=Policy(sleep=slept.append)).read_bytes() == DATA
    assert slept == [7.0]


def test_a_long_pause_shows_signs_of_life(server, url, tmp_path):
    slept = []
    server.script(PATH, status(503, Retry_After="9"))
    policy = Policy(timeout=2, sleep=slept.append)
    fetch(url, tmp_path, sha256=DIGEST, policy=policy)
    assert sum(slept) == 9
    assert max(slept) < policy.patience


def test_what_arrived_is_mentioned_only_when_something_did(server, url, tmp_path, policy):
    server.always[PATH] = status(404)
    with pytest.raises(FetchError, match="nothing arrived"):
        fetch(url, tmp_path, sha256=DIGEST, policy=policy)
    server.always[PATH] = status(404)
    server.script(PATH, cut(1000))
    with pytest.raises(FetchError, match="kept apart"):
        fetch(url, tmp_path, sha256=DIGEST, policy=policy)


def test_a_failure_leaves_nothing_behind(server, url, tmp_path, policy):
    server.always[PATH] = status(404)
    with pytest.raises(FetchError):
        fetch(url, tmp_path, sha256=DIGEST, policy=policy)
    assert list(tmp_path.iterdir()) == []


def test_a_date_to_come_back_at_is_understood(server, url, tmp_path):
    from email.utils import formatdate

    slept = []
    server.script(PATH, status(503, Retry_After=formatdate(time.time() + 9, usegmt=True)))
    fetch(url, tmp_path, sha256=DIGEST, policy=Policy(sleep=slept.append))
    assert 6 < slept[0] <= 9


@pytest.mark.parametrize("text", ["86400", "Fri, 31 Dec 2199 23:59:59 GMT"])
def test_no_server_makes_us_wait_for_long(server, url, tmp_path, text):
    slept = []
    server.always[PATH] = status(429, Retry_After=text)
    with pytest.raises(FetchError, match="429"):
        fetch(url, tmp_path, sha256=DIGEST, policy=Policy(sleep=slept.append))
    assert sum(slept) <= Policy().retry_after


@pytest.mark.parametrize("text", ["soon", "-5", "", "1e9", "9" * 400, "9" * 5000, "\xb2"])
def test_nonsense_to_wait_for_is_not_waited_for(server, url, tmp_path, text):
    slept = []
    server.script(PATH, status(503, Retry_After=text))
    assert fetch(url, tmp_path, sha256=DIGEST, policy=Policy(sleep=slept.append)).read_bytes() == DATA
    assert sum(slept) <= Policy().retry_after


def test_a_line_that_drops_every_fifth_of_the_file_still_finishes(server, url, tmp_path, policy):
    server.always[PATH] = cut(60_000)
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA
    assert server.sent == len(DATA)


def test_a_line_that_drops_forty_times_still_finishes(server, url, tmp_path, policy):
    server.always[PATH] = cut(7_500)
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA
    assert len(server.requests) == 40


def test_a_line_that_drops_without_ranges_is_given_up(server, url, tmp_path, policy):
    def whole_but_cut(handler, data):
        handler.headers.replace_header("Range", "") if "Range" in handler.headers else None
        cut(60_000)(handler, data)

    server.always[PATH] = whole_but_cut
    with pytest.raises(FetchError, match="closed too early"):
        fetch(url, tmp_path, sha256=DIGEST, policy=policy)
    assert len(server.requests) <= 2 * policy.attempts


def test_a_server_that_gives_one_byte_a_time_and_drops_is_given_up(server, url, tmp_path, policy):
    server.always[PATH] = cut(1)
    with pytest.raises(FetchError):
        fetch(url, tmp_path, sha256=DIGEST, policy=policy)
    assert len(server.requests) <= 2 * policy.attempts


QUICK = Policy(timeout=0.25, sleep=lambda _seconds: None)
CALM = Policy(timeout=2, sleep=lambda _seconds: None)
"""For what must succeed, also on a machine that is busy with other tests."""


def drip(handler, data):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    for index in range(200):
        handler.wfile.write(data[index : index + 1])
        time.sleep(0.05)


def drip_headers(handler, data):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for index in range(200):
        handler.wfile.write(b"X-%d: y\r\n" % index if index % 8 == 0 else b"")
        time.sleep(0.05)


def drip_chunk_length(handler, data):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(200):
        handler.wfile.write(b"0")
        time.sleep(0.05)


def endless_interim(handler, data):
    for _ in range(200):
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.05)


def stall(handler, data):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.send_body(data[:50_000])
    handler.wfile.flush()
    time.sleep(5)


@pytest.mark.parametrize(
    "fault",
    [
        silence,
        drip,
        drip_headers,
        drip_chunk_length,
        endless_interim,
        stall,
    ],
)
def test_a_server_that_only_pretends_to_answer_is_given_up(server, url, tmp_path, fault):
    server.always[PATH] = fault
    started = time.monotonic()
    with pytest.raises(FetchError):
        fetch(url, tmp_path, sha256=DIGEST, policy=QUICK)
    assert time.monotonic() - started < 20 * QUICK.timeout


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(status(503), id="after a 503"),
        pytest.param(status(302, Location=PATH + "?again"), id="after a redirect"),
        pytest.param(serving(b"wrong"), id="after wrong bytes"),
    ],
)
def test_a_drip_on_a_line_that_was_kept_open_is_given_up(server, url, tmp_path, first):
    server.script(PATH, first)
    server.always[PATH] = drip
    started = time.monotonic()
    with pytest.raises(WeightsError):
        fetch(url, tmp_path, sha256=DIGEST, policy=QUICK)
    assert time.monotonic() - started < 20 * QUICK.timeout


def test_a_drip_that_goes_on_where_it_was_hung_up_is_given_up(server, tmp_path):
    def drip_on(handler, data):
        start = requested_start(handler)
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        for index in range(start, len(data)):
            handler.wfile.write(data[index : index + 1])
            time.sleep(0.05)

    server.always["/small.pth"] = drip_on
    with pytest.raises(FetchError, match="bytes a second"):
        fetch(server.put("/small.pth", DATA[:5000]), tmp_path, sha256=sha256(DATA[:5000]), policy=QUICK)
    assert len(server.requests) <= QUICK.attempts


def test_a_stall_is_continued_where_it_stopped(server, url, tmp_path):
    server.script(PATH, stall)
    assert fetch(url, tmp_path, sha256=DIGEST, policy=CALM).read_bytes() == DATA
    assert server.requests[1].headers["Range"] == "bytes=50000-"


def test_a_slow_but_steady_line_is_not_given_up(server, tmp_path):
    def steady(handler, data):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        for start in range(0, len(data), 1000):
            handler.send_body(data[start : start + 1000])
            handler.wfile.flush()
            time.sleep(0.1)

    url = server.put("/slow.pth", DATA[:30_000])
    server.always["/slow.pth"] = steady
    assert fetch(url, tmp_path, sha256=sha256(DATA[:30_000]), policy=CALM).stat().st_size == 30_000
    assert len(server.requests) == 1


def test_a_port_that_nobody_listens_on_is_given_up(tmp_path, policy):
    with pytest.raises(FetchError, match="refused"):
        fetch("http://127.0.0.1:9/net.pth", tmp_path, sha256=DIGEST, policy=policy)


def test_a_name_that_does_not_resolve_is_given_up(tmp_path, policy):
    with pytest.raises(FetchError, match=r"weights\.invalid"):
        fetch("http://weights.invalid/net.pth", tmp_path, sha256=DIGEST, policy=policy)


def test_a_listener_that_never_accepts_is_given_up(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/net.pth"
        with pytest.raises(FetchError):
            fetch(url, tmp_path, sha256=DIGEST, policy=QUICK)


def test_a_dead_proxy_is_named(tmp_path, policy, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    with pytest.raises(FetchError, match=r"the proxy http://127\.0\.0\.1:9") as caught:
        fetch("http://weights.invalid/net.pth", tmp_path, sha256=DIGEST, policy=policy)
    assert "secret" not in str(caught.value)


def test_a_proxy_is_used_when_there_is_one(server, tmp_path, policy, monkeypatch):
    server.files["http://weights.invalid/net.pth"] = DATA
    monkeypatch.setenv("http_proxy", server.url(""))
    assert fetch("http://weights.invalid/net.pth", tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_followed(server, url, tmp_path, code):
    server.always["/old"] = status(code, Location=PATH)
    assert fetch(server.url("/old"), tmp_path, sha256=DIGEST).read_bytes() == DATA


def test_a_redirect_never_names_the_file(server, url, tmp_path):
    server.always["/old.pth"] = status(302, Location=PATH, Content_Disposition="attachment; filename=../../evil.pth")
    assert fetch(server.url("/old.pth"), tmp_path, sha256=DIGEST).name.startswith("old-")


def test_a_redirect_may_be_spelled_in_utf_8(server, tmp_path):
    server.put("/w%C3%A9ights.pth", DATA)
    server.always["/old"] = raw("HTTP/1.1 302 Found\r\nLocation: /wéights.pth\r\nContent-Length: 0\r\n\r\n".encode())
    assert fetch(server.url("/old"), tmp_path, sha256=DIGEST).read_bytes() == DATA


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("/loop", "in a circle"),
        ("file:///etc/passwd", "not on the web"),
        ("ftp://weights.invalid/net.pth", "not on the web"),
        ("javascript:alert(1)", "not on the web"),
        ("http://[::bad/net.pth", "not a url"),
        ("http://127.0.0.1:99999/x", "not a usable url|in time|refused|port"),
        ("", "without a Location"),
    ],
)
def test_a_redirect_to_nowhere_ends(server, tmp_path, policy, location, reason):
    server.always["/loop"] = status(302, Location=location)
    with pytest.raises(FetchError, match=reason):
        fetch(server.url("/loop"), tmp_path, sha256=DIGEST, policy=policy)
    assert len(server.requests) == 1


def test_redirects_without_end_end(server, tmp_path, policy):
    for index in range(40):
        server.always[f"/{index}"] = status(302, Location=f"/{index + 1}")
    with pytest.raises(FetchError, match="more than 10 redirects"):
        fetch(server.url("/0"), tmp_path, sha256=DIGEST, policy=policy)


def test_a_redirect_to_plain_http_elsewhere_needs_the_full_digest(server, tmp_path, policy):
    server.always["/old"] = status(302, Location="http://weights.invalid/net.pth")
    with pytest.raises(FetchError, match="plain http"):
        fetch(server.url("/old"), tmp_path, sha256=DIGEST[:8], policy=policy)


def test_a_signed_redirect_is_asked_for_anew_in_each_attempt(server, url, tmp_path, policy):
    server.always["/old"] = status(302, Location=PATH)
    server.script(PATH, cut(100_000))
    assert fetch(server.url("/old"), tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA
    assert [each.path for each in server.requests] == ["/old", PATH, "/old", PATH]


def test_no_encoding_is_asked_for(server, url, tmp_path):
    fetch(url, tmp_path, sha256=DIGEST)
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


def test_an_encoding_that_was_not_asked_for_is_taken_off(server, url, tmp_path, policy):
    import gzip

    packed = gzip.compress(DATA)
    server.always[PATH] = status(200, packed, Content_Encoding="gzip")
    assert fetch(url, tmp_path, sha256=DIGEST, size=len(DATA), policy=policy).read_bytes() == DATA


def test_an_encoding_that_is_only_said_to_be_there_is_seen_through(server, url, tmp_path, policy):
    server.always[PATH] = status(200, DATA, Content_Encoding="gzip")
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA


def test_an_archive_that_is_said_to_be_an_encoding_stays_an_archive(server, tmp_path, policy):
    import gzip

    packed = gzip.compress(DATA, mtime=0)
    url = server.put("/net.pth.gz", packed)
    server.always["/net.pth.gz"] = status(200, packed, Content_Encoding="x-gzip")
    assert fetch(url, tmp_path, sha256=sha256(packed), policy=policy).read_bytes() == packed


def endless(handler, data):
    handler.send_response(200)
    handler.end_headers()
    block = bytes(100_000)
    while True:
        handler.send_body(block)


def endless_chunks(handler, data):
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    block = b"%x\r\n%s\r\n" % (100_000, bytes(100_000))
    while True:
        handler.send_body(block)


@pytest.mark.parametrize("fault", [endless, endless_chunks])
@pytest.mark.parametrize("size", [len(DATA), None])
def test_an_endless_body_is_cut_off(server, url, tmp_path, fault, size):
    server.always[PATH] = fault
    policy = Policy(timeout=2, unknown_length=3_000_000, sleep=lambda _seconds: None)
    with pytest.raises(DigestMismatch, match="sends more than"):
        fetch(url, tmp_path, sha256=DIGEST, size=size, policy=policy)
    assert server.sent < 40_000_000
    assert visible(tmp_path) == []


def test_a_body_of_unknown_length_that_never_ends_is_not_asked_for_again(server, url, tmp_path):
    server.always[PATH] = endless
    policy = Policy(timeout=2, unknown_length=3_000_000, sleep=lambda _seconds: None)
    with pytest.raises(DigestMismatch, match="3,000,000 bytes that zoo takes"):
        fetch(url, tmp_path, sha256=DIGEST, policy=policy)
    assert len(server.requests) == 1


def test_a_length_that_no_disk_can_hold_is_the_servers_failure(server, url, tmp_path, policy):
    server.always[PATH] = status(200, DATA, Content_Length=str(10**17))
    with pytest.raises(FetchError, match="more than there is room for"):
        fetch(url, tmp_path, sha256=DIGEST, policy=policy)


@pytest.mark.parametrize("length", ["-1", "abc", "", "3e5", "9" * 5000])
def test_a_length_that_is_no_number_is_not_believed(server, url, tmp_path, policy, length):
    def reply(handler, data):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n" % length.encode() + data)
        hang_up(handler)

    server.always[PATH] = reply
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA


def test_a_body_without_any_length_is_read_to_its_end(server, url, tmp_path, policy):
    server.always[PATH] = raw(b"HTTP/1.1 200 OK\r\n\r\n" + DATA)
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA


@pytest.mark.parametrize("interim", ["100 Continue", "102 Processing", "103 Early Hints"])
def test_an_interim_answer_is_passed_over(server, url, tmp_path, policy, interim):
    hints = f"HTTP/1.1 {interim}\r\nLink: </x>; rel=preload\r\n\r\n".encode() * 2
    server.always[PATH] = raw(hints + b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DATA) + DATA)
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA


def test_ranges_that_are_cut_short_are_asked_for_until_the_end(server, url, tmp_path, policy):
    def at_most_50_kb(handler, data):
        start = requested_start(handler)
        end = min(start + 50_000, len(data))
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(end - start if start else len(data)))
        handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        handler.end_headers()
        handler.send_body(data[start:end])
        handler.close_connection = True

    server.always[PATH] = at_most_50_kb
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA
    assert server.sent == len(DATA)


def test_a_body_in_chunks_is_read(server, url, tmp_path, policy):
    server.always[PATH] = chunks()
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA


def test_many_threads_may_fetch_at_once(server, tmp_path):
    urls = [(server.put(f"/{index}.pth", bytes([index]) * 1000), bytes([index]) * 1000) for index in range(8)]
    got = []
    threads = [
        threading.Thread(target=lambda url=url, data=data: got.append(fetch(url, tmp_path, sha256=sha256(data))))
        for url, data in urls
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8

"""Answers that look right and are not: truncated, padded, flipped, replaced, changed in the middle."""

import os

import pytest
from support.loopback import cut, hang_up, requested_start, serving, sha256, status

from zoo_core.errors import DigestMismatch
from zoo_core.weights import fetch

DATA = os.urandom(200_000)
DIGEST = sha256(DATA)
PATH = "/net.pth"
HTML = b"<!DOCTYPE html><html><body>Please sign in</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 200000\n"

WRONG = {
    "one bit flipped at the start": bytes([DATA[0] ^ 1]) + DATA[1:],
    "one bit flipped at the end": DATA[:-1] + bytes([DATA[-1] ^ 128]),
    "the last byte missing": DATA[:-1],
    "half of it missing": DATA[:100_000],
    "nothing at all": b"",
    "a byte too many": DATA + b"\n",
    "itself twice": DATA + DATA,
    "zeros of the right length": bytes(len(DATA)),
    "another file of the same length": os.urandom(len(DATA)),
    "two blocks swapped": DATA[100_000:] + DATA[:100_000],
    "a page to sign in on": HTML,
    "an error in JSON": b'{"error": "rate limited"}',
    "an error in XML": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "a git-lfs pointer": POINTER,
    "itself, compressed": __import__("gzip").compress(DATA),
    "its end cut off and filled up": DATA[:199_000] + bytes(1000),
}


@pytest.fixture
def url(server):
    return server.put(PATH, DATA)


def visible(folder):
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


@pytest.mark.parametrize("size", [None, len(DATA)], ids=["size unknown", "size known"])
@pytest.mark.parametrize("what", WRONG)
def test_wrong_bytes_are_asked_for_twice_and_refused(server, url, tmp_path, policy, what, size):
    server.always[PATH] = serving(WRONG[what])
    with pytest.raises(DigestMismatch, match="wrong bytes"):
        fetch(url, tmp_path, sha256=DIGEST, size=size, policy=policy)
    assert len(server.requests) == 2
    assert visible(tmp_path) == []


@pytest.mark.parametrize("what", WRONG)
def test_wrong_bytes_that_come_once_do_no_harm(server, url, tmp_path, policy, what):
    server.script(PATH, serving(WRONG[what]))
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("a page to sign in on", "an HTML page"),
        ("an error in JSON", "a JSON document"),
        ("an error in XML", "an XML document"),
        ("a git-lfs pointer", "a git-lfs pointer"),
        ("nothing at all", "an empty file"),
        ("zeros of the right length", "a file of zero bytes"),
        ("itself, compressed", "a gzip archive"),
    ],
)
def test_the_message_says_what_came_instead(server, url, tmp_path, policy, what, name):
    server.always[PATH] = serving(WRONG[what])
    with pytest.raises(DigestMismatch, match=name) as caught:
        fetch(url, tmp_path, sha256=DIGEST, policy=policy)
    assert caught.value.got_digest == sha256(WRONG[what])
    assert sha256(WRONG[what]) in str(caught.value)


@pytest.mark.parametrize("length", [10, 199_999])
def test_a_length_that_is_too_short_is_not_the_end_of_it(server, url, tmp_path, policy, length):
    server.script(PATH, status(200, DATA, Content_Length=str(length)))
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA


def test_a_length_that_is_too_long_ends_with_the_line(server, url, tmp_path, policy):
    def reply(handler, data):
        status(200, data, Content_Length=str(len(data) + 50))(handler, data)
        handler.close_connection = True

    server.always[PATH] = reply
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA


def test_a_file_that_changes_in_the_middle_is_begun_again(server, url, tmp_path, policy):
    new = os.urandom(len(DATA))

    def cut_and_change(handler, data):
        server.files[PATH] = new
        cut(90_000)(handler, data)

    server.script(PATH, cut_and_change)
    assert fetch(url, tmp_path, sha256=sha256(new), policy=policy).read_bytes() == new
    assert server.requests[1].headers["If-Range"] == f'"{DIGEST[:16]}"'


def test_a_changed_file_is_begun_again_even_where_the_condition_is_ignored(server, url, tmp_path, policy):
    new = os.urandom(len(DATA))

    def cut_and_change(handler, data):
        server.files[PATH] = new
        cut(90_000)(handler, data)

    def deaf(handler, data):
        del handler.headers["If-Range"]
        serving(new)(handler, data)

    server.script(PATH, cut_and_change, deaf)
    assert fetch(url, tmp_path, sha256=sha256(new), policy=policy).read_bytes() == new


def test_machines_that_tag_the_same_bytes_differently_do_not_stop_a_download(server, url, tmp_path, policy):
    def one_of_two(handler, data):
        etag, start = f'"{len(server.requests) % 2}"', requested_start(handler)
        if handler.headers.get("If-Range", etag) != etag:
            start = 0
        handler.send_response(206 if start else 200)
        handler.send_header("ETag", etag)
        handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        handler.send_body(data[start : start + 40_000])
        hang_up(handler)

    server.always[PATH] = one_of_two
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA
    assert server.sent <= len(DATA) + 80_000


def test_a_weak_etag_is_no_condition(server, url, tmp_path, policy):
    def weak(handler, data):
        handler.send_response(200)
        handler.send_header("ETag", 'W/"abc"')
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.send_body(data[:100_000])
        handler.close_connection = True

    server.script(PATH, weak)
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA
    assert "If-Range" not in server.requests[1].headers


def whole(handler, data):
    """200 and everything, whatever range was requested."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.send_body(data)


def ranged(start, content_range):
    def reply(handler, data):
        handler.send_response(206)
        if content_range is not None:
            handler.send_header("Content-Range", content_range)
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        handler.send_body(data[start:])

    return reply


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(whole, id="200 and the whole file"),
        pytest.param(ranged(0, f"bytes 0-199999/{len(DATA)}"), id="the range from zero"),
        pytest.param(ranged(50_000, f"bytes 50000-199999/{len(DATA)}"), id="a range that is too early"),
        pytest.param(ranged(150_000, f"bytes 150000-199999/{len(DATA)}"), id="a range that is too late"),
        pytest.param(ranged(50_000, f"bytes 100000-199999/{len(DATA)}"), id="a range that lies about its start"),
        pytest.param(ranged(100_000, None), id="206 without a Content-Range"),
        pytest.param(ranged(100_000, "nonsense"), id="206 with a Content-Range that means nothing"),
        pytest.param(ranged(100_000, "bytes 100000-199999/" + "9" * 5000), id="a length that no number holds"),
        pytest.param(ranged(100_000, "bytes 199999-100000/200000"), id="a range that ends before it begins"),
        pytest.param(ranged(100_000, "bytes 100000-199999/999999"), id="a range of a longer file"),
        pytest.param(status(416), id="416"),
        pytest.param(status(416, Content_Range="bytes */5"), id="416 and another length"),
        pytest.param(cut(0), id="a range that never comes"),
    ],
)
def test_a_wrong_answer_to_a_range_is_recovered_from(server, url, tmp_path, policy, answer):
    server.script(PATH, cut(100_000), answer)
    assert fetch(url, tmp_path, sha256=DIGEST, size=len(DATA), policy=policy).read_bytes() == DATA
    assert server.requests[1].headers["Range"] == "bytes=100000-"


def test_a_server_that_always_answers_ranges_wrongly_is_given_up(server, url, tmp_path, policy):
    server.always[PATH] = lambda handler, data: (
        ranged(0, "bytes 7-9/10") if "Range" in handler.headers else cut(100_000)
    )(handler, data)
    with pytest.raises(OSError, match=r"requested bytes|closed too early"):
        fetch(url, tmp_path, sha256=DIGEST, policy=policy)
    assert len(server.requests) < 20


def test_an_empty_file_is_a_file_when_that_is_what_was_promised(server, tmp_path):
    assert fetch(server.put("/empty.bin", b""), tmp_path, sha256=sha256(b"")).read_bytes() == b""

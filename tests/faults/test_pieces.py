"""Large files over several connections at once, from servers that do that well, badly, or not at all."""

import dataclasses
import gzip
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from support.loopback import good, hang_up, sha256, status

from zoo_core.errors import DigestMismatch, FetchError
from zoo_core.utils import no_follow
from zoo_core.weights import fetch
from zoo_core.weights.download.partial import Partial, partials
from zoo_core.weights.transport.policy import Policy

DATA = os.urandom(2_000_000)
DIGEST = sha256(DATA)
PATH = "/net.pth"
NAME = f"net-{DIGEST[:16]}.pth"
LINES = {"connections": 4, "split_from": 100_000, "split_below": 1e12, "piece": 100_000}


@pytest.fixture
def policy():
    return Policy(timeout=2, sleep=lambda _seconds: None, **LINES)


def requested(handler):
    """The range that was requested; None for the whole file."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
    return (int(match[1]), int(match[2]) + 1 if match[2] else None) if match else None


def head(handler, start, end, total, *, partial, etag):
    handler.send_response(206 if partial else 200)
    if partial:
        handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{total}")
    handler.send_header("Content-Length", str(end - start))
    handler.send_header("Accept-Ranges", "bytes")
    handler.send_header("ETag", etag)
    handler.end_headers()


def send(handler, body, pause=0.0):
    for start in range(0, len(body), 20_000):
        handler.send_body(body[start : start + 20_000])
        time.sleep(pause)


def parts(handler, data, pause=0.001, etag=None):
    """The right answer, whole or in part, in small steps."""
    etag = etag or f'"{sha256(data)[:16]}"'
    span = requested(handler) if handler.headers.get("If-Range", etag) == etag else None
    start, end = span or (0, None)
    end = min(end or len(data), len(data))
    head(handler, start, end, len(data), partial=bool(span), etag=etag)
    send(handler, data[start:end], pause)


@pytest.fixture
def url(server):
    server.always[PATH] = parts
    return server.put(PATH, DATA)


def asked_for(server):
    return [each.headers.get("Range") for each in server.requests]


def once(server, fault, when):
    """Behave but for one request for which ``when`` holds."""
    left = [True]

    def reply(handler, data):
        if left and (span := requested(handler)) and when(*span):
            left.clear()
            fault(handler, data)
        else:
            parts(handler, data)

    server.always[PATH] = reply


def later(start, end):
    return bool(end) and start >= 1_000_000


def test_a_long_file_is_asked_for_in_pieces(server, url, tmp_path, policy):
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA
    assert asked_for(server)[0] is None
    assert len(asked_for(server)) == 21
    assert server.sent < 1.2 * len(DATA)


def test_where_the_length_is_known_no_byte_is_sent_twice(server, url, tmp_path, policy):
    assert fetch(url, tmp_path, sha256=DIGEST, size=len(DATA), policy=policy).read_bytes() == DATA
    assert asked_for(server)[0] == "bytes=0-99999"
    assert server.sent == len(DATA)


@pytest.mark.parametrize(
    ("size", "span"), [(None, [None]), (len(DATA), ["bytes=0-99999", "bytes=100000-"])], ids=["unknown", "known"]
)
def test_a_fast_server_is_asked_over_one_line(server, url, tmp_path, policy, size, span):
    easily_pleased = dataclasses.replace(policy, split_below=1.0)
    assert fetch(url, tmp_path, sha256=DIGEST, size=size, policy=easily_pleased).read_bytes() == DATA
    assert asked_for(server) == span


def test_a_line_that_becomes_slow_gets_help(server, url, tmp_path, policy):
    def slower(handler, data):
        parts(handler, data, pause=0.001 if requested(handler) else 0.2)

    server.always[PATH] = slower
    measured = dataclasses.replace(policy, split_below=5e6)
    assert fetch(url, tmp_path, sha256=DIGEST, policy=measured).read_bytes() == DATA
    assert len(asked_for(server)) > 10


def test_a_line_that_drips_gives_its_piece_to_the_others(server, url, tmp_path):
    def drip(handler, data):
        start, end = requested(handler)
        handler.close_connection = True
        head(handler, start, end, len(data), partial=True, etag=f'"{DIGEST[:16]}"')
        for at in range(start, min(end, start + 100)):
            handler.wfile.write(data[at : at + 1])
            time.sleep(0.05)

    once(server, drip, later)
    policy = Policy(timeout=0.5, sleep=lambda _seconds: None, **LINES)
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA


def test_every_piece_must_be_of_the_same_file(server, url, tmp_path, policy):
    fetch(url, tmp_path, sha256=DIGEST, policy=policy)
    assert {each.headers.get("If-Range") for each in server.requests[1:]} == {f'"{DIGEST[:16]}"'}


def test_a_short_file_comes_over_one_line(server, url, tmp_path):
    assert fetch(url, tmp_path, sha256=DIGEST, policy=Policy(connections=4)).read_bytes() == DATA
    assert asked_for(server) == [None]


def test_one_connection_is_all_when_the_settings_say_so(server, url, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CONNECTIONS", "1")
    policy = Policy(split_from=100_000, piece=100_000)
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA
    assert asked_for(server) == [None]


@pytest.mark.parametrize("size", [None, len(DATA)], ids=["size unknown", "size known"])
@pytest.mark.parametrize("etag", ['W/"weak"', "", '"'], ids=["a weak tag", "no tag", "half a tag"])
def test_without_a_strong_tag_one_line_brings_it(server, url, tmp_path, policy, etag, size):
    server.always[PATH] = lambda handler, data: parts(handler, data, etag=etag)
    assert fetch(url, tmp_path, sha256=DIGEST, size=size, policy=policy).read_bytes() == DATA
    assert server.sent < 1.5 * len(DATA)  # not twice: what is under way where a connection is dropped was sent, too


@pytest.mark.parametrize("size", [None, len(DATA)], ids=["size unknown", "size known"])
def test_a_server_that_knows_no_parts_sends_it_over_one_line(server, url, tmp_path, policy, size):
    server.always[PATH] = status(200, DATA, ETag='"abc"')
    assert fetch(url, tmp_path, sha256=DIGEST, size=size, policy=policy).read_bytes() == DATA
    assert len(server.requests) == 1


def reset(handler, data):
    start, end = requested(handler)
    head(handler, start, end or len(data), len(data), partial=True, etag=f'"{DIGEST[:16]}"')
    send(handler, data[start : start + 40_000])
    hang_up(handler)


def stall(handler, data):
    start, end = requested(handler)
    head(handler, start, end, len(data), partial=True, etag=f'"{DIGEST[:16]}"')
    send(handler, data[start : start + 40_000])
    handler.wfile.flush()
    time.sleep(6)


def whole(handler, data):
    head(handler, 0, len(data), len(data), partial=False, etag=f'"{DIGEST[:16]}"')
    send(handler, data)


def too_much(handler, data):
    start, _ = requested(handler)
    head(handler, start, len(data), len(data), partial=True, etag=f'"{DIGEST[:16]}"')
    send(handler, data[start:])


def another_part(handler, data):
    start, end = requested(handler)
    head(handler, start + 10, end + 10, len(data), partial=True, etag=f'"{DIGEST[:16]}"')
    send(handler, data[start + 10 : end + 10])


def another_file(handler, data):
    start, end = requested(handler)
    head(handler, start, end, len(data), partial=True, etag='"another"')
    send(handler, bytes(end - start))


def a_little_less(handler, data):
    start, end = requested(handler)
    head(handler, start, end - 7, len(data), partial=True, etag=f'"{DIGEST[:16]}"')
    send(handler, data[start : end - 7])


def without_an_end(handler, data):
    start, end = requested(handler)
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.send_header("ETag", f'"{DIGEST[:16]}"')
    handler.end_headers()
    handler.send_body(b"%x\r\n%s\r\n" % (end - start, data[start:end]))
    hang_up(handler)


FAULTS = [
    without_an_end,
    reset,
    stall,
    whole,
    too_much,
    another_part,
    another_file,
    a_little_less,
    status(503),
    status(429),
    status(416),
]
IDS = [getattr(fault, "__name__", "") for fault in FAULTS[:8]] + ["503", "429", "416"]


@pytest.mark.parametrize("fault", FAULTS, ids=IDS)
@pytest.mark.parametrize("when", [later, lambda start, end: bool(end) and start < 300_000], ids=["late", "early"])
def test_a_piece_that_fails_does_no_harm(server, url, tmp_path, policy, fault, when):
    once(server, fault, when)
    started = time.monotonic()
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("fault", [reset, status(503)], ids=["reset", "503"])
def test_a_piece_that_fails_is_all_that_is_sent_again(server, url, tmp_path, policy, fault):
    once(server, fault, later)
    fetch(url, tmp_path, sha256=DIGEST, size=len(DATA), policy=policy)
    assert server.sent == len(DATA)


@pytest.mark.parametrize("most", [1, 2])
def test_a_server_that_wants_fewer_connections_gets_fewer(server, url, tmp_path, policy, most):
    now, lock = [0], threading.Lock()

    def few(handler, data):
        with lock:
            now[0] += 1
            busy = now[0] > most
        try:
            (status(429) if busy else parts)(handler, data)
        finally:
            with lock:
                now[0] -= 1

    server.always[PATH] = few
    assert fetch(url, tmp_path, sha256=DIGEST, size=len(DATA), policy=policy).read_bytes() == DATA


def test_no_more_connections_are_used_than_allowed(server, url, tmp_path, policy):
    now, most, lock = [0], [0], threading.Lock()

    def counted(handler, data):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        parts(handler, data, pause=0.01)
        with lock:
            now[0] -= 1

    server.always[PATH] = counted
    fetch(url, tmp_path, sha256=DIGEST, size=len(DATA), policy=policy)
    assert 2 <= most[0] <= 4


def test_a_file_that_changes_between_two_pieces_is_begun_again(server, url, tmp_path, policy):
    new = os.urandom(len(DATA))

    def change(handler, _data):
        server.files[PATH] = new
        parts(handler, new)

    once(server, change, later)
    assert fetch(url, tmp_path, sha256=sha256(new), policy=policy).read_bytes() == new


def compressed(handler, data):
    """A part that is sent in an encoding which was not requested."""
    start, end = requested(handler)
    body = gzip.compress(data[start:end])
    span = f"bytes {start}-{(end or len(data)) - 1}/{len(data)}"
    status(206, body, Content_Range=span, Content_Encoding="gzip", ETag='"a"')(handler, data)


@pytest.mark.parametrize("wrong", [compressed, status(416)], ids=["compressed", "no such range"])
def test_a_server_that_is_wrong_about_every_part_is_asked_for_the_whole(server, url, tmp_path, policy, wrong):
    server.always[PATH] = lambda handler, data: (wrong if requested(handler) else parts)(handler, data)
    assert fetch(url, tmp_path, sha256=DIGEST, size=len(DATA), policy=policy).read_bytes() == DATA


def test_a_server_that_spoils_parts_is_asked_for_the_whole(server, url, tmp_path, policy):
    def spoiled(handler, data):
        parts(handler, data if not requested(handler) else data[:100] + bytes(len(data) - 100), etag='"abc"')

    server.always[PATH] = spoiled
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA


def test_wrong_bytes_in_pieces_are_refused(server, url, tmp_path, policy):
    server.always[PATH] = lambda handler, data: parts(handler, bytes(len(data)))
    with pytest.raises(DigestMismatch, match="wrong bytes"):
        fetch(url, tmp_path, sha256=DIGEST, policy=policy)
    assert not (tmp_path / NAME).exists()


def test_a_server_that_stops_sending_pieces_is_given_up_and_what_arrived_is_kept(server, url, tmp_path, policy):
    def half(handler, data):
        (status(503) if requested(handler)[0] >= 1_000_000 else parts)(handler, data)

    server.always[PATH] = half
    with pytest.raises(FetchError, match="503"):
        fetch(url, tmp_path, sha256=DIGEST, size=len(DATA), policy=policy)
    assert sum(path.stat().st_size for path in partials(tmp_path, NAME)) >= 900_000
    assert len(server.requests) < 60


def test_a_server_that_cuts_every_piece_short_still_finishes(server, url, tmp_path, policy):
    ranges = []

    def short(handler, data):
        ranges.append(requested(handler))
        (reset if requested(handler)[0] else parts)(handler, data)

    server.always[PATH] = short
    assert fetch(url, tmp_path, sha256=DIGEST, size=len(DATA), policy=policy).read_bytes() == DATA
    assert all(start < end for start, end in ranges if end)


CHILD = """
import sys
from zoo_core.weights import fetch
from zoo_core.weights.transport.policy import Policy
print(fetch(sys.argv[1], sys.argv[2], sha256=sys.argv[3], size=int(sys.argv[4]), policy=Policy(**{lines})))
"""


def child(url, folder):
    command = [sys.executable, "-c", CHILD.replace("{lines}", repr(LINES)), url, str(folder), DIGEST, str(len(DATA))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_download_in_pieces_that_was_killed_is_continued(server, url, tmp_path, policy):
    server.always[PATH] = lambda handler, data: parts(handler, data, pause=0.05)
    process = child(url, tmp_path)
    while sum(path.stat().st_size for path in partials(tmp_path, NAME)) < 700_000:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = sum(path.stat().st_size for path in partials(tmp_path, NAME))
    server.always[PATH] = parts
    before = len(server.requests)
    assert fetch(url, tmp_path, sha256=DIGEST, size=len(DATA), policy=policy).read_bytes() == DATA
    assert min(int(each.headers["Range"][6:].split("-")[0]) for each in server.requests[before:]) == kept


def kept(folder):
    """How many bytes a killed process has left, of the beginning of the file and of pieces that wait."""
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    begun = next(size for name, size in sizes.items() if name.endswith(".partial"))
    pieces = [(int(name.rpartition("-")[2]), size) for name, size in sizes.items() if ".at-" in name]
    return begun + sum(begin + size - max(begin, begun) for begin, size in pieces if begin + size > begun)


def test_a_killed_download_is_sent_again_no_more_than_was_under_way(server, url, tmp_path, policy):
    def uneven(handler, data):
        start, _ = requested(handler)
        parts(handler, data, pause=0.5 if 100_000 <= start < 200_000 else 0.01)  # one slow line that the others pass

    server.always[PATH] = uneven
    process = child(url, tmp_path)
    while not any(".at-" in path.name for path in tmp_path.iterdir()) or server.sent < 500_000:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    arrived, sent = kept(tmp_path), server.sent
    assert sent - arrived <= LINES["connections"] * LINES["piece"]
    server.always[PATH], server.sent = parts, 0
    assert fetch(url, tmp_path, sha256=DIGEST, size=len(DATA), policy=policy).read_bytes() == DATA
    assert server.sent <= len(DATA) - arrived + LINES["piece"]  # a line that another passes may send what is there
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("spoil", ["gone", "shorter", "other bytes", "a link", "too long"])
def test_a_waiting_piece_that_is_not_what_it_was_does_no_harm(server, url, tmp_path, policy, spoil):
    with Partial.open(tmp_path, NAME) as partial:
        partial.write(DATA[:250_000])
        piece = partial.piece(700_000)
        piece.write_bytes(DATA[700_000:800_000])
        partial.piece(250_000 - 50_000).write_bytes(DATA[200_000:300_000])
    piece = next(path for path in tmp_path.iterdir() if path.name.endswith("-700000"))
    if spoil == "gone":
        piece.unlink()
    elif spoil == "shorter":
        os.truncate(piece, 10)
    elif spoil == "other bytes":
        piece.write_bytes(bytes(100_000))
    elif spoil == "too long":
        piece.write_bytes(DATA)
    else:
        piece.rename(tmp_path / "elsewhere")
        piece.symlink_to(tmp_path / "elsewhere")
    assert fetch(url, tmp_path, sha256=DIGEST, size=len(DATA), policy=policy).read_bytes() == DATA


def test_what_begins_before_the_end_of_a_partial_goes_on_where_it_ends(server, url, tmp_path, policy):
    with Partial.open(tmp_path, NAME) as partial:
        partial.write(DATA[:250_000])
        partial.piece(200_000).write_bytes(DATA[200_000:400_000])
    assert fetch(url, tmp_path, sha256=DIGEST, size=len(DATA), policy=policy).read_bytes() == DATA
    assert server.sent == len(DATA) - 400_000


def test_where_the_disk_takes_no_piece_they_wait_in_memory(server, url, tmp_path, policy, monkeypatch):
    real = no_follow.descriptor

    def full(path, *options):
        if ".at-" in path.name:
            raise OSError(28, "No space left on device")
        return real(path, *options)

    monkeypatch.setattr(no_follow, "descriptor", full)
    assert fetch(url, tmp_path, sha256=DIGEST, size=len(DATA), policy=policy).read_bytes() == DATA


def test_four_processes_move_the_bytes_of_all_pieces_once(server, url, tmp_path):
    server.always[PATH] = lambda handler, data: parts(handler, data, pause=0.02)
    processes = [child(url, tmp_path) for _ in range(4)]
    assert {process.communicate(timeout=60)[0] for process in processes} == {f"{tmp_path / NAME}\n"}
    assert server.sent == len(DATA)


def test_an_interrupt_leaves_no_line_behind(server, url, tmp_path, policy):
    def interrupt(done, _total):
        if done > 500_000:
            raise KeyboardInterrupt

    from zoo_core.weights.download.from_sources import download
    from zoo_core.weights.request import Request

    server.always[PATH] = lambda handler, data: parts(handler, data, pause=0.01)
    place = tmp_path / NAME
    request = Request(
        "net", (url,), DIGEST, size=len(DATA), folder=tmp_path, place=lambda _digest, _file: place, policy=policy
    )
    with pytest.raises(KeyboardInterrupt):
        download(request, interrupt)
    deadline = time.monotonic() + 5
    while any(thread.name == "zoo-line" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    server.always[PATH] = good
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA

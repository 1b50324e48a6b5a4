"""Downloads that another process began: killed, stopped, abandoned, or spoiled."""

import os
import signal
import subprocess
import sys
import time

import pytest
from support.loopback import cut, sha256

from zoo_core.errors import FetchError
from zoo_core.weights import fetch
from zoo_core.weights.download.partial import Partial, partials
from zoo_core.weights.transport.policy import Policy

DATA = os.urandom(4_000_000)
DIGEST = sha256(DATA)
PATH = "/net.pth"
NAME = f"net-{DIGEST[:16]}.pth"

CHILD = """
import sys
from zoo_core.weights import fetch
fetch(sys.argv[1], sys.argv[2], sha256=sys.argv[3], timeout=float(sys.argv[4]))
"""


@pytest.fixture
def url(server):
    return server.put(PATH, DATA)


def child(url, folder, timeout=20):
    return subprocess.Popen([sys.executable, "-c", CHILD, url, str(folder), DIGEST, str(timeout)])


def half_and_hold(handler, data):
    """Half of the file, and then nothing for a long time."""
    handler.send_response(200)
    handler.send_header("ETag", f'"{sha256(data)[:16]}"')
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.send_body(data[:2_000_000])
    handler.wfile.flush()
    time.sleep(15)


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def held(folder):
    return sum(path.stat().st_size for path in partials(folder, NAME))


def test_a_download_that_was_killed_is_continued_by_the_next_process(server, url, tmp_path):
    server.script(PATH, half_and_hold)
    process = child(url, tmp_path)
    until(lambda: held(tmp_path) >= 1_990_000)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = held(tmp_path)
    assert fetch(url, tmp_path, sha256=DIGEST).read_bytes() == DATA
    assert server.requests[-1].headers["Range"] == f"bytes={before}-"
    assert server.requests[-1].headers["If-Range"] == f'"{DIGEST[:16]}"'
    assert server.sent <= len(DATA) + 20_000


def test_a_killed_download_leaves_nothing_under_a_final_name(server, url, tmp_path):
    server.script(PATH, half_and_hold)
    process = child(url, tmp_path)
    until(lambda: held(tmp_path) > 0)
    process.kill()
    process.wait()
    assert not (tmp_path / NAME).exists()


def test_a_download_that_failed_is_continued_by_the_next_call(server, url, tmp_path, policy):
    server.script(PATH, cut(3_000_000), *[cut(0)] * 4)
    with pytest.raises(FetchError):
        fetch(url, tmp_path, sha256=DIGEST, policy=policy)
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA
    assert server.sent == len(DATA)


def test_after_success_no_partial_is_left(server, url, tmp_path, policy):
    server.script(PATH, cut(3_000_000))
    fetch(url, tmp_path, sha256=DIGEST, policy=policy)
    assert sorted(path.name for path in tmp_path.iterdir() if ".lock" not in path.name) == [NAME]


def left_behind(folder, data, name="otherhost-1-abcd1234", age=0):
    path = folder / f".{NAME}.{name}.partial"
    path.write_bytes(data)
    os.utime(path, (time.time() - age, time.time() - age))
    return path


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(os.urandom(2_000_000), id="other bytes"),
        pytest.param(DATA[:999_999] + b"!" + DATA[1_000_000:2_000_000], id="one byte wrong"),
        pytest.param(DATA + b"more", id="more than there is"),
        pytest.param(bytes(4_000_000), id="the right length and the wrong bytes"),
    ],
)
def test_a_spoiled_partial_costs_one_more_download(server, url, tmp_path, policy, data):
    left_behind(tmp_path, data, age=3600)
    assert fetch(url, tmp_path, sha256=DIGEST, size=len(DATA), policy=policy).read_bytes() == DATA
    assert server.sent <= 2 * len(DATA)


def test_a_partial_that_is_whole_needs_no_byte(server, url, tmp_path):
    left_behind(tmp_path, DATA, age=3600)
    assert fetch(url, tmp_path, sha256=DIGEST, size=len(DATA)).read_bytes() == DATA
    assert server.requests == []


def test_a_partial_that_is_whole_is_found_out_without_a_size_too(server, url, tmp_path, policy):
    left_behind(tmp_path, DATA, age=3600)
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA


def test_a_fresh_partial_of_another_machine_is_left_alone(server, url, tmp_path):
    path = left_behind(tmp_path, DATA[:1000])
    assert fetch(url, tmp_path, sha256=DIGEST).read_bytes() == DATA
    assert path.read_bytes() == DATA[:1000]


def test_an_old_partial_of_another_machine_is_continued(server, url, tmp_path):
    left_behind(tmp_path, DATA[:1_000_000], age=3600)
    assert fetch(url, tmp_path, sha256=DIGEST).read_bytes() == DATA
    assert server.requests[0].headers["Range"] == "bytes=1000000-"


def test_dead_partials_are_swept(server, url, tmp_path):
    for index in range(5):
        left_behind(tmp_path, DATA[: 1000 * index], name=f"otherhost-{index}-abcd1234", age=3600)
    fetch(url, tmp_path, sha256=DIGEST)
    assert partials(tmp_path, NAME) == []


def test_a_partial_that_is_a_link_is_not_followed(server, url, tmp_path):
    target = tmp_path / "precious.txt"
    target.write_bytes(b"precious")
    (tmp_path / f".{NAME}.otherhost-1-abcd1234.partial").symlink_to(target)
    assert fetch(url, tmp_path, sha256=DIGEST).read_bytes() == DATA
    assert target.read_bytes() == b"precious"


def test_a_partial_in_use_is_not_taken(tmp_path):
    with Partial.open(tmp_path, NAME) as mine:
        mine.write(b"mine")
        with Partial.open(tmp_path, NAME) as other:
            other.write(b"other")
            assert mine.path != other.path
    assert len(partials(tmp_path, NAME)) == 2


def test_a_partial_goes_on_at_another_mirror(server, tmp_path, policy, monkeypatch):
    from zoo_core import Card, Weights
    from zoo_core.weights import obtain

    one, two = server.put("/one/net.pth", DATA), server.put("/two/net.pth", DATA)
    server.always["/one/net.pth"] = lambda handler, data: cut(0 if "Range" in handler.headers else 3_000_000)(
        handler, data
    )
    weights = Weights("V1", (one, two), DIGEST)
    got = obtain(Card("acme", "net", "acme:net", weights=(weights,)), weights, policy=policy)
    assert got.path.read_bytes() == DATA
    assert server.sent == len(DATA)


def test_a_broken_note_of_where_a_partial_came_from_does_no_harm(server, url, tmp_path):
    path = left_behind(tmp_path, DATA[:1000], age=3600)
    path.with_name(path.name + ".origin").write_bytes(b"\xff\xfe\n\n\n")
    assert fetch(url, tmp_path, sha256=DIGEST).read_bytes() == DATA


def test_policy_says_how_long_a_silent_holder_is_waited_for():
    assert Policy(timeout=2).patience == 3.0


@pytest.mark.parametrize(("age", "left"), [(3600, 0), (100, 1)])
def test_without_locks_only_what_has_long_been_silent_is_swept(server, url, tmp_path, age, left):
    left_behind(tmp_path, DATA[:1000], age=age)
    code = (
        "import fcntl, errno\ndef broken(*_): raise OSError(errno.ENOLCK, 'no locks')\nfcntl.flock = broken\n" + CHILD
    )
    subprocess.run([sys.executable, "-c", code, url, str(tmp_path), DIGEST, "10"], check=True)
    assert len(partials(tmp_path, NAME)) == left

"""Many processes that want one file, and some that stop in the middle of it."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from support.loopback import good, serving, sha256, status

from zoo_core import Card, Weights
from zoo_core.errors import CacheError, DigestMismatch, FetchError, WeightsError
from zoo_core.weights import fetch, obtain
from zoo_core.weights.download.ownership import _Holder, turn
from zoo_core.weights.download.partial import partials
from zoo_core.weights.transport.policy import Policy

DATA = os.urandom(3_000_000)
DIGEST = sha256(DATA)
PATH = "/net.pth"
NAME = f"net-{DIGEST[:16]}.pth"

CHILD = """
import os, sys
{before}
from zoo_core.weights import fetch, obtain
path = fetch(sys.argv[1], sys.argv[2], sha256=sys.argv[3], timeout=float(sys.argv[4]))
print(path)
"""


@pytest.fixture
def url(server):
    return server.put(PATH, DATA)


def child(url, folder, timeout=10.0, before="", **environment):
    command = [sys.executable, "-c", CHILD.format(before=before), url, str(folder), DIGEST, str(timeout)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})


def slowly(handler, data):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    for start in range(0, len(data), 200_000):
        handler.send_body(data[start : start + 200_000])
        handler.wfile.flush()
        time.sleep(0.1)


def test_eight_processes_move_the_bytes_once(server, url, tmp_path):
    server.always[PATH] = slowly
    processes = [child(url, tmp_path) for _ in range(8)]
    outputs = {process.communicate(timeout=60)[0] for process in processes}
    assert all(process.returncode == 0 for process in processes)
    assert outputs == {f"{tmp_path / NAME}\n"}
    assert server.sent <= 1.05 * len(DATA)
    assert (tmp_path / NAME).read_bytes() == DATA


def test_eight_threads_move_the_bytes_once(server, url, tmp_path):
    server.always[PATH] = slowly
    got = []
    threads = [threading.Thread(target=lambda: got.append(fetch(url, tmp_path, sha256=DIGEST))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8
    assert server.sent == len(DATA)


def test_four_processes_get_one_model_into_the_cache_once(server, url, tmp_path):
    server.always[PATH] = slowly
    code = (
        "import sys; from zoo_core import Card, Weights; from zoo_core.weights import obtain\n"
        "w = Weights('V1', (sys.argv[1],), sys.argv[2][:8]); c = Card('acme', 'net', 'acme:net', weights=(w,))\n"
        "assert obtain(c, w).sha256 == sys.argv[2]"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, url, DIGEST]) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert server.sent <= 1.05 * len(DATA)


def test_a_suspended_holder_is_waited_for_only_so_long(server, url, tmp_path):
    def half_and_hold(handler, data):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.send_body(data[:1_000_000])
        handler.wfile.flush()
        time.sleep(15)

    server.script(PATH, half_and_hold)
    holder = child(url, tmp_path, timeout=10)
    while not any(path.stat().st_size for path in partials(tmp_path, NAME)):
        time.sleep(0.02)
    holder.send_signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        assert fetch(url, tmp_path, sha256=DIGEST, policy=Policy(timeout=1)).read_bytes() == DATA
        assert 1.4 < time.monotonic() - started < 12
    finally:
        holder.send_signal(signal.SIGCONT)
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert (tmp_path / NAME).read_bytes() == DATA


def test_when_the_holder_is_suspended_the_others_still_share_one_download(server, url, tmp_path):
    def forever(handler, data):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.send_body(data[:1000])
        handler.wfile.flush()
        time.sleep(15)

    server.script(PATH, forever, slowly)
    holder = child(url, tmp_path, timeout=10)
    while not any(path.stat().st_size for path in partials(tmp_path, NAME)):
        time.sleep(0.02)
    holder.send_signal(signal.SIGSTOP)
    try:
        others = [child(url, tmp_path, timeout=1.0) for _ in range(4)]
        for other in others:
            assert other.communicate(timeout=60)[0] == f"{tmp_path / NAME}\n"
        assert server.sent <= 1.05 * len(DATA)
    finally:
        holder.send_signal(signal.SIGCONT)
        holder.kill()
        holder.wait()
        holder.stdout.close()


def wrong_half(handler, data):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    for _ in range(15):
        handler.send_body(bytes(200_000))
        handler.wfile.flush()
        time.sleep(0.15)


def test_a_resumed_holder_cannot_spoil_what_others_published(server, url, tmp_path):
    server.script(PATH, wrong_half)
    server.always[PATH] = good
    holder = child(url, tmp_path, timeout=10)
    while not any(path.stat().st_size for path in partials(tmp_path, NAME)):
        time.sleep(0.02)
    holder.send_signal(signal.SIGSTOP)
    fetch(url, tmp_path, sha256=DIGEST, policy=Policy(timeout=0.5))
    holder.send_signal(signal.SIGCONT)
    holder.communicate(timeout=30)
    assert (tmp_path / NAME).read_bytes() == DATA


def test_a_dead_holder_costs_no_wait(server, url, tmp_path):
    def hold(handler, data):
        time.sleep(15)

    server.script(PATH, hold)
    holder = child(url, tmp_path, timeout=10)
    while not server.requests:
        time.sleep(0.02)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    started = time.monotonic()
    assert fetch(url, tmp_path, sha256=DIGEST).read_bytes() == DATA
    assert time.monotonic() - started < 10


NO_FLOCK = """
import errno, fcntl
def broken(*arguments):
    raise OSError({errno}, "no locks here")
fcntl.flock = broken
"""


@pytest.mark.parametrize("number", ["errno.ENOSYS", "errno.ENOLCK", "errno.EIO"])
def test_a_file_system_without_locks_costs_bytes_and_nothing_else(server, url, tmp_path, number):
    processes = [child(url, tmp_path, before=NO_FLOCK.format(errno=number)) for _ in range(3)]
    for process in processes:
        assert process.communicate(timeout=60)[0] == f"{tmp_path / NAME}\n"
    assert (tmp_path / NAME).read_bytes() == DATA


LOCKS_FOR_ALL = """
import fcntl
fcntl.flock = lambda *_: None
"""


def test_a_file_system_that_grants_every_lock_costs_bytes_and_nothing_else(server, url, tmp_path):
    server.always[PATH] = slowly
    processes = [child(url, tmp_path, before=LOCKS_FOR_ALL) for _ in range(3)]
    for process in processes:
        assert process.communicate(timeout=60)[0] == f"{tmp_path / NAME}\n"
    assert (tmp_path / NAME).read_bytes() == DATA
    assert partials(tmp_path, NAME) == []


def test_where_every_lock_is_granted_a_suspended_holder_writes_into_nobody_elses_file(server, url, tmp_path):
    server.script(PATH, wrong_half)
    holder = child(url, tmp_path, timeout=10, before=LOCKS_FOR_ALL)
    while not any(path.stat().st_size for path in partials(tmp_path, NAME)):
        time.sleep(0.02)
    holder.send_signal(signal.SIGSTOP)
    (stolen,) = partials(tmp_path, NAME)
    os.utime(stolen, (0, 0))
    other = child(url, tmp_path, timeout=1, before=LOCKS_FOR_ALL)
    assert other.communicate(timeout=30)[0] == f"{tmp_path / NAME}\n"
    assert not stolen.exists()
    holder.send_signal(signal.SIGCONT)
    assert holder.communicate(timeout=30)[0] == f"{tmp_path / NAME}\n"
    assert (tmp_path / NAME).read_bytes() == DATA


def test_a_partial_that_another_process_took_is_not_published(server, url, tmp_path):
    def taken(handler, data):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.send_body(data[:-1])
        while not (found := partials(tmp_path, NAME)):
            time.sleep(0.01)
        found[0].unlink()
        found[0].write_bytes(b"other bytes")
        handler.send_body(data[-1:])

    server.script(PATH, taken)
    assert fetch(url, tmp_path, sha256=DIGEST).read_bytes() == DATA
    assert len(server.requests) == 2


def test_a_partial_that_is_taken_again_and_again_is_a_clear_error(server, url, tmp_path):
    def taken(handler, data):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.send_body(data[:-1])
        while not (found := [path for path in partials(tmp_path, NAME) if path.read_bytes() != b"other bytes"]):
            time.sleep(0.01)
        found[0].unlink()
        found[0].write_bytes(b"other bytes")
        handler.send_body(data[-1:])

    server.always[PATH] = taken
    with pytest.raises(CacheError, match="not the file that was written there"):
        fetch(url, tmp_path, sha256=DIGEST)
    assert len(server.requests) == 2
    assert not (tmp_path / NAME).exists()


def stalled(handler, data):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.flush()
    time.sleep(3)


@pytest.mark.parametrize(
    ("fault", "error"),
    [(stalled, FetchError), (serving(b"wrong"), DigestMismatch)],
    ids=["a server that stalls", "wrong bytes"],
)
def test_those_who_waited_in_vain_try_each_source_once(server, url, tmp_path, fault, error):
    held = threading.Event()

    def first(handler, data):
        held.wait(10)
        fault(handler, data)

    server.script(PATH, first)
    server.always[PATH] = fault
    policy = Policy(timeout=1, sleep=lambda _seconds: None)
    errors = []

    def ask():
        try:
            fetch(url, tmp_path, sha256=DIGEST, policy=policy)
        except WeightsError as problem:
            errors.append(problem)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    threads[0].start()
    while not server.requests:
        time.sleep(0.01)
    for thread in threads[1:]:
        thread.start()
    time.sleep(0.5)
    held.set()
    for thread in threads:
        thread.join()
    assert [type(problem) for problem in errors] == [error] * 4
    assert len(server.requests) <= policy.attempts + 3
    assert [path.name for path in tmp_path.iterdir()] == []


def test_one_who_waited_for_a_failure_may_yet_succeed(server, url, tmp_path):
    held = threading.Event()

    def refuse(handler, data):
        held.wait(10)
        status(404)(handler, data)

    def refused():
        with pytest.raises(FetchError):
            fetch(url, tmp_path, sha256=DIGEST)

    server.script(PATH, refuse)
    failing = threading.Thread(target=refused)
    failing.start()
    while not server.requests:
        time.sleep(0.01)
    waiting = child(url, tmp_path)
    time.sleep(1)
    held.set()
    failing.join()
    assert waiting.communicate(timeout=30)[0] == f"{tmp_path / NAME}\n"


def test_one_who_waited_for_a_killed_process_is_as_patient_as_ever(server, url, tmp_path):
    server.script(PATH, lambda _handler, _data: time.sleep(15), status(503), status(503))
    holder = child(url, tmp_path)
    while not server.requests:
        time.sleep(0.02)
    got = []
    waiting = threading.Thread(
        target=lambda: got.append(fetch(url, tmp_path, sha256=DIGEST, policy=Policy(sleep=lambda _seconds: None)))
    )
    waiting.start()
    time.sleep(0.3)
    holder.kill()
    holder.communicate()
    waiting.join()
    assert got[0].read_bytes() == DATA
    assert len(server.requests) == 4


def test_without_locks_later_ranks_wait_for_the_first(server, url, tmp_path):
    server.always[PATH] = slowly
    before = NO_FLOCK.format(errno="errno.EIO")
    processes = [child(url, tmp_path, before=before, LOCAL_RANK=str(rank)) for rank in range(4)]
    for process in processes:
        assert process.communicate(timeout=60)[0] == f"{tmp_path / NAME}\n"
    assert server.sent <= 1.05 * len(DATA)


def test_a_lock_file_that_was_left_behind_is_no_lock(server, url, tmp_path):
    (tmp_path / f".{NAME}.lock").write_bytes(b"12345\notherhost\n")
    started = time.monotonic()
    assert fetch(url, tmp_path, sha256=DIGEST).read_bytes() == DATA
    assert time.monotonic() - started < 10


def test_a_folder_where_the_lock_should_be_costs_bytes_and_nothing_else(server, url, tmp_path):
    (tmp_path / f".{NAME}.lock").mkdir()
    assert fetch(url, tmp_path, sha256=DIGEST, policy=Policy(timeout=1)).read_bytes() == DATA


def test_a_wait_ends_when_the_file_is_there(tmp_path):
    with turn(tmp_path / "a.lock", ready=lambda: False, progress=lambda: 0, patience=1):
        started = time.monotonic()
        with turn(tmp_path / "a.lock", ready=lambda: True, progress=lambda: 0, patience=60):
            assert time.monotonic() - started < 1


def test_many_processes_that_find_a_bad_file_end_with_a_good_one(server, url, tmp_path):
    (tmp_path / NAME).write_bytes(bytes(len(DATA)))
    server.always[PATH] = slowly
    processes = [child(url, tmp_path) for _ in range(6)]
    for process in processes:
        assert process.communicate(timeout=60)[0] == f"{tmp_path / NAME}\n"
    assert (tmp_path / NAME).read_bytes() == DATA
    assert not (tmp_path / f".{NAME}.bad").exists()
    assert server.sent <= 1.05 * len(DATA)


def test_who_comes_when_the_bytes_have_just_arrived_finds_them(server, url, tmp_path, monkeypatch):
    weights = Weights("V1", (url,), DIGEST[:8])
    card = Card("acme", "net", "acme:net", weights=(weights,))
    release = _Holder.__exit__

    def late(holder, *rest):
        release(holder, *rest)
        if threading.current_thread() is first:
            second.start()
            second.join()

    monkeypatch.setattr(_Holder, "__exit__", late)
    first, second = (threading.Thread(target=obtain, args=(card, weights)) for _ in range(2))
    first.start()
    first.join()
    assert server.sent == len(DATA)

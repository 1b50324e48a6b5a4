"""Work in a background thread beside a growing file."""

import hashlib
import os
import threading
from unittest.mock import Mock

import pytest

from zoo_core.weights.download.background import Background, BackgroundHash


@pytest.fixture
def background():
    one = Background()
    yield one
    one.close()


def test_things_are_done_in_order_and_once(background):
    seen = []
    for number in range(50):
        background.do(lambda number=number: seen.append(number))
    background.wait()
    assert seen == [*range(50)]


def test_the_writer_goes_on_meanwhile(background):
    go_on = threading.Event()
    background.do(lambda: go_on.wait(10) and None)
    background.do(lambda: None)
    assert not background.is_idle
    go_on.set()
    background.wait()
    assert background.is_idle


def fail():
    raise OSError(5, "the disk is broken")


@pytest.mark.parametrize("has_threads", [True, False])
def test_a_failure_is_the_writers_too(has_threads, background, monkeypatch):
    if not has_threads:
        monkeypatch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("can't start new thread")))
    with pytest.raises(OSError, match="broken"):  # noqa: PT012 - by whichever call comes first
        background.do(fail)
        background.wait()


def test_where_no_thread_can_be_had_it_is_done_in_between(background, monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("can't start new thread")))
    threads = []
    background.do(lambda: threads.append(threading.current_thread()))
    assert threads == [threading.current_thread()]


def blocks_of(data, count):
    return [data[at : at + count] for at in range(0, len(data), count)]


@pytest.mark.parametrize("count", [1, 1000, 1 << 20])
@pytest.mark.parametrize("has_threads", [True, False])
def test_blocks_are_hashed_in_order_wherever_that_is_done(count, has_threads, monkeypatch):
    if not has_threads:
        monkeypatch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("can't start new thread")))
    data = os.urandom(3 * count + 7)
    hashing = BackgroundHash()
    for block in blocks_of(data, count):
        hashing.add(block)
    assert hashing.hexdigest() == hashlib.sha256(data).hexdigest()
    hashing.add(b"more")
    assert hashing.hexdigest() == hashlib.sha256(data + b"more").hexdigest()
    hashing.close()


def test_what_waits_to_be_hashed_is_bounded():
    go_on, hashing = threading.Event(), BackgroundHash()
    hashing.do(lambda: go_on.wait(10) and None, 32 << 20)
    writer = threading.Thread(target=hashing.add, args=(bytes(1 << 20),), daemon=True)
    writer.start()
    writer.join(0.1)
    assert writer.is_alive()
    go_on.set()
    writer.join(10)
    assert hashing.hexdigest() == hashlib.sha256(bytes(1 << 20)).hexdigest()
    hashing.close()

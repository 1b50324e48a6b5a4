"""Work that follows a growing file."""

import hashlib
import os
import threading
from unittest.mock import Mock

import pytest

from zoo_core.weights.download.background import Background, BackgroundHash


@pytest.fixture
def background():
    """Makes one that notes the stretches it was given, and closes it."""
    made = []

    def make(act, **options):
        made.append(Background(act, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("apart", [True, False])
def test_every_byte_is_seen_once_and_in_order(background, apart):
    seen = []
    one = background(lambda begin, end: seen.append((begin, end)), step=10, apart=apart)
    for length in (3, 9, 12, 40, 41, 77):
        one.follow(length)
    one.catch_up(80)
    assert [begin for begin, _ in seen] == [0, *(end for _, end in seen[:-1])]
    assert seen[-1][1] == 80


def test_little_is_done_without_another_thread(background):
    threads = []
    one = background(lambda _begin, _end: threads.append(threading.current_thread()), step=10)
    one.follow(9)
    one.catch_up(9)
    assert threads == [threading.current_thread()]


def test_the_writer_goes_on_meanwhile(background):
    go_on = threading.Event()
    one = background(lambda _begin, _end: go_on.wait(10), step=10)
    one.follow(10)
    one.follow(20)
    assert not go_on.is_set()
    go_on.set()
    one.catch_up(20)


def fail(_begin, _end):
    raise OSError(5, "the disk is broken")


@pytest.mark.parametrize("apart", [True, False])
def test_a_failure_is_the_writers_too(background, apart):
    one = background(fail, step=10, apart=apart)
    with pytest.raises(OSError, match="broken"):  # noqa: PT012 - by whichever call comes first
        one.follow(10)
        one.catch_up(10)


def test_where_no_thread_can_be_had_it_is_done_in_between(background, monkeypatch):
    def no_more(_thread):
        raise RuntimeError("can't start new thread")

    seen = []
    one = background(lambda begin, end: seen.append((begin, end)), step=10)
    monkeypatch.setattr(threading.Thread, "start", no_more)
    one.follow(10)
    one.follow(30)
    assert seen == [(0, 10), (10, 30)]


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

"""Work that follows a growing file."""

import threading

import pytest

from zoo_core.weights.download.background import Background


@pytest.fixture
def behind():
    """Makes one that notes the stretches it was given, and closes it."""
    made = []

    def make(act, **options):
        made.append(Background(act, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("apart", [True, False])
def test_every_byte_is_seen_once_and_in_order(behind, apart):
    seen = []
    one = behind(lambda begin, end: seen.append((begin, end)), step=10, apart=apart)
    for length in (3, 9, 12, 40, 41, 77):
        one.follow(length)
    one.catch_up(80)
    assert [begin for begin, _ in seen] == [0, *(end for _, end in seen[:-1])]
    assert seen[-1][1] == 80


def test_little_is_done_without_another_thread(behind):
    threads = []
    one = behind(lambda _begin, _end: threads.append(threading.current_thread()), step=10)
    one.follow(9)
    one.catch_up(9)
    assert threads == [threading.current_thread()]


def test_the_writer_goes_on_meanwhile(behind):
    go_on = threading.Event()
    one = behind(lambda _begin, _end: go_on.wait(10), step=10)
    one.follow(10)
    one.follow(20)
    assert not go_on.is_set()
    go_on.set()
    one.catch_up(20)


def fail(_begin, _end):
    raise OSError(5, "the disk is broken")


@pytest.mark.parametrize("apart", [True, False])
def test_a_failure_is_the_writers_too(behind, apart):
    one = behind(fail, step=10, apart=apart)
    with pytest.raises(OSError, match="broken"):  # noqa: PT012 - by whichever call comes first
        one.follow(10)
        one.catch_up(10)


def test_where_no_thread_can_be_had_it_is_done_in_between(behind, monkeypatch):
    def no_more(_thread):
        raise RuntimeError("can't start new thread")

    seen = []
    one = behind(lambda begin, end: seen.append((begin, end)), step=10)
    monkeypatch.setattr(threading.Thread, "start", no_more)
    one.follow(10)
    one.follow(30)
    assert seen == [(0, 10), (10, 30)]

"""What dead downloads left in a folder: swept when it is certainly ours and dead, and nothing else is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.loopback import cut, sha256

from zoo_core.errors import FetchError
from zoo_core.weights import fetch

DATA = os.urandom(50_000)
DIGEST = sha256(DATA)
NAME = f"net-{DIGEST[:16]}.pth"
DAY = 86400


@pytest.fixture
def url(server):
    return server.put("/net.pth", DATA)


def plant(folder, name, age=0.0, data=b"leftover"):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(data)
    os.utime(path, (time.time() - age, time.time() - age))
    return path


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return process.pid


def own_host():
    from zoo_core.weights.download.ownership import own_name

    return own_name("x").split(".")[2].split("-")[0]


@pytest.mark.parametrize("there", [True, False], ids=["when it is there already", "when it has arrived"])
def test_a_dead_partial_beside_a_good_file_is_swept(url, tmp_path, there, dead):
    if there:
        fetch(url, tmp_path, sha256=DIGEST)
    path = plant(tmp_path, f".{NAME}.{own_host()}-{dead}-00aa00aa00aa00aa.partial")
    origin = plant(tmp_path, path.name + ".origin")
    fetch(url, tmp_path, sha256=DIGEST)
    assert not path.exists()
    assert not origin.exists()


def test_a_note_whose_partial_is_gone_is_swept(url, tmp_path, dead):
    origin = plant(tmp_path, f".other-1.pth.{own_host()}-{dead}-00aa00aa00aa00aa.partial.origin")
    fetch(url, tmp_path, sha256=DIGEST)
    assert not origin.exists()


def test_a_dead_download_of_something_else_is_spared_for_a_day(url, tmp_path, dead):
    young = plant(tmp_path, f".a.pth.{own_host()}-{dead}-00aa00aa00aa00aa.partial", age=DAY / 2)
    old = plant(tmp_path, f".b.pth.{own_host()}-{dead}-00aa00aa00aa00ab.partial", age=DAY * 2)
    plant(tmp_path, old.name + ".origin")
    fetch(url, tmp_path, sha256=DIGEST)
    assert young.exists()
    assert not old.exists()
    assert not old.with_name(old.name + ".origin").exists()


def test_a_download_that_failed_is_continued_after_another_into_the_same_folder(server, url, tmp_path, policy):
    other = server.put("/other.pth", DATA * 2)
    server.script("/other.pth", cut(60_000), *[cut(0)] * 4)
    with pytest.raises(FetchError):
        fetch(other, tmp_path, sha256=sha256(DATA * 2), policy=policy)
    fetch(url, tmp_path, sha256=DIGEST)
    fetch(other, tmp_path, sha256=sha256(DATA * 2), policy=policy)
    assert server.sent == 3 * len(DATA)


def test_a_living_download_of_the_same_file_is_not_swept(server, url, tmp_path):
    fetch(url, tmp_path, sha256=DIGEST)
    code = (
        "import sys, time; from pathlib import Path; from zoo_core.weights.download.partial import Partial\n"
        "partial = Partial.new(Path(sys.argv[1]), sys.argv[2]); partial.write(b'alive')\n"
        "print(partial.path, flush=True); time.sleep(30)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), NAME], stdout=subprocess.PIPE, text=True)
    try:
        path = process.stdout.readline().strip()
        os.utime(path, (0, 0))
        process.send_signal(signal.SIGSTOP)
        fetch(url, tmp_path, sha256=DIGEST)
        assert Path(path).exists()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "name",
    [
        "notes.partial",
        ".notes.partial",
        ".net.pth.partial",
        ".my.own-file.partial",
        ".a.b-c-d.partial",
        ".x.host-12-zz.partial",
        "net.host-1-aabbccdd.partial",
        ".x.host-1-aabbccdd.partial.origin.txt",
        ".origin",
        "x.origin",
    ],
)
def test_what_only_looks_like_ours_stays(url, tmp_path, name):
    path = plant(tmp_path, name, age=DAY * 100)
    fetch(url, tmp_path, sha256=DIGEST)
    fetch(url, tmp_path, sha256=DIGEST)
    assert path.read_bytes() == b"leftover"


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_file_is_not_swept(url, tmp_path, kind, dead):
    path = tmp_path / f".{NAME}.{own_host()}-{dead}-00aa00aa00aa00aa.partial"
    precious = plant(tmp_path, "precious.txt")
    {"link": lambda: path.symlink_to(precious), "folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}[kind]()
    assert fetch(url, tmp_path, sha256=DIGEST).read_bytes() == DATA
    assert os.path.lexists(path)
    assert precious.read_bytes() == b"leftover"

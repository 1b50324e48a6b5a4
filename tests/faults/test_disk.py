"""Disks that are full, small, read-only or in the way."""

import contextlib
import errno
import os
import shutil
import stat
import subprocess
import sys

import pytest
from support.loopback import cut, sha256, status

from zoo_core.errors import CacheError
from zoo_core.weights import fetch

DATA = os.urandom(3_000_000)
DIGEST = sha256(DATA)
PATH = "/net.pth"
NAME = f"net-{DIGEST[:16]}.pth"

CHILD = """
import os, resource, sys
from zoo_core.errors import ZooError
from zoo_core.weights import fetch
{before}
try:
    fetch(sys.argv[1], sys.argv[2], sha256=sys.argv[3]{extra})
except ZooError as error:
    print(type(error).__name__, error)
else:
    print("fine")
"""


@pytest.fixture
def url(server):
    return server.put(PATH, DATA)


def outcome(url, folder, before="", extra="", **keywords):
    code = CHILD.format(before=before, extra=extra)
    command = [sys.executable, "-c", code, url, str(folder), DIGEST]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, **keywords).stdout


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_what_cannot_fit_is_refused_before_it_is_downloaded(server, url, small_disk):
    with pytest.raises(CacheError, match="no room for 3,000,000 bytes") as caught:
        fetch(url, small_disk, sha256=DIGEST, size=len(DATA))
    assert server.requests == []
    assert caught.value.free < caught.value.needed
    assert "ZOO_CACHE" in str(caught.value)


def test_a_file_system_that_reports_no_size_at_all_is_tried(url, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: (0, 0, 0))  # as those over a bucket do
    assert fetch(url, tmp_path, sha256=DIGEST, size=len(DATA)).read_bytes() == DATA


def test_a_disk_that_fills_up_on_the_way_is_a_clear_error_and_gets_its_space_back(server, url, small_disk, policy):
    server.always[PATH] = lambda handler, data: (
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + data),
        setattr(handler, "close_connection", True),
    )
    with pytest.raises(CacheError, match="cannot write") as caught:
        fetch(url, small_disk, sha256=DIGEST, policy=policy)
    assert caught.value.errno == errno.ENOSPC
    assert len(server.requests) == 1
    assert sum(path.stat().st_size for path in small_disk.iterdir()) == 0


def test_a_disk_without_any_free_file_is_a_clear_error(server, url, tmp_path):
    folder = tmp_path / "few"
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=2", "tmpfs", str(folder)]
    if subprocess.run(options, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a tmpfs")
    try:
        (folder / "the last one").touch()
        with pytest.raises(CacheError, match="No space left"):
            fetch(url, folder, sha256=DIGEST)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_read_only_disk_is_a_clear_error(url, tmp_path, server):
    folder = tmp_path / "fixed"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode:
        pytest.skip("this user may not mount a tmpfs")
    try:
        with pytest.raises(CacheError, match="Read-only"):
            fetch(url, folder, sha256=DIGEST)
        assert server.requests == []
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_good_file_on_a_read_only_disk_is_used(server, url, tmp_path):
    folder = tmp_path / "fixed"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a tmpfs")
    try:
        first = fetch(url, folder, sha256=DIGEST)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        server.close()
        assert fetch(url, folder, sha256=DIGEST) == first
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_limit_on_file_sizes_is_a_clear_error(server, url, tmp_path):
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))"
    assert outcome(url, tmp_path, limit).startswith("CacheError cannot write")
    assert len(server.requests) == 1
    assert not (tmp_path / NAME).exists()


def test_a_bomb_in_an_encoding_is_cut_off_before_it_fills_the_disk(server, url, tmp_path):
    import gzip

    server.always[PATH] = status(200, gzip.compress(bytes(50_000_000)), Content_Encoding="gzip")
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))"
    assert outcome(url, tmp_path, limit, extra=", size=3_000_000").startswith("DigestMismatch wrong bytes")


def test_a_limit_on_open_files_is_an_error_of_ours(url, tmp_path):
    limit = "resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))"
    warm_up = (
        "import zoo_core.weights.transport.http, zoo_core.weights.fetch_to_folder, idna, encodings.idna, certifi\n"
    )
    assert outcome(url, tmp_path, warm_up + limit).split()[0] in ("CacheError", "FetchError")
    assert not (tmp_path / NAME).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_a_folder_of_somebody_else_is_a_clear_error(url, tmp_path):
    for folder in (tmp_path, *tmp_path.parents):
        with contextlib.suppress(PermissionError):
            folder.chmod(folder.stat().st_mode | 0o055)
    before = "os.setuid(65534)"
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o755)
    assert outcome(url, theirs, before).startswith("CacheError cannot write")


def test_a_file_where_the_folder_should_be_is_refused(url, tmp_path):
    (tmp_path / "dest").write_text("a file")
    with pytest.raises(CacheError, match="is not a folder"):
        fetch(url, tmp_path / "dest", sha256=DIGEST)
    assert (tmp_path / "dest").read_text() == "a file"


def test_a_file_in_the_way_of_the_folder_is_refused(url, tmp_path):
    (tmp_path / "a").write_text("a file")
    with pytest.raises(CacheError):
        fetch(url, tmp_path / "a" / "dest", sha256=DIGEST)


@pytest.mark.parametrize("target", ["elsewhere.pth", "missing.pth"])
def test_a_link_under_the_final_name_is_refused(url, tmp_path, target):
    precious = tmp_path / "elsewhere.pth"
    precious.write_bytes(b"precious")
    dest = tmp_path / "dest"
    dest.mkdir()
    (dest / NAME).symlink_to(tmp_path / target)
    with pytest.raises(CacheError, match="a symbolic link"):
        fetch(url, dest, sha256=DIGEST)
    assert precious.read_bytes() == b"precious"
    assert not (tmp_path / "missing.pth").exists()


def test_a_folder_under_the_final_name_is_refused(url, tmp_path):
    (tmp_path / NAME).mkdir()
    with pytest.raises(CacheError, match="a folder"):
        fetch(url, tmp_path, sha256=DIGEST)


def test_a_pipe_under_the_final_name_is_refused(url, tmp_path):
    os.mkfifo(tmp_path / NAME)
    with pytest.raises(CacheError, match="not a plain file"):
        fetch(url, tmp_path, sha256=DIGEST)


def test_a_link_that_appears_during_the_download_is_refused(server, url, tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_bytes(b"precious")
    dest = tmp_path / "dest"

    def plant(handler, data):
        (dest / NAME).symlink_to(precious)
        status(200, data)(handler, data)

    server.script(PATH, plant)
    with pytest.raises(CacheError, match="a symbolic link"):
        fetch(url, dest, sha256=DIGEST)
    assert precious.read_bytes() == b"precious"


def test_a_folder_that_vanishes_during_the_download_is_a_clear_error(server, url, tmp_path):
    dest = tmp_path / "dest"

    def vanish(handler, data):
        shutil.rmtree(dest)
        status(200, data)(handler, data)

    server.script(PATH, vanish)
    with pytest.raises(CacheError):
        fetch(url, dest, sha256=DIGEST)


def test_a_linked_folder_is_a_folder(url, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    assert fetch(url, tmp_path / "linked", sha256=DIGEST).read_bytes() == DATA


@pytest.mark.parametrize("name", ["with space", "ünïcödé", "quote'", "new\nline", "-dash", "%41"])
def test_any_folder_name_will_do(url, tmp_path, name):
    assert fetch(url, tmp_path / name, sha256=DIGEST).read_bytes() == DATA


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "replace", "grow"])
def test_a_damaged_file_is_moved_aside_and_fetched_again(server, url, tmp_path, damage):
    path = fetch(url, tmp_path, sha256=DIGEST)
    data = {
        "flip": DATA[:1000] + bytes([DATA[1000] ^ 1]) + DATA[1001:],
        "truncate": DATA[:1000],
        "empty": b"",
        "replace": os.urandom(len(DATA)),
        "grow": DATA + b"x",
    }[damage]
    path.write_bytes(data)
    assert fetch(url, tmp_path, sha256=DIGEST).read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert len(server.requests) == 2


def test_permissions_follow_the_umask(url, tmp_path):
    before = os.umask(0o077)
    try:
        path = fetch(url, tmp_path, sha256=DIGEST)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_bytes_are_on_the_disk_before_the_name_is(server, url, tmp_path, monkeypatch):
    """The order of fsync and rename, watched through the system calls that Python makes."""
    calls = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), real_fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda *names, **at: (calls.append(names[1]), real_replace(*names, **at))[1])
    server.script(PATH, cut(100))
    fetch(url, tmp_path, sha256=DIGEST)
    assert calls.index("fsync") < calls.index(NAME)

"""Caches that somebody, or something, has touched."""

import os
import subprocess
import sys

import pytest
from support.loopback import sha256

from zoo_core import Card, Weights
from zoo_core.errors import CacheError, FetchError, Offline
from zoo_core.weights import Cache, obtain

DATA = os.urandom(100_000)
DIGEST = sha256(DATA)


@pytest.fixture
def requested(server):
    url = server.put("/net.pth", DATA)
    weights = Weights("V1", (url,), DIGEST)
    return Card("acme", "net", "acme:net", weights=(weights,), default="V1"), weights


def ref():
    return Cache().ref_path("acme", "net", "V1")


def test_an_object_that_is_a_link_is_refused(requested, tmp_path):
    path = obtain(*requested).path
    path.unlink()
    (tmp_path / "elsewhere").write_bytes(DATA)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CacheError, match="a symbolic link"):
        obtain(*requested)


def test_an_object_that_is_a_folder_is_refused(requested):
    path = obtain(*requested).path
    path.unlink()
    path.mkdir()
    with pytest.raises(CacheError, match="a folder"):
        obtain(*requested)


def test_an_object_that_is_gone_is_fetched_again(server, requested):
    obtain(*requested).path.unlink()
    assert obtain(*requested).fetched
    assert len(server.requests) == 2


def test_a_ref_that_is_gone_costs_a_hash_and_no_download(server, requested):
    obtain(*requested)
    ref().unlink()
    assert obtain(*requested).fetched is False
    assert ref().exists()
    assert len(server.requests) == 1


@pytest.mark.parametrize("text", ["", "sha256 zz\n", "\x00\x01", "sha256 " + "0" * 64 + "\n", "size 5\nsize 6\n", "🦓"])
def test_a_ref_that_means_nothing_is_written_anew_where_the_card_has_the_digest(server, requested, text):
    obtain(*requested)
    ref().write_text(text)
    assert obtain(*requested).fetched is False
    assert f"sha256 {DIGEST}" in ref().read_text()


def test_a_ref_cannot_point_out_of_the_cache(requested, tmp_path):
    obtain(*requested)
    ref().write_text(ref().read_text().replace("file net.pth", "file ../../../../escaped.pth"))
    assert obtain(*requested).path.is_relative_to(Cache().root)


def test_a_ref_with_another_digest_does_not_overrule_the_card(requested):
    obtain(*requested)
    ref().write_text(ref().read_text().replace(DIGEST, "0" * 64))
    assert obtain(*requested).sha256 == DIGEST


def test_a_bad_object_offline_says_so(requested, monkeypatch):
    path = obtain(*requested).path
    path.chmod(0o644)
    path.write_bytes(b"bad")
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    with pytest.raises(Offline):
        obtain(*requested)


def test_a_bad_object_is_kept_for_inspection(requested):
    path = obtain(*requested).path
    path.chmod(0o644)
    path.write_bytes(b"bad")
    obtain(*requested)
    assert path.with_name(f".{path.name}.bad").read_bytes() == b"bad"


def test_a_cache_folder_that_is_a_file_is_a_clear_error(requested, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))
    with pytest.raises(CacheError):
        obtain(*requested)


READ_ONLY = """
import os, sys
os.setuid(65534)
from zoo_core import Card, Weights
from zoo_core.weights import obtain
weights = Weights("V1", (sys.argv[1],), sys.argv[2])
try:
    got = obtain(Card("acme", "net", "acme:net", weights=(weights,)), weights)
    print(got.fetched, got.sha256)
except OSError as error:
    print(type(error).__name__, error)
"""


def mounted_read_only(folder):
    if subprocess.run(["mount", "--bind", str(folder), str(folder)], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)


@pytest.mark.parametrize("touched", [False, True], ids=["as it was", "copied to another disk"])
def test_a_read_only_cache_with_good_objects_works(server, requested, touched):
    path = obtain(*requested).path
    if touched:
        os.utime(path, (1, 1))
    mounted_read_only(Cache().root)
    try:
        server.close()
        assert obtain(*requested).path == path
    finally:
        subprocess.run(["umount", str(Cache().root)], check=True)


def test_a_read_only_cache_without_the_object_is_a_clear_error(requested):
    Cache().make()
    mounted_read_only(Cache().root)
    try:
        with pytest.raises(CacheError, match="Read-only"):
            obtain(*requested)
    finally:
        subprocess.run(["umount", str(Cache().root)], check=True)


def test_a_bad_object_in_a_read_only_cache_is_never_used(server, requested):
    path = obtain(*requested).path
    path.chmod(0o644)
    path.write_bytes(b"bad")
    mounted_read_only(Cache().root)
    try:
        with pytest.raises((CacheError, FetchError)):
            obtain(*requested)
    finally:
        subprocess.run(["umount", str(Cache().root)], check=True)


def test_a_process_killed_while_it_writes_a_ref_leaves_the_old_one(requested):
    obtain(*requested)
    (ref().parent / ".0123456789abcdef.tmp").write_text("sha256 half a li")
    assert obtain(*requested).fetched is False


def test_the_current_folder_may_vanish(requested, tmp_path):
    code = "import os, sys; os.mkdir(sys.argv[1]); os.chdir(sys.argv[1]); os.rmdir(sys.argv[1])\n"
    code += "from zoo_core.weights import Cache; print(Cache().root)"
    environment = {name: value for name, value in os.environ.items() if name != "ZOO_CACHE"}
    command = [sys.executable, "-P", "-c", code, str(tmp_path / "vanishing")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "weights_cache" in done.stdout, done.stderr

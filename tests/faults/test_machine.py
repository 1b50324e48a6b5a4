"""This machine, working against us: permissions, limits, clocks, signals, cleaners, odd settings."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from support.loopback import cut, good, sha256, status

from zoo_core import Card, Weights
from zoo_core.errors import CacheError, FetchError, UsageError, WeightsError
from zoo_core.weights import fetch, obtain
from zoo_core.weights.cache.store import Cache
from zoo_core.weights.download.partial import partials
from zoo_core.weights.transport.policy import Policy

DATA = os.urandom(400_000)
DIGEST = sha256(DATA)
PATH = "/net.pth"
NAME = f"net-{DIGEST[:16]}.pth"

CHILD = """
import os, resource, sys, threading
from pathlib import Path
import zoo_core.weights.transport.http, zoo_core.weights.fetch_missing, zoo_core.weights.fetch_to_folder
import certifi, encodings.idna, idna, netrc, platformdirs
from zoo_core import Card, Weights
from zoo_core.errors import ZooError
from zoo_core.weights import fetch, obtain
from zoo_core.weights.transport.policy import Policy
url, folder, digest = sys.argv[1:]
weights = Weights("V1", (url,), digest)
card = Card("acme", "net", "acme:net", weights=(weights,))
policy = Policy(timeout=5, sleep=lambda _seconds: None)
{before}
try:
    {action}
except ZooError as error:
    print(type(error).__name__, error)
else:
    print("fine")
"""
FETCH = "fetch(url, folder, sha256=digest, policy=policy)"
NOBODY = "os.setuid(65534)"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@pytest.fixture
def url(server):
    return server.put(PATH, DATA)


@pytest.fixture
def weights(url):
    return Weights("V1", (url,), DIGEST)


def get(weights, **options):
    return obtain(Card("acme", "net", "acme:net", weights=(weights,)), weights, **options)


def outcome(url, folder, before="", action=FETCH, **environment):
    code = CHILD.format(before=before, action=action)
    command = [sys.executable, "-c", code, url, str(folder), DIGEST]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def open_to_all():
    """A folder that another user can reach and write to; not below pytest's own, which any other run closes again."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@as_root
@pytest.mark.parametrize("mode", [0o000, 0o644])
def test_a_folder_that_cannot_be_looked_into_is_a_clear_error(url, open_to_all, mode):
    (open_to_all / "dest").mkdir()
    (open_to_all / "dest").chmod(mode)
    assert outcome(url, open_to_all / "dest", NOBODY).startswith("CacheError")


@as_root
def test_a_file_that_cannot_be_read_is_a_clear_error(url, open_to_all):
    path = fetch(url, open_to_all, sha256=DIGEST)
    path.chmod(0)
    said = outcome(url, open_to_all, NOBODY)
    assert said.startswith(f"CacheError cannot read {path}")
    assert "Permission denied" in said


@as_root
@pytest.mark.parametrize("what", ["objects", "refs", "arriving"])
def test_a_part_of_the_cache_that_is_closed_to_us_is_a_clear_error(url, open_to_all, what):
    cache = open_to_all / "cache"
    (cache / what).mkdir(parents=True)
    cache.chmod(0o777)
    (cache / what).chmod(0)
    said = outcome(url, cache, NOBODY, "obtain(card, weights, policy=policy)", ZOO_CACHE=str(cache))
    assert said.startswith("CacheError")
    assert str(cache) in said


@as_root
@pytest.mark.parametrize("action", ["contents(cache)", "list(verify(cache))", "prune(cache)"])
@pytest.mark.parametrize("closed", ["cache", "cache/refs", "cache/refs/acme"])
def test_a_part_of_the_cache_that_is_closed_to_us_is_not_taken_for_empty(
    weights, open_to_all, monkeypatch, closed, action
):
    cache = open_to_all / "cache"
    monkeypatch.setenv("ZOO_CACHE", str(cache))
    path = get(weights).path
    for each in (cache, *cache.rglob("*/")):
        each.chmod(0o777)
    os.utime(path, (0, 0))
    (open_to_all / closed).chmod(0)
    before = f"""
from zoo_core.weights.cache.inventory import contents, verify
from zoo_core.weights.cache.pruning import prune
from zoo_core.weights import Cache
cache = Cache()
{NOBODY}"""
    assert outcome("", cache, before, action).startswith(f"CacheError cannot read {cache}")
    assert path.exists()


@as_root
def test_below_a_folder_that_may_not_be_searched_no_lock_is_found(url, open_to_all):
    below = open_to_all / "of_another" / "here"
    below.mkdir(parents=True)
    below.chmod(0o777)
    below.parent.chmod(0o700)
    before = f"os.chdir({str(below)!r}); {NOBODY}"
    action = "from zoo_core.weights.trust.lock import find_lock; assert find_lock() is None"
    assert outcome(url, open_to_all, before, action).strip() == "fine"


@as_root
def test_an_object_that_cannot_be_read_is_a_clear_error(weights, url, open_to_all, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(open_to_all / "cache"))
    got = get(weights)
    got.path.chmod(0)
    said = outcome(url, open_to_all, NOBODY, "obtain(card, weights, policy=policy)")
    assert said.startswith(f"CacheError cannot read {got.path}")


@as_root
def test_no_thread_to_watch_with_is_an_error_of_ours(url, open_to_all):
    limit = f"resource.setrlimit(resource.RLIMIT_NPROC, (1, 1)); {NOBODY}"
    assert outcome(url, open_to_all, limit).split()[0] in ("FetchError", "fine")


@pytest.mark.parametrize("name", ["x" * 300, "y/" * 2500], ids=["a long name", "a long path"])
def test_a_folder_whose_name_is_too_long_is_a_clear_error(url, tmp_path, name):
    with pytest.raises(CacheError, match="too long"):
        fetch(url, tmp_path / name, sha256=DIGEST)


def test_a_folder_that_is_a_link_to_itself_is_a_clear_error(url, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(CacheError):
        fetch(url, tmp_path / "loop", sha256=DIGEST)


@pytest.mark.parametrize("spelled", ["e\u0301te\u0301", "\u00e9t\u00e9", "\u202egnp", "a" * 200, "\ud800"])
def test_a_folder_may_be_spelled_in_any_way(url, tmp_path, spelled):
    try:
        os.fsencode(spelled)
    except UnicodeEncodeError:
        with pytest.raises((UsageError, CacheError)):
            fetch(url, tmp_path / spelled, sha256=DIGEST)
        return
    assert fetch(url, tmp_path / spelled, sha256=DIGEST).parent == tmp_path / spelled


@pytest.mark.parametrize("timeout", [float("inf"), 1e300, 1e10, float("nan"), "5", None])
def test_a_timeout_that_no_clock_can_count_is_a_usage_error(url, tmp_path, timeout):
    with pytest.raises(UsageError, match="time-out"):
        fetch(url, tmp_path, sha256=DIGEST, timeout=timeout)


@pytest.mark.parametrize(
    "change", [{"attempts": 0}, {"timeout": 0.0}, {"timeout": float("inf")}, {"unknown_length": -1}]
)
def test_a_policy_that_cannot_be_followed_is_a_usage_error(change):
    with pytest.raises(UsageError):
        Policy(**change)


def test_a_partial_from_the_future_is_continued(server, url, tmp_path, policy):
    server.script(PATH, cut(200_000), *[cut(0)] * 4)
    with pytest.raises(FetchError):
        fetch(url, tmp_path, sha256=DIGEST, policy=policy)
    (left,) = partials(tmp_path, NAME)
    os.utime(left, (time.time() + 1e8, time.time() + 1e8))
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA
    assert server.sent == len(DATA)


def test_a_clock_that_jumps_changes_nothing(server, url, tmp_path, policy, monkeypatch):
    real = time.time
    server.script(PATH, cut(100_000), status(503, Retry_After="Fri, 31 Dec 1999 23:59:59 GMT"))
    jumps = iter([0, 1e9, -1e9] * 1000)
    monkeypatch.setattr(time, "time", lambda: max(0.0, real() + next(jumps)))
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_download_that_is_interrupted_is_continued(server, url, tmp_path, number):
    def half(handler, data):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.send_body(data[:200_000])
        handler.wfile.flush()
        time.sleep(10)

    server.script(PATH, half)
    code = CHILD.format(before="", action=FETCH)
    process = subprocess.Popen(
        [sys.executable, "-c", code, url, str(tmp_path), DIGEST], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while sum(path.stat().st_size for path in partials(tmp_path, NAME)) < 200_000:
        time.sleep(0.02)
    process.send_signal(number)
    process.wait(10)
    assert fetch(url, tmp_path, sha256=DIGEST).read_bytes() == DATA
    assert server.sent == len(DATA)


@pytest.mark.parametrize("how", ["removed", "truncated", "grown"])
def test_a_cleaner_that_spoils_a_partial_costs_one_more_download(server, url, tmp_path, how):
    def spoil(handler, data):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.send_body(data[:-1])
        while not (found := partials(tmp_path, NAME)) or found[0].stat().st_size < len(data) - 1:
            time.sleep(0.01)
        if how == "removed":
            found[0].unlink()
        elif how == "truncated":
            os.truncate(found[0], 5)
        else:
            with found[0].open("ab") as file:
                file.write(b"more")
        handler.send_body(data[-1:])

    server.script(PATH, spoil)
    assert fetch(url, tmp_path, sha256=DIGEST).read_bytes() == DATA
    assert len(server.requests) == 2


def test_a_good_file_that_appears_meanwhile_is_no_reason_to_fail(server, url, tmp_path, policy):
    def meanwhile(handler, data):
        (tmp_path / NAME).write_bytes(data)
        good(handler, data)

    server.script(PATH, meanwhile)
    assert fetch(url, tmp_path, sha256=DIGEST, policy=policy).read_bytes() == DATA


def test_a_cache_that_is_removed_between_two_uses_is_filled_again(server, weights):
    first = get(weights)
    shutil.rmtree(Cache().root)
    assert get(weights).path == first.path
    assert first.path.read_bytes() == DATA


def test_a_cache_that_is_removed_during_a_download_is_an_error_of_ours(server, weights, policy):
    def remove(handler, data):
        shutil.rmtree(Cache().root)
        good(handler, data)

    server.script(PATH, remove)
    with pytest.raises(CacheError):
        get(weights, policy=policy)
    assert get(weights, policy=policy).path.read_bytes() == DATA


@pytest.mark.parametrize("what", ["objects", "refs", "arriving"])
def test_a_file_where_the_cache_has_a_folder_is_a_clear_error(weights, policy, what):
    Cache().root.mkdir()
    (Cache().root / what).write_text("in the way")
    with pytest.raises(CacheError):
        get(weights, policy=policy)


@pytest.mark.parametrize("verify", ["auto", "always"])
def test_a_flip_that_keeps_the_time_of_the_last_write_is_noticed(server, weights, monkeypatch, verify):
    monkeypatch.setenv("ZOO_VERIFY", verify)
    path = get(weights).path
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(bytes([DATA[0] ^ 1]))
    os.utime(path, ns=times)
    assert get(weights).path.read_bytes() == DATA
    assert len(server.requests) == 2


@pytest.mark.parametrize("value", ["http://[::bad", "not a url", "http://", "://", "s3://", "nosuchscheme://x"])
@pytest.mark.parametrize("variable", ["ZOO_MIRROR", "ZOO_REWRITE"])
def test_a_mirror_that_is_no_url_is_passed_over_or_an_error_of_ours(weights, policy, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value.replace(" ", "") if variable == "ZOO_MIRROR" else f"http={value.split()[0]}")
    if variable == "ZOO_MIRROR":
        assert get(weights, policy=policy).path.read_bytes() == DATA
    else:
        with pytest.raises(WeightsError):
            get(weights, policy=policy)


@pytest.mark.parametrize(
    "value", ["http://[::bad", "nonsense", "http://", "ftp://127.0.0.1:9", "socks5://127.0.0.1:9", "://"]
)
def test_a_proxy_that_cannot_be_is_an_error_of_ours(tmp_path, policy, monkeypatch, value):
    monkeypatch.setenv("http_proxy", value)
    with pytest.raises(FetchError, match="proxy"):
        fetch("http://weights.invalid/net.pth", tmp_path, sha256=DIGEST, policy=policy)


@pytest.mark.parametrize("text", ["", "garbage", "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"])
def test_a_list_of_authorities_that_holds_none_is_an_error_that_names_it(server, tmp_path, monkeypatch, text):
    slept = []
    url = server.url(PATH).replace("http:", "https:")
    (tmp_path / "mine.pem").write_text(text)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "mine.pem"))
    with pytest.raises(FetchError, match="REQUESTS_CA_BUNDLE"):
        fetch(url, tmp_path, sha256=DIGEST, policy=Policy(sleep=slept.append))


def test_a_netrc_that_means_nothing_does_no_harm(url, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine\n\x00 login")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert fetch(url, tmp_path, sha256=DIGEST).read_bytes() == DATA


def test_a_child_that_was_forked_after_a_download_can_download(server, url, tmp_path):
    fetch(url, tmp_path / "parent", sha256=DIGEST)
    before = f"{FETCH}; pid = os.fork(); folder += '/child' if pid == 0 else '/again'"
    action = f"{FETCH}; pid and os.waitpid(pid, 0)"
    assert outcome(url, tmp_path, before, action) == "fine\nfine\n"
    assert (tmp_path / "child" / NAME).read_bytes() == DATA


def test_a_source_file_that_shrinks_while_it_is_read_is_an_error_of_ours(tmp_path, policy):
    source = tmp_path / "source.pth"
    source.write_bytes(os.urandom(5_000_000))
    shrunk = threading.Event()

    class Shrinking:
        def __call__(self, _done, _total):
            if not shrunk.is_set():
                os.truncate(source, 10)
                shrunk.set()

    from zoo_core.weights.download.from_sources import download
    from zoo_core.weights.request import Request

    place, url = tmp_path / "net.pth", source.as_uri()
    request = Request("net", (url,), DIGEST, folder=tmp_path, place=lambda _digest, _file: place, policy=policy)
    with pytest.raises(WeightsError):
        download(request, Shrinking())
    assert not (tmp_path / "net.pth").exists()


@pytest.mark.parametrize(
    "path", ["/dev/zero", "/dev/full", "/proc/self/mem", "/", "/nowhere", "/dev/null", "/proc/version"]
)
def test_a_source_that_is_no_plain_file_is_an_error_of_ours(tmp_path, policy, path):
    with pytest.raises(WeightsError):
        fetch(f"file://{path}", tmp_path, sha256=DIGEST, size=None, policy=policy)


@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT])
def test_a_disk_that_fails_to_write_is_a_clear_error(url, tmp_path, number):
    """As NFS, a quota or a dying disk answers, through the system call that Python makes."""
    before = f"""
import io
from zoo_core.weights.download import partial
class Broken(io.FileIO):
    def write(self, data):
        raise OSError({number}, os.strerror({number}))
opened = os.fdopen
os.fdopen = lambda fd, mode="r", buffering=-1, *rest, **more: (
    Broken(fd, "r+b") if mode == "r+b" else opened(fd, mode, buffering, *rest, **more)
)
"""
    said = outcome(url, tmp_path, before)
    assert said.startswith("CacheError cannot write")
    assert os.strerror(number) in said
    assert not (tmp_path / NAME).exists()


def test_two_copies_of_one_file_end_as_one_object(server, weights):
    other = Weights("V2", (server.put("/elsewhere/net.pth", DATA),), DIGEST)
    got = []
    threads = [threading.Thread(target=lambda item=item: got.append(get(item).path)) for item in (weights, other) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({Path(path) for path in got}) == 1
    assert got[0].read_bytes() == DATA


def test_without_a_digest_bytes_of_another_url_are_not_continued(server, policy):
    one, two = os.urandom(300_000), os.urandom(300_000)
    first = Weights("V1", (server.put("/one/model.pth", one),), "")
    second = Weights("V1", (server.put("/two/model.pth", two),), "")
    server.script("/one/model.pth", cut(150_000), *[cut(0)] * 4)
    with pytest.raises(FetchError):
        get(first, trust="first-use", policy=policy)
    card = Card("acme", "other", "acme:other", weights=(second,))
    assert obtain(card, second, trust="first-use", policy=policy).path.read_bytes() == two


@pytest.mark.parametrize("tag", ['ETag: "{}"', "X: {}"], ids=["with tags", "without"])
def test_without_a_digest_a_file_that_changes_in_the_middle_is_not_spliced(server, policy, tag):
    old, new = os.urandom(300_000), os.urandom(300_000)

    def part(handler, data):
        name, value = tag.format(sha256(data)[:8]).split(": ")
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        handler.send_response(206 if start else 200)
        handler.send_header(name, value)
        handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        handler.send_body(data[start : 150_000 if data is old else None])
        server.files["/net.pth"] = new
        handler.close_connection = True

    weights = Weights("V1", (server.put("/net.pth", old),), "")
    server.always["/net.pth"] = part
    assert get(weights, trust="first-use", policy=policy).path.read_bytes() == new

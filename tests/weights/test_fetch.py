import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.loopback import serving, sha256

import zoo_core.errors
from zoo_core.errors import CacheError, DigestMismatch, FetchError, Offline, Untrusted, UsageError
from zoo_core.weights import fetch

DATA = os.urandom(300_000)


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_file_is_fetched_and_named_after_the_url_and_the_digest(server, tmp_path):
    path = fetch(server.put("/a/net.pth", DATA), tmp_path / "new" / "folder", sha256=sha256(DATA))
    assert path.read_bytes() == DATA
    assert path.name == f"net-{sha256(DATA)[:16]}.pth"
    assert path.parent == tmp_path / "new" / "folder"


def test_a_second_call_opens_no_socket(server, tmp_path):
    url = server.put("/net.pth", DATA)
    first = fetch(url, tmp_path, sha256=sha256(DATA))
    server.close()
    assert fetch(url, tmp_path, sha256=sha256(DATA)) == first
    assert len(server.requests) == 1


def test_nothing_but_the_file_is_left_visible(server, tmp_path):
    path = fetch(server.put("/net.pth", DATA), tmp_path, sha256=sha256(DATA))
    assert visible(tmp_path) == [path.name]


def test_a_prefix_of_the_digest_is_enough_on_this_machine(server, tmp_path):
    assert fetch(server.put("/net.pth", DATA), tmp_path, sha256=sha256(DATA)[:8]).read_bytes() == DATA


def test_an_upper_case_digest_means_the_same(server, tmp_path):
    assert fetch(server.put("/net.pth", DATA), tmp_path, sha256=sha256(DATA).upper()).read_bytes() == DATA


def test_a_wrong_byte_is_refused_and_nothing_is_left_under_the_final_name(server, tmp_path):
    url = server.put("/net.pth", DATA)
    server.always["/net.pth"] = serving(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    with pytest.raises(DigestMismatch, match="wrong bytes") as caught:
        fetch(url, tmp_path, sha256=sha256(DATA))
    assert visible(tmp_path) == []
    assert caught.value.expected_digest == sha256(DATA)
    assert caught.value.got_digest != sha256(DATA)


def test_an_unreachable_host_names_itself_and_the_ways_out(tmp_path, policy):
    with pytest.raises(FetchError, match=r"127\.0\.0\.1:9") as caught:
        fetch("http://127.0.0.1:9/net.pth", tmp_path, sha256=sha256(DATA), policy=policy)
    assert caught.value.hosts == ("127.0.0.1:9",)
    assert "host=" not in str(caught.value)
    assert "ZOO_OFFLINE" in str(caught.value)
    assert "weights=None" in str(caught.value)


def test_plain_http_with_a_prefix_only_is_refused_before_any_socket(tmp_path):
    with pytest.raises(Untrusted, match="plain http"):
        fetch("http://weights.invalid/net.pth", tmp_path, sha256="5c106cde")


def test_no_digest_is_refused(server, tmp_path):
    with pytest.raises(Untrusted, match="no digest"):
        fetch(server.put("/net.pth", DATA), tmp_path, sha256="")
    assert server.requests == []


def test_offline_opens_no_socket(server, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    with pytest.raises(Offline, match="net-"):
        fetch(server.put("/net.pth", DATA), tmp_path, sha256=sha256(DATA))
    assert server.requests == []


def test_offline_still_copies_local_files(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    (tmp_path / "net.pth").write_bytes(DATA)
    assert fetch((tmp_path / "net.pth").as_uri(), tmp_path / "to", sha256=sha256(DATA)).read_bytes() == DATA


def test_a_file_inside_a_package_is_a_source(tmp_path):
    data = Path(zoo_core.errors.__file__).read_bytes()
    assert fetch("package://zoo_core/errors.py", tmp_path, sha256=sha256(data)).read_bytes() == data


@pytest.fixture
def marked(tmp_path, monkeypatch):
    """Modules and packages on the path that write a file when they are imported, and that file."""
    code = f"open({str(tmp_path / 'EXECUTED')!r}, 'w').close()"
    for place in ("evil_module.py", "evil_package/__init__.py", "evil_package/inner/__init__.py"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(code)
    (tmp_path / "plain_folder").mkdir()
    for folder in ("evil_package", "evil_package/inner", "plain_folder"):
        (tmp_path / folder / "net.pth").write_bytes(DATA)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "EXECUTED"


@pytest.mark.parametrize("package", ["evil_package", "evil_package.inner", "plain_folder"])
def test_a_package_is_read_and_not_imported(package, marked, tmp_path):
    got = fetch(f"package://{package}/net.pth", tmp_path / "to", sha256=sha256(DATA))
    assert got.read_bytes() == DATA
    assert not marked.exists()


@pytest.mark.parametrize("name", ["evil_module", "evil_module.inner", "os"])
def test_a_module_is_no_package_and_not_imported(name, marked, tmp_path):
    with pytest.raises(FetchError, match="is a module, and no package"):
        fetch(f"package://{name}/net.pth", tmp_path / "to", sha256=sha256(DATA))
    assert not marked.exists()


@pytest.mark.parametrize("url", ["package://no_such_package/a.pth", "package://zoo_core/none.pth", "file:///none.pth"])
def test_a_missing_local_source_is_an_error_that_says_so(url, tmp_path):
    with pytest.raises(FetchError, match=r"not installed|No such file"):
        fetch(url, tmp_path, sha256=sha256(DATA))


def test_the_umask_decides_who_may_read(server, tmp_path):
    before = os.umask(0o027)
    try:
        path = fetch(server.put("/net.pth", DATA), tmp_path, sha256=sha256(DATA))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_two_urls_with_one_name_do_not_collide(server, tmp_path):
    other = os.urandom(1000)
    one = fetch(server.put("/a/model.bin", DATA), tmp_path, sha256=sha256(DATA))
    two = fetch(server.put("/b/model.bin", other), tmp_path, sha256=sha256(other))
    assert (one.read_bytes(), two.read_bytes()) == (DATA, other)


def test_a_folder_in_the_way_is_refused(server, tmp_path):
    url = server.put("/net.pth", DATA)
    (tmp_path / f"net-{sha256(DATA)[:16]}.pth").mkdir()
    with pytest.raises(CacheError, match="is a folder"):
        fetch(url, tmp_path, sha256=sha256(DATA))


@pytest.mark.parametrize("arguments", [{"sha256": "xyz"}, {"size": -1}, {"size": "3"}, {"timeout": 0}])
def test_a_malformed_argument_is_a_usage_error(arguments, tmp_path):
    with pytest.raises(UsageError):
        fetch("https://weights.invalid/net.pth", tmp_path, **{"sha256": sha256(DATA), **arguments})


def test_the_fetcher_never_imports_torch():
    code = (
        "import sys, zoo_core.weights.proven_file, zoo_core.weights.transport.http; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

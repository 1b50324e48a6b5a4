"""Names and urls that try to be something else."""

import os
from pathlib import Path

import pytest
from support.loopback import serving, sha256, status

from zoo_core.errors import FetchError, UsageError, ZooError
from zoo_core.weights import Cache, fetch
from zoo_core.weights.cache.refs import ref_name
from zoo_core.weights.transport.urls import file_name, shown

DATA = os.urandom(10_000)
DIGEST = sha256(DATA)

PATHS = {
    "/../../etc/passwd": "passwd",
    "/%2e%2e%2f%2e%2e%2fetc%2fpasswd": "etc_passwd",
    "/..": None,
    "/": None,
    "": None,
    "/.hidden.pth": "hidden.pth",
    "/net.pth?name=../../evil": "net.pth",
    "/net.pth#fragment": "net.pth",
    "/a%00b.pth": "a_b.pth",
    "/con": "con_",
    "/net.pth.": "net.pth",
    "/spaces%20and%0Anewlines.pth": "spaces_and_newlines.pth",
    "/%F0%9F%A6%93.pth": "pth",
    "/C%3A%5Cwindows%5Csystem32": "C_windows_system32",
    "/-rf": "rf",
    "/~root": "root",
}


@pytest.mark.parametrize("path", PATHS)
def test_a_file_stays_in_its_folder_whatever_the_url(server, tmp_path, path):
    dest = tmp_path / "dest"
    server.otherwise = serving(DATA)
    got = fetch(server.url(path), dest, sha256=DIGEST)
    assert got.parent == dest
    assert got.resolve().is_relative_to(dest.resolve())
    assert {item.parent for item in dest.rglob("*")} == {dest}


@pytest.mark.parametrize(("path", "name"), PATHS.items())
def test_a_name_is_plain_on_every_system(path, name):
    assert file_name("http://host" + path) == (name or "weights")


def test_a_very_long_name_is_cut(server, tmp_path):
    path = "/" + "n" * 5000 + ".pth"
    got = fetch(server.put(path, DATA), tmp_path, sha256=DIGEST)
    assert len(got.name) < 200
    assert got.suffix == ".pth"


@pytest.mark.parametrize("header", ["../../evil.pth", "/etc/passwd", "evil\\..\\..\\x", "a" * 5000])
def test_no_server_names_a_file(server, tmp_path, header):
    url = server.put("/net.pth", DATA)
    server.always["/net.pth"] = status(200, DATA, Content_Disposition=f'attachment; filename="{header}"')
    assert fetch(url, tmp_path, sha256=DIGEST).name == f"net-{DIGEST[:16]}.pth"


@pytest.mark.parametrize(
    "url",
    ["", "net.pth", "/net.pth", "//host/net.pth", "http://[::bad/x", None, 7, "http://", "https:///x", "file://host/x"],
)
def test_what_is_no_url_is_an_error_of_ours(tmp_path, policy, url):
    with pytest.raises(ZooError):
        fetch(url, tmp_path, sha256=DIGEST, policy=policy)


@pytest.mark.parametrize(
    "url",
    ["ftp://127.0.0.1:9/net.pth", "gopher://x/y", "javascript:alert(1)", "data:text/plain,hi", "nothing://x", "s3:"],
)
def test_an_unknown_scheme_is_an_error_of_ours(tmp_path, policy, url):
    with pytest.raises(ZooError):
        fetch(url, tmp_path, sha256=DIGEST, policy=policy)


@pytest.mark.parametrize(
    "url",
    [
        "package://zoo_core/../../etc/passwd",
        "package://zoo_core/",
        "package:///errors.py",
        "package://zoo_core/%2e%2e/x",
    ],
)
def test_a_package_url_stays_in_its_package(tmp_path, url):
    with pytest.raises(ZooError):
        fetch(url, tmp_path, sha256=DIGEST)


@pytest.mark.parametrize("url", ["package://../net.pth", "package://..../x", "package:///net.pth", "package://a-b/x"])
def test_a_package_that_has_no_name_is_an_error_of_ours(tmp_path, url):
    with pytest.raises(FetchError, match="not the name of a package"):
        fetch(url, tmp_path, sha256="0" * 64)


def test_a_pipe_is_no_source(tmp_path):
    os.mkfifo(tmp_path / "net.pth")
    with pytest.raises(FetchError, match="not a regular file"):
        fetch((tmp_path / "net.pth").as_uri(), tmp_path / "dest", sha256="0" * 64)


@pytest.mark.parametrize("arguments", [{"timeout": "5"}, {"timeout": None}, {"timeout": True}, {"timeout": [1]}])
def test_what_is_no_timeout_is_a_usage_error(tmp_path, arguments):
    with pytest.raises(UsageError, match="not a time-out"):
        fetch("https://weights.invalid/net.pth", tmp_path, sha256="0" * 64, **arguments)


@pytest.mark.parametrize("dest", [None, 5, b"dest", "a\0b"])
def test_what_is_no_folder_is_a_usage_error(dest):
    with pytest.raises(UsageError, match=r"not a (folder|path)"):
        fetch("https://weights.invalid/net.pth", dest, sha256="0" * 64)


@pytest.mark.parametrize("digest", ["0" * 63 + "g", "0" * 65, "1234567", "../../../../x", "0" * 64 + "\n/../x", 12])
def test_what_is_no_digest_is_a_usage_error(tmp_path, digest):
    with pytest.raises(UsageError):
        fetch("https://weights.invalid/net.pth", tmp_path, sha256=digest)


@pytest.mark.parametrize(
    ("family", "name", "tag"),
    [
        ("..", "..", ".."),
        ("a/../..", "b", "c"),
        ("acme", "../../../etc/passwd", "V1"),
        ("acme", "hf_hub:org/name", "main"),
        ("acme", "n" * 500, "t" * 500),
        ("", "", ""),
        ("acme", "a\x00b", "c"),
        ("acme", "a\nb", "c"),
        (".", ".hidden", "x"),
        ("acme", "ünï", "🦓"),
    ],
)
def test_a_ref_stays_in_its_folder(tmp_path, family, name, tag):
    cache = Cache(tmp_path)
    path = cache.ref_path(family, name, tag)
    path.parent.mkdir(parents=True)
    path.write_text("")
    assert path.resolve().parent.parent == (tmp_path / "refs").resolve()
    assert not path.name.startswith(".")


def test_different_names_have_different_refs():
    names = [
        ("a", "b/c", "d"),
        ("a", "b", "c@d"),
        ("a", "b@c", "d"),
        ("a", "b%2Fc", "d"),
        ("a", "n" * 300, "1"),
        ("a", "n" * 300, "2"),
    ]
    assert len({ref_name(*name) for name in names}) == len(names)


def test_passwords_and_tokens_stay_out_of_messages():
    assert shown("https://me:secret@host/net.pth?token=secret#secret") == "https://host/net.pth"


def test_a_password_in_a_url_stays_out_of_the_ref(server, monkeypatch):
    from zoo_core import Card, Weights
    from zoo_core.weights import obtain

    url = server.put("/net.pth", DATA).replace("http://", "http://me:secret@") + "?token=secret"
    weights = Weights("V1", (url,), DIGEST)
    artefact = obtain(Card("acme", "net", "acme:net", weights=(weights,)), weights)
    assert "secret" not in artefact.source
    assert "secret" not in Path(Cache().ref_path("acme", "net", "V1")).read_text()

"""What the lock says of files on the hub: bytes that can be had after the branch that they were on has moved."""

import hashlib
import re

import pytest
from click.testing import CliRunner

from zoo_core.cli.group import zoo as group
from zoo_core.registry.zoo import current_zoo
from zoo_core.weights.trust.lock import read_lock

_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class Branches:
    """Answers as the hub does: each repository has one commit, until ``main`` moves on to another."""

    def __init__(self):
        self.has_moved = False

    def __call__(self, handler, _data):
        match = _FILE.fullmatch(handler.path.partition("?")[0])
        first, second = (hashlib.sha1(f"{match[1]} {n}".encode()).hexdigest() for n in (1, 2))
        commit = {"main": second if self.has_moved else first}.get(match[2], match[2])
        body = f"{commit} {match[3]}".encode() if commit in (first, second) else b""
        handler.send_response(200 if body else 404)
        handler.send_header("X-Repo-Commit", commit)
        handler.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.send_body(body)


def run(*words):
    done = CliRunner().invoke(group, list(words))
    assert done.exit_code == 0, done.output[-2000:]


@pytest.fixture
def branches(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    monkeypatch.setenv("ZOO_LOCK", str(tmp_path / "zoo.lock"))
    server.otherwise = Branches()
    return server.otherwise


@pytest.mark.parametrize("every", [500, pytest.param(1, marks=pytest.mark.full)], ids=["a few", "all"])
def test_timms_weights_on_the_hub_are_locked_at_a_commit(every, branches, tmp_path, monkeypatch):
    cards = current_zoo().member("timm").cards.values()
    names = [f"{card.id}@{each.tag}" for card in cards for each in card.weights if _FILE.search(each.urls[0])]
    assert len(names) > 1500
    run("lock", *names[::every])
    branches.has_moved = True
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "another"))
    run("sync", "--frozen")
    entries = read_lock(tmp_path / "zoo.lock").entries
    assert set(entries) == set(names[::every])
    assert all(re.search(r"/resolve/[0-9a-f]{40}/", entry.urls[0]) for entry in entries.values())

"""Folders that others may have filled: links, settings of theirs, and text that a terminal would obey."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from click.testing import CliRunner
from rich.table import Table

from zoo_core.cli.console import terminal
from zoo_core.cli.group import zoo as group
from zoo_core.cli.lock import _renew
from zoo_core.errors import LockError, WeightsError, ZooError, ZooWarning
from zoo_core.utils.private_files import believed, write_anew
from zoo_core.weights.cache.care import leftovers, prune
from zoo_core.weights.cache.store import Cache
from zoo_core.weights.trust.lock import Locked, read_lock, write_lock

NAMES = tuple(f"acme/net{number}@V1" for number in range(12))


@pytest.fixture
def cache(tmp_path):
    cache = Cache(tmp_path / "cache")
    cache.make()
    return cache


@pytest.mark.parametrize("folder", ["objects", "converted", "features"])
def test_prune_removes_a_link_and_never_enters_it(folder, cache, tmp_path):
    outside = tmp_path / "thesis"
    outside.mkdir()
    (outside / "chapter.tex").write_text("text")
    os.utime(outside / "chapter.tex", (time.time() - 10**6,) * 2)
    (cache.root / folder).mkdir()
    link = cache.root / folder / ("ab" * 32)
    link.symlink_to(outside)
    prune(cache, unused_days=0)
    assert not link.is_symlink()
    assert (outside / "chapter.tex").exists()


def test_a_text_is_written_in_the_place_of_a_link_and_not_through_it(tmp_path):
    (tmp_path / "notes").write_text("years of work")
    (tmp_path / "SHA256SUMS").symlink_to(tmp_path / "notes")
    write_anew(tmp_path / "SHA256SUMS", "new")
    assert (tmp_path / "notes").read_text() == "years of work"
    assert (tmp_path / "SHA256SUMS").read_text() == "new"


def test_a_linked_lock_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    path = tmp_path / "zoo.lock"
    path.symlink_to(tmp_path / "real" / "zoo.lock")
    write_lock(path, [])
    assert path.is_symlink()
    assert (tmp_path / "real" / "zoo.lock").is_file()


@pytest.mark.parametrize("is_linked", [False, True])
def test_what_many_write_into_one_lock_at_once_is_all_there(is_linked, tmp_path):
    path = tmp_path / "zoo.lock"
    if is_linked:
        (tmp_path / "real").mkdir()
        write_lock(tmp_path / "real" / "zoo.lock", [])
        path.symlink_to(tmp_path / "real" / "zoo.lock")
    entries = {name: Locked(name, "ab" * 32, 1, "net.pth", ("https://a.example/net.pth",)) for name in NAMES}
    with ThreadPoolExecutor(len(NAMES)) as pool:
        list(pool.map(lambda name: _renew(path, {name: entries[name]}), NAMES))
    assert read_lock(path).entries == entries
    assert path.is_symlink() == is_linked


def test_a_merge_conflict_is_named_and_its_advice_works(tmp_path):
    path = tmp_path / "zoo.lock"
    path.write_text("version = 1\n<<<<<<< HEAD\n=======\n>>>>>>> feature\n")
    with pytest.raises(LockError, match="merge conflict"):
        read_lock(path)
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if line[0] not in "<=>"))
    assert read_lock(path).entries == {}


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs the owners of POSIX")
def test_what_everybody_may_write_is_passed_over_with_the_way_to_trust_it(tmp_path):
    path = tmp_path / "zoo.toml"
    path.write_text("")
    assert believed(str(path), "ZOO_CONFIG")
    path.chmod(0o666)
    with pytest.warns(ZooWarning, match=f"ZOO_CONFIG={path}"):
        assert not believed(str(path), "ZOO_CONFIG")


def test_nothing_is_called_unused_in_a_cache_that_others_write(cache):
    cache.root.chmod(0o775)
    with pytest.warns(ZooWarning, match="leaves no trace"):
        assert leftovers(cache, unused_days=0) == ([], [])


def test_an_error_shows_no_control_character_and_no_secret():
    url = "https://me:secret@example.org/net.pth?token=abc"
    error = WeightsError(f"\x1b]0;owned\x07 at {url}", got=url, urls=(url,))
    assert "\x1b" not in str(error)
    assert not {"secret", "token"} & {word for word in ("secret", "token") if word in f"{error} {vars(error)}"}
    assert isinstance(error, ZooError)


def test_a_table_on_a_terminal_shows_control_characters_and_keeps_its_own(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    table = Table("name")
    table.add_row("\x1b]0;owned\x07")
    terminal().print(table)
    terminal().print("[bold]\x9bowned[/]")
    shown = capsys.readouterr().out
    assert r"\x1b]0;" in shown
    assert not {"\x1b]", "\x07", "\x9b"} & {each for each in ("\x1b]", "\x07", "\x9b") if each in shown}


def test_a_name_in_a_checkpoint_cannot_reach_the_terminal(tmp_path):
    torch.save({"state_dict\x1b]0;owned\x07": {"fc.weight\x1b[2J": torch.zeros(2, 2)}}, tmp_path / "net.pth")
    for options in ([], ["--json"]):
        answer = CliRunner().invoke(group, ["inspect", str(tmp_path / "net.pth"), *options])
        assert answer.exit_code == 0
        assert "\x1b" not in answer.output

"""Folders that others may have filled: links, settings of theirs, and text that a terminal would obey."""

from __future__ import annotations

import hashlib
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
from zoo_core.errors import CacheError, LockError, WeightsError, ZooError, ZooWarning
from zoo_core.registry.zoo import current_zoo
from zoo_core.utils.atomic_write import write_anew
from zoo_core.utils.private_files import believed
from zoo_core.weights import Cache, fetch, obtain
from zoo_core.weights.cache.converted import Copy
from zoo_core.weights.cache.inventory import contents
from zoo_core.weights.cache.location import cache_folder
from zoo_core.weights.cache.pruning import leftovers, prune, remove
from zoo_core.weights.digest import Stamp
from zoo_core.weights.download.ownership import own_name
from zoo_core.weights.download.partial import give_up
from zoo_core.weights.trust.lock import Locked, read_lock, write_lock

NAMES = tuple(f"acme/net{number}@V1" for number in range(12))


@pytest.fixture
def cache(tmp_path):
    cache = Cache(tmp_path / "cache")
    cache.make()
    return cache


def glyphnet():
    """A card whose weights are in a package, and these."""
    card, tag = current_zoo().resolve("tiny/glyphnet")
    return card, card.find(tag)


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


@pytest.mark.parametrize("at", ["objects", "refs", "refs/tiny", "arriving", "the digest"])
def test_a_link_to_a_folder_anywhere_in_a_cache_is_refused(at, tmp_path):
    cache, outside = Cache(), tmp_path / "outside"
    outside.mkdir()
    place = cache.root / at
    if at == "the digest":
        place = obtain(*glyphnet()).path.parent
        place.rename(tmp_path / "moved")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(outside)
    with pytest.raises(CacheError, match=f"{place} is a symbolic link"):
        obtain(*glyphnet())
    assert list(outside.iterdir()) == []
    place.unlink()  # as the error says
    assert obtain(*glyphnet()).path.is_file()


def test_a_linked_tag_is_left_alone(tmp_path):
    cache = Cache()
    cache.root.mkdir()
    (cache.root / "CACHEDIR.TAG").symlink_to(tmp_path / "outside")
    obtain(*glyphnet())
    assert not (tmp_path / "outside").exists()


def test_a_stamp_makes_no_link_believed(tmp_path):
    path = obtain(*glyphnet()).path
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    ref = Cache().ref_path("tiny", "glyphnet", "GLYPHS_V1")
    lines = ref.read_text().splitlines()
    ref.write_text("\n".join([*lines[:-1], f"stamp {Stamp.of(path)}", ""]))
    with pytest.raises(CacheError, match="is a symbolic link"):
        obtain(*glyphnet())


@pytest.mark.parametrize("folder", ["converted", "own", "features", "hub"])
def test_a_linked_folder_of_copies_is_neither_filled_nor_emptied(folder, tmp_path):
    cache, outside = Cache(), tmp_path / "outside"
    (outside / ("ab" * 32)).mkdir(parents=True)
    (outside / ("ab" * 32) / "chapter.tex").write_text("text")
    obtain(*glyphnet())
    (cache.root / folder).symlink_to(outside)
    if folder == "converted":
        with pytest.warns(ZooWarning, match="symbolic link"):
            assert Copy(cache, "ab" * 32).write({"weight": torch.zeros(9)}, "net") is False
    prune(cache, unused_days=0)
    remove(cache, contents(cache)[0])
    assert sorted(path.name for path in outside.rglob("*")) == ["ab" * 32, "chapter.tex"]


def test_a_folder_of_the_users_own_may_be_a_link(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "link"))
    assert obtain(*glyphnet()).path.is_relative_to(tmp_path / "disk")
    (tmp_path / "net.pth").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert fetch((tmp_path / "net.pth").as_uri(), tmp_path / "link", sha256=digest).parent == tmp_path / "link"


def test_a_linked_cache_that_was_only_found_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.delenv("ZOO_CACHE")
    Cache(tmp_path / "another").make()
    (tmp_path / "weights_cache").symlink_to(tmp_path / "another")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(ZooWarning, match=f"it is a symbolic link; ZOO_CACHE={tmp_path}/weights_cache"):
        assert not Cache().root.is_relative_to(tmp_path / "another")


@pytest.mark.parametrize("name", ["autostart.desktop", "poetry.lock"])
def test_a_linked_lock_writes_no_file_of_another_kind(tmp_path, name):
    (tmp_path / "zoo.lock").symlink_to(tmp_path / name)
    with pytest.raises(LockError, match="where there is no lock"):
        write_lock(tmp_path / "zoo.lock", [])
    assert not (tmp_path / name).exists()


def make_theirs(path, fault, elsewhere):
    """Make a file one that is not ours: another user's, one with a second name, or a link."""
    if fault == "another user":
        if os.geteuid():
            pytest.skip("only root can play another user")
        os.chown(path, 65534, 65534)
    elif fault == "a second name":
        os.link(path, elsewhere)
    else:
        path.rename(elsewhere)
        path.symlink_to(elsewhere)


@pytest.mark.parametrize("part", ["", ".origin", ".at-2"])
@pytest.mark.parametrize("fault", ["another user", "a second name", "a link"])
def test_a_partial_that_is_not_ours_is_neither_continued_nor_removed(part, fault, tmp_path):
    data = b"weights" * 100
    digest = hashlib.sha256(data).hexdigest()
    (tmp_path / "net.pth").write_bytes(data)
    folder = tmp_path / "folder"
    folder.mkdir()
    partial = folder / own_name(f"net-{digest[:16]}.pth")
    partial.write_bytes(b"we")
    give_up(partial)
    partial = next(folder.iterdir())
    theirs = partial.with_name(partial.name + part)
    theirs.write_bytes(b"we")
    make_theirs(theirs, fault, tmp_path / "elsewhere")
    assert fetch((tmp_path / "net.pth").as_uri(), folder, sha256=digest).read_bytes() == data
    assert theirs.read_bytes() == partial.read_bytes() == b"we"


@pytest.mark.parametrize("fault", ["another user", "a second name", "a link"])
def test_a_lock_that_is_not_ours_is_neither_waited_for_nor_removed(fault, tmp_path):
    digest = hashlib.sha256(b"weights").hexdigest()
    (tmp_path / "net.pth").write_bytes(b"weights")
    folder = tmp_path / "folder"
    folder.mkdir()
    lock = folder / f".net-{digest[:16]}.pth.lock"
    lock.write_text("years of work")
    make_theirs(lock, fault, tmp_path / "elsewhere")
    before = lock.lstat().st_mode
    fetch((tmp_path / "net.pth").as_uri(), folder, sha256=digest)
    assert lock.read_text() == "years of work"
    assert lock.lstat().st_mode == before


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


def test_a_lock_that_is_a_link_to_itself_is_written_anew(tmp_path):
    path = tmp_path / "zoo.lock"
    path.symlink_to(path.name)
    _renew(path, {})
    assert read_lock(path).entries == {}


def test_a_pipe_in_the_place_of_the_mark_of_a_cache_is_not_waited_for(tmp_path, monkeypatch):
    (tmp_path / "weights_cache").mkdir()
    os.mkfifo(tmp_path / "weights_cache" / "CACHEDIR.TAG")
    monkeypatch.delenv("ZOO_CACHE")
    assert cache_folder(tmp_path) != tmp_path / "weights_cache"


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


def test_a_link_of_another_user_to_a_file_of_ones_own_is_passed_over(tmp_path):
    if os.geteuid():
        pytest.skip("only root can play another user")
    (tmp_path / "elsewhere.toml").write_text("offline = true")
    (tmp_path / "zoo.toml").symlink_to(tmp_path / "elsewhere.toml")
    os.lchown(tmp_path / "zoo.toml", 65534, 65534)
    with pytest.warns(ZooWarning, match="belongs to another user"):
        assert not believed(str(tmp_path / "zoo.toml"), "ZOO_CONFIG")


def test_nothing_is_called_unused_in_a_cache_that_others_write(cache):
    cache.root.chmod(0o775)
    with pytest.warns(ZooWarning, match="leaves no trace"):
        assert leftovers(cache, unused_days=0) == ([], [])


@pytest.mark.parametrize("end", ["?token=abc", "#token=abc", "?a=1#token=abc"])
def test_an_error_shows_no_control_character_and_no_secret(end):
    url = f"https://me:secret@example.org/net.pth{end}"
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

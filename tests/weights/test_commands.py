"""The commands, run as a user runs them, on the weights that ship with zoo-tiny."""

import json
import os

import pytest
from click.testing import CliRunner

from zoo_core.cli import main
from zoo_core.cli.group import zoo
from zoo_core.errors import LockError, ZooError
from zoo_core.registry.zoo import current_zoo
from zoo_core.weights import Cache
from zoo_core.weights.cache import inventory


@pytest.fixture(autouse=True)
def _project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_LOCK")


def run(*arguments, code=0):
    result = CliRunner().invoke(zoo, [str(item) for item in arguments])
    if isinstance(result.exception, ZooError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def tiny():
    card, _ = current_zoo().resolve("tiny/glyphnet")
    run("lock", "tiny/glyphnet")
    return f"{card.id}@{card.default}"


def test_lock_writes_digest_size_versions_and_licences(tiny, tmp_path):
    import tomllib

    entry = tomllib.loads((tmp_path / "zoo.lock").read_text())["weights"][0]
    assert entry["name"] == tiny
    assert len(entry["sha256"]) == 64
    assert entry["size"] > 0
    assert entry["plugin"].startswith("zoo-tiny ")
    assert set(entry["licenses"]) == {"code", "weights", "data"}
    assert entry["preprocessing"]["crop"]


def test_lock_again_changes_nothing(tiny, tmp_path):
    before = (tmp_path / "zoo.lock").read_text()
    run("lock")
    assert (tmp_path / "zoo.lock").read_text() == before


def test_what_lock_and_sync_did_is_json_where_it_is_asked_for(tiny):
    locked = json.loads(run("lock", "--json"))["weights"]
    assert [entry["name"] for entry in locked] == [tiny]
    assert json.loads(run("sync", "--json")) == [{"name": tiny, "sha256": locked[0]["sha256"], "fetched": False}]


def test_what_prune_and_rm_did_is_json_where_it_is_asked_for(tiny):
    assert json.loads(run("cache", "prune", "--json", "--dry-run")) == {"files": [], "names": [], "freed": 0}
    size = inventory.contents(Cache())[0][0].ref.size
    assert json.loads(run("cache", "rm", tiny, "--json")) == {"removed": [tiny], "freed": size}


def test_lock_without_names_or_entries_is_a_usage_error():
    with pytest.raises(ZooError, match="nothing to lock"):
        run("lock")


def test_lock_does_not_drop_an_entry_that_is_malformed(tiny, tmp_path):
    lock = tmp_path / "zoo.lock"
    lock.write_text(lock.read_text() + '\n[[weights]]\nname = "other/net@V1"\nsha256 = "short"\n')
    before = lock.read_text()
    with pytest.raises(LockError, match="not an entry"):
        run("lock", "tiny/glyphnet")
    assert lock.read_text() == before


def test_lock_writes_the_malformed_entry_anew_that_it_was_asked_for(tiny, tmp_path):
    lock = tmp_path / "zoo.lock"
    before = lock.read_text()
    lock.write_text(before.replace("size = ", "size = -"))
    run("lock", "tiny/glyphnet")
    assert lock.read_text() == before


def test_a_digest_that_moved_is_not_locked_unless_asked(tiny, tmp_path):
    lock = tmp_path / "zoo.lock"
    real = inventory.contents(Cache())[0][0].ref.sha256
    lock.write_text(lock.read_text().replace(real, "0" * 64))
    with pytest.raises(ZooError, match="has moved"):
        run("lock", "tiny/glyphnet")
    run("lock", "tiny/glyphnet", "--update")
    assert real in lock.read_text()


@pytest.mark.parametrize("frozen", [True, False])
def test_sync_fetches_exactly_what_is_locked(tiny, frozen):
    run("cache", "rm", "tiny/*")
    assert "fetched" in run("sync", *(["--frozen"] if frozen else []))
    assert "is here" in run("sync")


def test_sync_refuses_other_bytes(tiny, tmp_path):
    lock = tmp_path / "zoo.lock"
    real = inventory.contents(Cache())[0][0].ref.sha256
    lock.write_text(lock.read_text().replace(real, "0" * 64))
    with pytest.raises(ZooError, match="wrong bytes"):
        run("sync", "--frozen")


def test_sync_without_a_lock_says_so():
    with pytest.raises(ZooError, match=r"no zoo\.lock"):
        run("sync")


def test_zoo_get_obeys_the_lock(tiny, tmp_path):
    import zoo_core

    lock = tmp_path / "zoo.lock"
    real = inventory.contents(Cache())[0][0].ref.sha256
    lock.write_text(lock.read_text().replace(real, "0" * 64))
    with pytest.raises(ZooError, match="has moved"):
        zoo_core.get("tiny/glyphnet")


def test_ls_lists_and_json_is_json(tiny):
    assert tiny in run("cache", "ls")
    facts = json.loads(run("cache", "ls", "--json"))
    assert facts[0]["name"] == tiny
    assert facts[0]["present"] is True


def test_path_names_the_folder_or_the_file(tiny):
    assert run("cache", "path").strip() == str(Cache().root)
    assert run("cache", "path", "tiny/glyphnet").strip() == str(inventory.contents(Cache())[0][0].path)


def test_verify_ends_with_1_when_something_is_bad(tiny):
    assert "1 files are what they should be" in run("verify")
    path = inventory.contents(Cache())[0][0].path
    path.chmod(0o644)
    path.write_bytes(b"bad")
    assert json.loads(run("verify", "--json", code=1))["bad"] == [str(path)]


def test_prune_says_first_what_would_go(tiny):
    path = inventory.contents(Cache())[0][0].path
    (path.parent / ".x.bad").write_bytes(bytes(1500))
    assert "1.5 kB" in run("cache", "prune", "--dry-run")
    assert "freed 1.5 kB" in run("cache", "prune")
    assert "glyphnet" in run("cache", "prune", "--dry-run", "--unused", "0")


def test_rm_removes(tiny):
    assert "removed 1 name" in run("cache", "rm", "tiny/glyphnet")
    assert json.loads(run("cache", "ls", "--json")) == []


def test_import_takes_a_file_in(tiny, tmp_path):
    path = inventory.contents(Cache())[0][0].path
    (tmp_path / "copy.safetensors").write_bytes(path.read_bytes())
    run("cache", "rm", "tiny/*")
    assert tiny in run("cache", "import", tmp_path / "copy.safetensors")


def test_import_passes_over_what_torch_hub_has_and_nobody_knows(tmp_path):
    held = tmp_path / "torch" / "hub" / "checkpoints"
    held.mkdir(parents=True)
    (held / "other.pth").write_bytes(b"other")
    assert run("cache", "import", "--torch-hub") in (
        "",
        "passed over other.pth: no installed model has weights like it\n",
    )


@pytest.mark.parametrize("command", ["cache", "bundle"])
def test_import_of_a_file_that_is_not_there_says_so(command, tmp_path):
    result = CliRunner().invoke(zoo, [command, "import", str(tmp_path / "nope.pth")])
    assert result.exit_code == 2
    assert "nope.pth' does not exist" in " ".join(result.stderr.split())


def test_import_of_nothing_is_a_usage_error():
    with pytest.raises(ZooError, match="nothing to import"):
        run("cache", "import")


def test_verify_reports_what_is_missing_and_what_is_odd(tiny):
    (kept,) = inventory.contents(Cache())[0]
    kept.path.unlink()
    odd = Cache().place("0" * 64, "net.pth")
    odd.parent.mkdir()
    odd.symlink_to("/dev/null")
    output = run("verify", code=1)
    assert f"{kept.path}: missing" in output
    assert f"{odd}: not a plain file" in output
    assert odd.is_symlink()


def test_a_bundle_goes_out_and_comes_in(tiny, tmp_path):
    run("bundle", "export", tmp_path / "b.tar")
    run("cache", "rm", "tiny/*")
    assert run("bundle", "import", tmp_path / "b.tar").strip() == tiny


def test_a_bundle_takes_the_place_of_no_device(tiny, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(ZooError, match="Illegal seek"):  # tar files are written to no pipe
        run("bundle", "export", tmp_path / "pipe")
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


def test_a_mirror_is_written(tiny, tmp_path):
    assert "1 file in" in run("mirror", "export", tmp_path / "mirror")
    assert (tmp_path / "mirror" / "SHA256SUMS").exists()


def test_an_error_is_a_few_lines_and_no_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["zoo", "sync"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith("zoo: there is no zoo.lock")

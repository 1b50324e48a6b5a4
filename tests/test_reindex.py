"""A library in another version than its plugin knows is indexed once, and remembered."""

from __future__ import annotations

import importlib
import sys

import pytest

from zoo_core import Family, Zoo, ZooWarning
from zoo_core.registry.plugins import Plugin

PLUGIN = """
from zoo_core import Card

def cards():
    return [Card("acme", "old", "acme_models:net")]

def version():
    return "1.0"

def index():
    import acme_models
    return [Card("acme", name, "acme_models:net") for name in acme_models.NAMES]
"""


@pytest.fixture
def acme(tmp_path, monkeypatch):
    """Install a library and its plugin: ``acme("2.0", "NAMES = ['new']")`` returns a way to make a zoo of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def install(version, library="NAMES = ['new']"):
        site = tmp_path / "site"
        (site / f"acme_models-{version}.dist-info").mkdir(parents=True)
        (site / f"acme_models-{version}.dist-info" / "METADATA").write_text(f"Name: acme-models\nVersion: {version}\n")
        (site / "acme_models.py").write_text(library)
        (site / "zoo_acme.py").write_text(PLUGIN)
        monkeypatch.syspath_prepend(str(site))
        importlib.invalidate_caches()
        family = Family(
            "acme",
            "zoo_acme:cards",
            "zoo_acme:anatomy",
            requires="acme-models",
            index="zoo_acme:index",
            indexed="zoo_acme:version",
        )
        return lambda: Zoo((Plugin("acme", "zoo-acme 1.0", families=(family,)),))

    yield install
    for name in ("acme_models", "zoo_acme"):
        sys.modules.pop(name, None)


def remembered(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())


@pytest.mark.parametrize("version", ["1.0", "1.0+cpu"])
def test_the_version_that_the_plugin_knows_is_not_indexed(acme, tmp_path, version):
    assert acme(version)().list() == ["acme/old"]
    assert remembered(tmp_path) == []


def test_another_version_is_indexed_elsewhere_and_remembered(acme, tmp_path):
    zoo = acme("2.0")
    assert zoo().list() == ["acme/new"]
    assert remembered(tmp_path) == ["acme 2.0 zoo-acme 1.0.jsonl"]
    assert "acme_models" not in sys.modules
    (tmp_path / "site" / "acme_models.py").unlink()
    assert zoo().list() == ["acme/new"]


def test_where_indexing_fails_the_shipped_cards_are_listed_with_a_warning(acme, tmp_path):
    zoo = acme("2.0", "NAMES = nothing")
    with pytest.warns(ZooWarning, match=r"another version of acme-models has: 2\.0 cannot be indexed \(NameError"):
        assert zoo().list() == ["acme/old"]
    (tmp_path / "site" / "acme_models.py").write_text("NAMES = ['mended']")
    with pytest.warns(ZooWarning, match=r"remove .* to try again") as caught:
        assert zoo().list() == ["acme/old"]
    reason = next((tmp_path / "cache").rglob("*.txt"))
    assert str(reason) in str(caught[0].message)
    reason.unlink()
    assert zoo().list() == ["acme/mended"]


def test_where_nothing_can_be_remembered_the_shipped_cards_are_listed_with_a_warning(acme, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(ZooWarning, match="cannot be indexed"):
        assert acme("2.0")().list() == ["acme/old"]

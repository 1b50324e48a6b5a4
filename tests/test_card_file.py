"""Cards in a file: found by name without reading the others, whichever tool wrote the file."""

from __future__ import annotations

import json
import sys
import types

import pytest

from zoo_core import Card, Family, Zoo, ZooWarning, read_cards, write_cards
from zoo_core.errors import CatalogError, UnknownModel
from zoo_core.registry.plugins import Plugin

CARDS = [
    Card("acme", "net", "acme:net"),
    Card("acme", "nét", "acme:net", task="video"),
    Card("acme", 'n"e\\t', "acme:net"),
]


@pytest.fixture
def written(tmp_path):
    """``written(cards)``: a file of them, as ``write_cards`` writes it."""

    def write(cards):
        write_cards(tmp_path / "c.jsonl", cards)
        return tmp_path / "c.jsonl"

    return write


def zoo_of(monkeypatch, path):
    """A zoo of one family, whose catalogue is that file."""
    module = types.ModuleType("catalog_in_a_file")
    module.cards = lambda: read_cards(path)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return Zoo((Plugin("acme", "acme 1.0", families=(Family("acme", f"{module.__name__}:cards", "no:anatomy"),)),))


@pytest.mark.parametrize("card", CARDS, ids=["plain", "accented", "quoted"])
def test_a_card_is_found_by_its_name(written, card):
    assert read_cards(written(CARDS)).find("acme", card.name) == card


@pytest.mark.parametrize("count", [0, 1, 2], ids=["none", "one", "two"])
def test_a_name_that_is_not_there_is_not_found(written, count):
    cards = read_cards(written(CARDS[:count]))
    assert cards.find("acme", "ne") is None
    assert not cards.has("acme", "other")


def test_a_file_is_equal_to_the_cards_in_it(written):
    assert read_cards(written(CARDS)) == CARDS
    assert read_cards(written(CARDS)) != CARDS[:2]


def test_a_line_that_somebody_wrote_by_hand_is_found_too(tmp_path):
    by_hand = json.dumps({"name": "net", "build": "acme:net", "family": "acme"})
    (tmp_path / "c.jsonl").write_text(f"\n{by_hand}\n\n")
    cards = read_cards(tmp_path / "c.jsonl")
    assert cards.find("acme", "net") == CARDS[0]
    assert cards.heads == (("acme", "net", "classification"),)


def test_listing_parses_no_card(written, monkeypatch):
    path = written(CARDS[:2])
    monkeypatch.setattr("zoo_core.contract.card_file.scan_cards", None)
    monkeypatch.setattr("zoo_core.contract.card_file.card_in_line", None)
    own = zoo_of(monkeypatch, path)
    assert own.list() == ["acme/net", "acme/nét"]
    assert own.list(task="video") == ["acme/nét"]


def test_a_broken_line_is_named_when_its_card_is_asked_for(tmp_path, monkeypatch):
    lines = [
        '{"family": "acme", "name": "net", "build": "acme:net"}',
        '{"family": "acme", "name": "bad", "build": "acme:net", "weights": 3}',
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    own = zoo_of(monkeypatch, tmp_path / "c.jsonl")
    assert own.resolve("net")[0] == CARDS[0]
    with pytest.raises(CatalogError, match="line 2: not a card"):
        own.resolve("acme/bad")


def test_two_cards_with_one_name_put_a_family_aside(written, monkeypatch):
    own = zoo_of(monkeypatch, written([CARDS[0], CARDS[0]]))
    with pytest.warns(ZooWarning, match="family 'acme' is passed over"):
        assert own.list() == []


def test_a_miss_lists_the_names_in_the_file(written, monkeypatch):
    with pytest.raises(UnknownModel, match="did you mean 'net'"):
        zoo_of(monkeypatch, written(CARDS)).resolve("nett")

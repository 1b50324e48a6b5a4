"""``zoo check --digests``: the digests that cards do not have, from servers on this machine."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import toys
from support.loopback import sha256, status
from support.weights_fixtures import no_outside, server

import zoo_core as zoo
from zoo_core import Weights
from zoo_core.cli.cache import cache
from zoo_core.cli.check import check

__all__ = ["no_outside", "server"]

NET, OTHER = b"weights of net" * 20, b"weights of other" * 30


@pytest.fixture
def cards(server, tmp_path, monkeypatch):
    """Three models: without a digest, with eight digits of it, and with all; and a cache of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    server.files |= {"/net.pth": NET, "/other.pth": OTHER}
    none = Weights("V1", urls=(server.url("/net.pth"),), num_classes=10)
    weak = Weights("V2", urls=(server.url("/other.pth"),), sha256=sha256(OTHER)[:8], num_classes=10)
    whole = Weights("V1", urls=(server.url("/whole.pth"),), sha256=sha256(b""), num_classes=10)
    entries = {"net": none, "other": weak, "whole": whole}
    return [replace(toys.CARD, name=name, weights=(each,), default=each.tag) for name, each in entries.items()]


def run(cards, *args):
    with zoo.use(toys.zoo_of(None, *cards)):
        return CliRunner().invoke(check, ["toy", *args])


def pasted(text):
    """What a card is given when the printed lines are put into it."""
    return [eval(f"dict({part})") for part in re.split("(?m)^# .*\n", text)[1:]]  # the lines are Python


def test_nothing_is_fetched_without_the_option(cards, server):
    run(cards, "--check", "card")
    assert server.requests == []


def test_each_file_without_a_whole_digest_is_printed_for_its_card(cards, server):
    answer = run(cards, "--digests")
    assert (answer.exit_code, answer.stderr) == (0, "")
    assert f"# toy/net@V1  {server.url('/net.pth')}\n" in answer.stdout
    assert pasted(answer.stdout) == [
        {"size": len(NET), "sha256": sha256(NET)},
        {"size": len(OTHER), "sha256": sha256(OTHER)},
    ]
    assert {each.path for each in server.requests} == {"/net.pth", "/other.pth"}


def test_a_card_with_the_printed_lines_is_complete(cards):
    lines = pasted(run(cards, "--digests").stdout)
    better = [
        replace(card, weights=(replace(card.weights[0], **each),)) for card, each in zip(cards, lines, strict=False)
    ]
    answer = run([*better, cards[2]], "--digests")
    assert answer.stdout == "toy: no weights without a whole SHA-256\n"


def test_globs_say_which_models(cards, server):
    run(cards, "oth*", "--digests")
    assert {each.path for each in server.requests} == {"/other.pth"}


def test_a_failure_is_named_and_the_others_are_fetched(cards, server):
    server.always["/net.pth"] = status(404)
    answer = run(cards, "--digests", "--json", "all.json")
    assert answer.exit_code == 1
    assert f"failed toy/net@V1 {server.url('/net.pth')}\n" in answer.stderr
    assert pasted(answer.stdout) == [{"size": len(OTHER), "sha256": sha256(OTHER)}]
    report = json.loads(Path("all.json").read_text())
    [failed], [result] = report["failed"], report["weights"]
    assert (failed["name"], "404" in failed["error"]) == ("toy/net@V1", True)
    assert result == {
        "name": "toy/other@V2",
        "url": server.url("/other.pth"),
        "size": len(OTHER),
        "sha256": sha256(OTHER),
    }


def test_bytes_that_do_not_begin_as_the_card_says_are_a_failure(cards, server):
    server.files["/other.pth"] = NET
    answer = run(cards, "other", "--digests")
    assert (answer.exit_code, answer.stdout) == (1, "")
    assert "wrong bytes for toy/other@V2" in answer.stderr


def test_a_url_that_is_none_is_a_failure_of_its_own(cards):
    odd = replace(cards[0], name="odd", weights=(Weights("V1", urls=("http://[odd/net.pth",)),), default="V1")
    answer = run([odd, *cards], "--digests")
    assert (answer.exit_code, len(pasted(answer.stdout))) == (1, 2)
    assert answer.stderr.startswith("failed toy/odd@V1 http://[odd/net.pth\n")


def test_a_page_in_place_of_a_file_is_refused(cards, server):
    server.files["/net.pth"] = b"<!DOCTYPE html><html>Log in</html>"
    answer = run(cards, "net", "--digests")
    assert (answer.exit_code, answer.stdout) == (1, "")
    assert "toy/net@V1 is an HTML page" in answer.stderr
    server.files["/net.pth"] = NET
    hint = re.search(r"`zoo cache rm '(.*?)'`", answer.stderr)[1]
    assert CliRunner().invoke(cache, ["rm", hint]).exit_code == 0
    assert pasted(run(cards, "net", "--digests").stdout) == [{"size": len(NET), "sha256": sha256(NET)}]


def test_a_file_in_the_cache_is_not_fetched_again(cards, server):
    first = run(cards, "--digests").stdout
    server.requests.clear()
    assert run(cards, "--digests").stdout == first
    assert server.requests == []


def test_offline_what_is_missing_is_named_and_nothing_is_opened(cards, server, monkeypatch):
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    # the server is on this machine, where nothing needs a network
    monkeypatch.setattr("zoo_core.weights.fetch_missing.needs_network", lambda _url: True)
    answer = run(cards, "net", "--digests")
    assert answer.exit_code == 1
    assert "toy/net@V1 is not in the cache, and ZOO_OFFLINE is set" in answer.stderr
    assert server.requests == []


def test_another_url_of_the_card_is_not_answered_from_the_cache(cards, server):
    run(cards, "net", "--digests")
    server.files["/new.pth"] = OTHER
    moved = replace(cards[0], weights=(replace(cards[0].weights[0], urls=(server.url("/new.pth"),)),))
    answer = run([moved], "--digests")
    assert (answer.exit_code, answer.stdout) == (1, "")
    hint = re.search(r"`zoo cache rm '(.*?)'`", answer.stderr)[1]
    assert CliRunner().invoke(cache, ["rm", hint]).exit_code == 0
    assert pasted(run([moved], "--digests").stdout) == [{"size": len(OTHER), "sha256": sha256(OTHER)}]


def test_each_file_of_one_entry_has_its_own_digest(cards, server):
    urls = (server.url("/net.pth"), server.url("/other.pth"))
    both = Weights("V1", urls=urls, digests={"other.pth": sha256(OTHER)[:8]}, num_classes=10)
    answer = run([replace(cards[0], weights=(both,))], "--digests")
    assert pasted(answer.stdout) == [
        {"size": len(NET), "sha256": sha256(NET)},
        {"digests": {"other.pth": sha256(OTHER)}},
    ]


@pytest.mark.parametrize("option", [("--check", "card"), ("--traced",), ("--markdown", "page.md"), ("--sample", "1")])
def test_options_of_checks_are_refused(cards, server, option):
    with zoo.use(toys.zoo_of(None, *cards)):
        answer = CliRunner().invoke(check, ["toy", "--digests", *option])
    assert option[0] in str(answer.exception)
    assert server.requests == []


def test_all_families_at_once_are_refused(cards, server):
    with zoo.use(toys.zoo_of(None, *cards)):
        answer = CliRunner().invoke(check, ["--all", "--digests"])
    assert "--all does not go with --digests" in str(answer.exception)
    assert server.requests == []

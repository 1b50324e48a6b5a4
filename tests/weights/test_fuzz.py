"""Malformed refs, locks and catalogues: each is an error of ours that names file and line, and costs only itself."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoo_core import Card, Licenses, Preprocessing, Weights
from zoo_core.contract.card_file import card_to_record, scan_cards
from zoo_core.errors import CacheError, CatalogError, LockError, ZooError, ZooWarning
from zoo_core.weights.cache.refs import Ref, parse_ref, ref_name
from zoo_core.weights.digest import Stamp
from zoo_core.weights.transport.urls import file_name
from zoo_core.weights.trust.lock import Locked, read_lock, write_lock

quick = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
segment = any_text.map(lambda text: f"x{text}".replace("/", "").replace("@", ""))
digest = st.text("0123456789abcdef", min_size=64, max_size=64)
line_text = any_text.map(lambda text: "".join(text.split("\n")))


def problem_of(call, kind):
    """The error of that kind, or None when there is none; any other error fails the test."""
    try:
        call()
    except kind as error:
        return error
    return None


refs = st.builds(
    Ref,
    digest,
    st.integers(0, 2**62),
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,30}", fullmatch=True),
    line_text,
    st.sampled_from(["proven", "weak", "declared", "first-use"]),
    st.just("2026-01-01T00:00:00Z"),
    st.builds(Stamp, *[st.integers(-(2**62), 2**62)] * 4),
)

entries = st.builds(
    Locked,
    st.tuples(segment, segment, segment).map(lambda parts: f"{parts[0]}/{parts[1]}@{parts[2]}"),
    digest,
    st.integers(0, 2**62),
    any_text,
    st.lists(any_text.map(lambda text: f"https://host/{text}"), min_size=1, max_size=3).map(tuple),
    any_text,
    any_text,
    st.builds(Licenses, any_text, any_text, any_text),
    st.builds(Preprocessing, crop=st.tuples(st.integers(1, 999), st.integers(1, 999)), interpolation=any_text),
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=12,
)

cards = st.builds(
    Card,
    family=any_text,
    name=any_text,
    build=any_text,
    weights=st.lists(
        st.builds(Weights, tag=any_text, urls=st.lists(any_text, min_size=1).map(tuple), sha256=digest, docs=any_text),
        max_size=2,
        unique_by=lambda weights: weights.tag,
    ).map(tuple),
)


@quick
@given(refs)
def test_a_ref_is_read_back_as_it_was_written(ref):
    assert parse_ref(str(ref), Path("r")) == ref


@quick
@given(
    any_text | st.lists(st.sampled_from(["sha256 ", "size 5\n", "\n", "stamp 1 2 3 4\n", "file ../x\n"])).map("".join)
)
def test_any_text_is_a_ref_or_an_error_with_file_and_line(text):
    problem = problem_of(lambda: parse_ref(text, Path("r")), CacheError)
    assert problem is None or (problem.file == "r" and problem.line >= 1)


@quick
@given(refs, st.integers(0, 400), st.binary(min_size=1, max_size=4))
def test_a_damaged_ref_is_a_ref_or_an_error_of_ours(tmp_path, ref, at, noise):
    from zoo_core.weights.cache.refs import read_ref

    data = str(ref).encode()
    (tmp_path / "ref").write_bytes(data[:at] + noise + data[at + len(noise) :])
    problem = problem_of(lambda: read_ref(tmp_path / "ref"), CacheError)
    if problem:
        assert problem.file == str(tmp_path / "ref")
    else:
        assert Path(read_ref(tmp_path / "ref").file).name == read_ref(tmp_path / "ref").file


@quick
@given(st.lists(entries, max_size=4, unique_by=lambda entry: entry.name))
def test_a_lock_is_read_back_as_it_was_written(tmp_path, listed):
    write_lock(tmp_path / "zoo.lock", listed)
    read = read_lock(tmp_path / "zoo.lock")
    assert read.problems == ()
    assert sorted(read.entries.values(), key=lambda entry: entry.name) == sorted(listed, key=lambda entry: entry.name)


@quick
@given(st.lists(entries, min_size=2, max_size=4, unique_by=lambda entry: entry.name), st.data())
def test_a_damaged_entry_of_a_lock_costs_only_itself(tmp_path, listed, data):
    path = tmp_path / "zoo.lock"
    write_lock(path, listed)
    lines = path.read_text().split("\n")
    titles = [number for number, line in enumerate(lines) if line == "[[weights]]"]
    which = data.draw(st.integers(0, len(titles) - 1))
    lines.insert(
        titles[which] + 1, data.draw(st.sampled_from(["=", "name = 1", "surprise = 2", '"', "[[", "x = [", "size = -"]))
    )
    path.write_text("\n".join(lines))
    read = read_lock(path)
    kept = sorted(listed, key=lambda entry: entry.name)
    del kept[which]
    assert list(read.entries.values()) == kept
    assert len(read.problems) == 1
    end = titles[which + 1] if which + 1 < len(titles) else len(lines)
    assert titles[which] < read.problems[0].line <= end + 1


@quick
@given(st.binary(max_size=300))
def test_any_bytes_are_a_lock_or_an_error_of_ours(tmp_path, content):
    (tmp_path / "zoo.lock").write_bytes(b"version = 1\n[[weights]]\n" + content)
    problem = problem_of(lambda: read_lock(tmp_path / "zoo.lock"), LockError)
    problems = [problem] if problem else read_lock(tmp_path / "zoo.lock").problems
    assert all(item.file == str(tmp_path / "zoo.lock") for item in problems)


@quick
@given(st.lists(cards, max_size=4), json_values, st.integers(0, 4))
def test_a_bad_line_of_a_catalogue_costs_only_itself(tmp_path, listed, value, at):
    lines = [json.dumps(card_to_record(card), ensure_ascii=False) for card in listed]
    bad = json.dumps(value) if not isinstance(value, dict) else json.dumps({**value, "surprise": 1})
    at = min(at, len(lines))
    lines.insert(at, bad)
    (tmp_path / "c.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found, problems = scan_cards(tmp_path / "c.jsonl")
    assert found == listed
    assert [(problem.file, problem.line) for problem in problems] == [(str(tmp_path / "c.jsonl"), at + 1)]


@quick
@given(
    st.dictionaries(
        st.sampled_from(["family", "name", "build", "weights", "default", "input_size", "options"]), json_values
    )
)
def test_any_record_is_a_card_or_an_error_of_ours(tmp_path, record):
    (tmp_path / "c.jsonl").write_text(json.dumps(record), encoding="utf-8")
    found, problems = scan_cards(tmp_path / "c.jsonl")
    assert len(found) + len(problems) == 1
    for card in found:
        assert isinstance(card.id, str)
        assert all(isinstance(url, str) for weights in card.weights for url in weights.urls)


@quick
@given(st.text(max_size=300))
def test_any_url_gives_a_plain_file_name(text):
    try:
        name = file_name(text)
    except ValueError:
        return  # not a url at all, which fetch refuses before it asks for a name
    assert name
    assert not name.startswith(".")
    assert not set(name) & set('/\\:*?"<>|\x00\n')
    assert len(name) <= 120


@quick
@given(any_text, any_text, any_text)
def test_any_name_gives_a_plain_ref(family, name, tag):
    folder, _, file = ref_name(family, name, tag).partition("/")
    for part in (folder, file):
        assert part
        assert "/" not in part
        assert "\x00" not in part
        assert not part.startswith(".")
        assert len(part) <= 200


def test_a_nested_bomb_in_a_catalogue_is_a_bad_line(tmp_path):
    (tmp_path / "c.jsonl").write_text("[" * 100_000)
    found, problems = scan_cards(tmp_path / "c.jsonl")
    assert found == []
    assert problems[0].line == 1


def test_reading_cards_warns_of_each_bad_line_and_keeps_the_rest(tmp_path):
    from zoo_core import read_cards

    good = json.dumps({"family": "acme", "name": "net", "build": "a:b"})
    (tmp_path / "c.jsonl").write_text(f"{good}\nnonsense\n")
    with pytest.warns(ZooWarning, match="line 2: not a card"):
        assert [card.id for card in read_cards(tmp_path / "c.jsonl")] == ["acme/net"]


def test_a_catalogue_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(CatalogError, match="cannot be read"):
        scan_cards(tmp_path / "none.jsonl")
    assert issubclass(CatalogError, ZooError)

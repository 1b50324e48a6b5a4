"""The surface that others write against: adding to it is fine, changing or removing is a decision that a diff shows."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
from support import surface

import zoo_core
from zoo_core.contract import hooks

DECISION = """\
{count} of the things that plugins and users rely on went or changed:

{changes}

Put them back, or decide: say in CHANGELOG.md what breaks and what to write instead, raise the version as
docs/plugins.md says, and run `python tests/support/surface.py` to write tests/surface.txt again."""


def gone(before, now):
    now = set(now)
    return [line for line in before if line not in now]


def test_nothing_that_others_rely_on_went_or_changed():
    missing = gone(surface.written(), surface.lines())
    assert not missing, DECISION.format(count=len(missing), changes="\n".join(f"  {line}" for line in missing))


def test_the_file_holds_every_kind_of_promise():
    text = surface.FILE.read_text(encoding="utf-8")
    for promise in (
        "zoo_core.get, argument 0: name",
        "zoo_core.get, keyword: num_classes",
        "hook zoo_families returns Sequence[Family]",
        "zoo_core.Card, field 1: name: str",
        "zoo_core.Card, field: task: str = 'classification'",
        "zoo_core.Weights.file_name is a property",
        "zoo_core.testing.Conformance.expected_failures is an attribute",
    ):
        assert promise in text


def verb(a: int, *, b: str = "x") -> int:
    raise NotImplementedError


def verb_with_more(a: int, *, b: str = "x", c: bool = False) -> int:
    raise NotImplementedError


def verb_renamed(a: int, *, other: str = "x") -> int:
    raise NotImplementedError


def verb_with_another_default(a: int, *, b: str = "y") -> int:
    raise NotImplementedError


def verb_with_a_positional_before(c: int, a: int, *, b: str = "x") -> int:
    raise NotImplementedError


@dataclasses.dataclass
class Record:
    a: int
    b: str = "x"


@dataclasses.dataclass
class RecordWithMore:
    a: int
    c: bool = False
    b: str = "x"


@dataclasses.dataclass
class RecordInAnotherOrder:
    b: str
    a: int = 0


@pytest.mark.parametrize(("before", "after"), [(verb, verb_with_more), (Record, RecordWithMore)])
def test_adding_is_fine(before, after):
    assert not gone(surface._of("it", before), surface._of("it", after))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (verb, verb_renamed),
        (verb, verb_with_another_default),
        (verb, verb_with_a_positional_before),
        (Record, RecordInAnotherOrder),
    ],
)
def test_changing_is_not(before, after):
    assert gone(surface._of("it", before), surface._of("it", after))


def test_a_hook_that_may_change_says_so():
    experimental = [
        name for name in vars(hooks) if name.startswith("zoo_") and "xperimental" in getattr(hooks, name).__doc__
    ]
    assert experimental == ["zoo_commands"]


@pytest.mark.parametrize("name", [name for name in surface.NAMES if dataclasses.is_dataclass(getattr(zoo_core, name))])
def test_every_field_of_a_public_record_is_documented_where_it_is_defined(name):
    record = getattr(zoo_core, name)
    text = inspect.getdoc(record)
    assert text is not None
    undocumented = [field.name for field in dataclasses.fields(record) if f"    {field.name}: " not in text]
    assert not undocumented

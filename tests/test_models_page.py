"""``docs/MODELS.md`` is of the models, the libraries and the checks that there are now."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from zoo_core.registry.zoo import current_zoo
from zoo_core.testing.checks.family import FAMILY_CHECKS
from zoo_core.testing.choosing import CHECKS, DEAR_CHECKS, short_name
from zoo_core.testing.reports import page

TEXT = (Path(__file__).parent.parent / "docs" / "MODELS.md").read_text(encoding="utf-8")
STALE = "docs/MODELS.md is out of date: its first lines say which command writes it"
FAMILIES = ("tiny", "torchvision", "timm", "efficientnet_pytorch", "pretrainedmodels")


def test_it_begins_as_the_command_writes_it():
    assert TEXT.startswith(page([]).partition("Nothing was checked.")[0]), STALE


def test_it_tells_of_every_check():
    listed = re.findall(
        r"^- \*\*(\w+)\*\*: ", TEXT.partition("What is checked is")[2].partition("## ")[0], re.MULTILINE
    )
    assert listed == [short_name(check) for check in (*FAMILY_CHECKS, *CHECKS, *DEAR_CHECKS)], STALE


@pytest.mark.parametrize("family", FAMILIES)
def test_it_counts_the_models_that_there_are_and_none_fails(family):
    [row] = re.findall(rf"^\| {family} \| (\d+) \| (\d+) \| \d+ \| (\d+) \|$", TEXT, re.MULTILINE)
    models, checked, failed = map(int, row)
    assert (models, failed) == (len(current_zoo().member(family).cards), 0), STALE
    assert checked == models, STALE


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_of_the_versions_that_are_installed(family):
    member = current_zoo().member(family)
    requires = member.family.requires
    library = f", {requires} {version(requires)}" if requires else ""
    section = TEXT.partition(f"\n## {family}\n")[2]
    assert section.lstrip().startswith(f"{member.plugin.origin}{library}: "), STALE


COLUMNS = {"Failed": 2, "Refused by zoo": 3, "Expected to fail": 4, "Skipped": 5}
"""Each heading below a table to the column of the table that counts the same verdicts."""


@pytest.mark.parametrize("title", COLUMNS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_exception_that_is_counted_is_named(family, title):
    table, *lists = re.split(r"\n### ", TEXT.partition(f"\n## {family}\n")[2].partition("\n## ")[0])
    rows = re.findall(r"^\| (\w+) \|(.*)\|$", table, re.MULTILINE)[1:]
    counted = {check: int(cells.split("|")[COLUMNS[title]].strip() or 0) for check, cells in rows}
    named = dict.fromkeys(counted, 0)
    listed = next((each for each in lists if each.startswith(f"{title}\n")), "")
    for checks, rest in re.findall(r"^- ((?:\*\*\w+\*\*, )+)(.*?)(?=^- |\Z)", listed, re.MULTILINE | re.DOTALL):
        names = rest.partition("</summary>")[2] or rest.partition(": ")[0]
        for check in re.findall(r"\w+", checks):
            named[check] += len(re.findall(r"`[^`]+`", names))
    assert named == counted

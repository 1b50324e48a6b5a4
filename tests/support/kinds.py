"""One model of each kind: the smallest of each task, class and shape of head sites, in every family.

``kinds.txt`` names them. It is written by ``python tests/support/kinds.py``, which builds all models of all installed
families without their values to find that out.
"""

from __future__ import annotations

from pathlib import Path

import zoo_core as zoo
from zoo_core.testing.choosing import cards_named, sampled

FILE = Path(__file__).with_suffix(".txt")


def of_each_kind(family=None):
    """Their names in the order of the catalogues, of one family or of all, whether or not its library is installed."""
    names = FILE.read_text(encoding="utf-8").split()
    return [name for name in names if family in (None, name.partition("/")[0])]


def chosen():
    """What ``kinds.txt`` has to say."""
    families = dict.fromkeys(zoo.info(name).family for name in zoo.list())
    return [card.id for family in families for card in sampled(cards_named(family), "kinds")]


if __name__ == "__main__":
    FILE.write_text("\n".join(chosen()) + "\n", encoding="utf-8")

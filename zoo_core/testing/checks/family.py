"""The checks of a family as a whole: that its catalogue is light, and that its names and exceptions are sane."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from pkgutil import resolve_name

from zoo_core.contract.card import Card
from zoo_core.registry.zoo import current_zoo
from zoo_core.testing.choosing import CHECKS, DEAR_CHECKS, short_name
from zoo_core.testing.findings import NonConformance, require
from zoo_core.testing.verdicts import declared
from zoo_core.text import close_matches, did_you_mean
from zoo_core.utils.paths import import_path

_HEAVY = ("torch",)
_SAYS = ("HEAVY", "NETWORK", "PRINTS", "CARDS")
"""What the program below begins its lines with."""
_MANY_MORE = 2
_IMAGE = 3
"""Numbers of an input_size that has channels, rows and columns."""
_WATCH = """
import contextlib, io, json, socket, sys, traceback
sys.path[:0] = {path!r}
from pkgutil import resolve_name

out, text = sys.stdout, io.StringIO()

def line():
    at = [frame for frame in traceback.extract_stack()[:-2] if "importlib" not in frame.filename]
    return f"{{at[-1].filename}}, line {{at[-1].lineno}}: {{at[-1].line}}"

def refuse(*_, **__):
    print(f"NETWORK by {{line()}}", file=out, flush=True)
    raise OSError("no network")

class Watch:
    def find_spec(self, name, *_):
        if name in {heavy!r}:
            print(f"HEAVY {{name}} by {{line()}}", file=out, flush=True)
            sys.exit()

socket.getaddrinfo = socket.socket.connect = refuse
sys.meta_path.insert(0, Watch())
with contextlib.redirect_stdout(text):
    cards = list(resolve_name({catalog!r})())
if text.getvalue():
    print("PRINTS", repr(text.getvalue()[:60]), file=out)
print("CARDS", json.dumps([card.name for card in cards]), file=out)
"""


def check_light(family: str) -> None:
    """The catalogue loads in a fresh interpreter without torch, so that listing models takes no time.

    Args:
        family: Its name.

    Raises:
        NonConformance: It imports torch, and the message says where; or it does not load.
    """
    catalog = current_zoo().member(family).family.catalog
    path = [*import_path(), *_folder_of(catalog.partition(":")[0].partition(".")[0])]
    code = _WATCH.format(path=path, heavy=_HEAVY, catalog=catalog)
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)  # noqa: S603 - ours
    said = [line.partition(" ")[::2] for line in done.stdout.splitlines()]
    said = [(word, rest) for word, rest in said if word in _SAYS]
    if not said:
        raise NonConformance(
            f"{family}: the catalogue {catalog} does not load in an interpreter of its own",
            got=(done.stderr.strip().splitlines() or ["nothing on stderr"])[-1],
        )
    label = f"{family}: the catalogue {catalog}"
    for word, rest in said:
        require(word != "HEAVY", f"{label} imports {rest}; import it inside functions, or in another module")
        require(word != "NETWORK", f"{label} asks the network, {rest}; it is a list of the plugin's own")
        require(word != "PRINTS", f"{label} prints {rest}, which everybody who lists models would see")
    here = [card.name for card in resolve_name(catalog)()]
    there = next((json.loads(rest) for word, rest in said if word == "CARDS"), here)
    other = sorted({*here} ^ {*there})
    require(not other, f"{label} has other cards each time: {', '.join(other[:5])}")
    require(here == there, f"{label} has its cards in another order each time, as that of a set is")


def _folder_of(package: str) -> list[str]:
    """The folder of a family's package in this process, for the interpreter in which the check loads its catalogue."""
    module = sys.modules.get(package)
    file = getattr(module, "__file__", None)
    return [str(Path(file).parents[hasattr(module, "__path__")])] if file else []


def check_names(family: str) -> None:
    """The catalogue holds cards of this family, each with a name of its own that can be requested.

    Args:
        family: Its name.

    Raises:
        NonConformance: A record is no card, or a name is not usable.
    """
    catalog = current_zoo().member(family).family.catalog
    cards = list(resolve_name(catalog)())
    require(bool(cards), f"{family}: the catalogue {catalog} is empty")
    for card in cards:
        require(isinstance(card, Card), f"{family}: {catalog} holds {card!r:.80}, which is no Card")
        require(card.family == family, f"{family}: {card.name!r} says that its family is {card.family!r}")
        usable = isinstance(card.name, str) and bool(card.name.strip()) and not set("/@*?[ ") & set(card.name)
        require(usable, f"{family}: a name cannot be {card.name!r}: no '/', '@', space or wildcard in a name")
        positive = len(card.input_size) > 1 and all(type(side) is int and side > 0 for side in card.input_size)
        require(positive, f"{card.id}: input_size {card.input_size!r}; channels, height and width, in pixels")
        first, *_, last = card.input_size
        channels_last = len(card.input_size) == _IMAGE and last in (1, 3, 4) and first > last
        require(not channels_last, f"{card.id}: input_size {card.input_size!r} has the channels last; they come first")
    twice = [name for name, count in Counter(card.name for card in cards).items() if count > 1]
    require(not twice, f"{family}: two cards are called {', '.join(map(repr, twice[:5]))}")
    alike = [name for name, count in Counter(card.name.lower() for card in cards).items() if count > 1]
    require(not alike, f"{family}: two names differ by capitals only, which some file systems cannot tell: {alike[:5]}")
    _check_urls(family, cards)
    files: dict[str, tuple[str, str]] = {}
    entries = ((card.id, weights) for card in cards for weights in card.weights if weights.sha256)
    for model, weights in entries:
        other, name = files.setdefault(weights.sha256, (model, weights.file_name))
        require(
            name == weights.file_name,
            f"{model}@{weights.tag}: {weights.file_name} has the digest of a file of {other}, {name}",
        )


def _check_urls(family: str, cards: Iterable[Card]) -> None:
    """No two cards of a family have one file, where one of their models has many more parameters than the other."""
    models: dict[str, Card] = {}
    for card in cards:
        for url in (url for weights in card.weights if not weights.whole for url in weights.urls):
            other = models.setdefault(url, card)
            counts = sorted(each.parameters or 0 for each in (card, other))
            require(
                counts[0] == 0 or counts[1] < _MANY_MORE * counts[0],
                f"{family}: {other.name} and {card.name} have one file, {url}, and {counts[0]:,} and {counts[1]:,} "
                "parameters: one of the two addresses is copied",
            )


def check_exceptions(family: str) -> None:
    """The family's expected failures name checks and models that there are, each with a reason.

    Args:
        family: Its name.

    Raises:
        NonConformance: One does not.
    """
    check_globs(declared(family), [card.name for card in current_zoo().member(family).cards.values()])


def check_globs(expected: Mapping[str, str], models: Iterable[str]) -> None:
    """Every glob of a family's expected failures names a check and at least one model, and every reason says something.

    Args:
        expected: ``"check:model"`` globs to reasons.
        models: Names of all models of the family, without the family.

    Raises:
        NonConformance: One does not; close matches are listed.

    Example:
        >>> check_globs({"swop:net": "why"}, ["net"])
        Traceback (most recent call last):
        ...
        zoo_core.testing.findings.NonConformance: the expected failure 'swop:net' names no check; did you mean 'swap'?
    """
    names = [short_name(check) for check in (*CHECKS, *DEAR_CHECKS)]
    known = [*models]
    for glob, reason in expected.items():
        label = f"the expected failure {glob!r}"
        check, _, model = glob.removeprefix("check_").partition(":")
        every = not check.strip("*?") and not model.strip("*?")
        require(not every, f"{label} is every check of every model, and hides what breaks later; name a check")
        nearest = did_you_mean(close_matches(check, names, limit=1), f"there are {', '.join(names)}")
        require(any(fnmatchcase(name, check) for name in names), f"{label} names no check; {nearest}")
        nearest = did_you_mean(close_matches(model, known, limit=1), "write it as 'check:model'")
        require(any(fnmatchcase(name, model) for name in known), f"{label} names no model; {nearest}")
        require(isinstance(reason, str) and reason.strip() != "", f"{label} has no reason")


FAMILY_CHECKS: tuple[Callable[[str], None], ...] = (check_light, check_names, check_exceptions)
"""Every check of a family as a whole: plain functions of its name."""

"""``zoo check --digests``: fetch the files whose whole digests cards lack, and print these."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core import settings
from zoo_core.cli.console import echo
from zoo_core.errors import CacheError, Unreadable, ZooError
from zoo_core.utils.atomic_write import whole_file
from zoo_core.weights import obtain
from zoo_core.weights.formats.sniff import NEXT_STEPS, describe
from zoo_core.weights.transport.urls import shown

if TYPE_CHECKING:
    from zoo_core.contract.card import Card, Weights
    from zoo_core.weights.request import Artefact

_HEAD = 512
_NO_WEIGHTS = (
    "an HTML page",
    "an XML document",
    "a JSON document",
    "a git-lfs pointer, not the file it points to",
    "an empty file",
    "a file of zero bytes",
)
"""What servers answer in place of a file; its digest in a card would be held for ever."""


@dataclass(frozen=True)
class Missing:
    """A file of weights whose whole digest its card lacks, for ``zoo check --digests`` to print.

    Attributes:
        card: Of its model.
        weights: The entry for this file alone. Where an entry has several files its tag ends in the file's name, since
            what the cache knows of a tag is the digest of one file.
        key: Of ``Weights.digests`` where its digest belongs; ``""`` where that is ``Weights.sha256``.
    """

    card: Card
    weights: Weights
    key: str

    @property
    def name(self) -> str:
        """Name of the file in the messages of ``zoo check --digests``."""
        return f"{self.card.id}@{self.weights.tag}"


def missing(cards: Iterable[Card]) -> Iterator[Missing]:
    """The files whose whole digests cards lack, for ``zoo check --digests``, in the order of the cards."""
    for card in cards:
        for weights in card.weights:
            for number, file in enumerate(weights.files):
                if file.strength != "proven":
                    tag = f"{weights.tag}-{file.file_name}" if weights.digests else weights.tag
                    yield Missing(card, replace(file, tag=tag), file.file_name if number else "")


def print_digests(family: str, cards: Iterable[Card], json_file: Path | None) -> bool:
    """For ``zoo check --digests``, fetch each file, trusting what comes first, and print its size and digest.

    Args:
        family: Its name.
        cards: Those that are looked at.
        json_file: Where to write the same as JSON.

    Returns:
        Whether every file could be had.
    """
    results: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    try:
        for each in missing(cards):
            try:
                artefact = obtain(each.card, each.weights, trust="first-use", obey_lock=False)
                _require_source(each, artefact)
                _require_weights(each, artefact)
            except (ZooError, OSError, ValueError) as error:  # ValueError: a url that is none
                failures.append({**_facts(each), "error": str(error)})
                echo(f"failed {each.name} {shown(each.weights.urls[0])}\n  {error}", err=True)
            else:
                results.append({**_facts(each), "size": artefact.size, "sha256": artefact.sha256})
                size, digest = artefact.size, artefact.sha256
                own = f'size={size},\nsha256="{digest}",'  # to be copied into the card
                said = f'digests={{"{each.key}": "{digest}"}},  # {size:,} bytes' if each.key else own
                echo(f"# {each.name}  {shown(each.weights.urls[0])}\n{said}")
    finally:
        if json_file:
            text = json.dumps({"family": family, "weights": results, "failed": failures}, indent=2)
            with whole_file(json_file) as new:
                new.write_text(f"{text}\n", encoding="utf-8")
    if not results and not failures:
        echo(f"{family}: no weights without a whole SHA-256")
    return not failures


def _facts(each: Missing) -> dict[str, Any]:
    return {"name": each.name, "url": shown(each.weights.urls[0])}


def _require_source(each: Missing, artefact: Artefact) -> None:
    """For ``zoo check --digests``, refuse the digest of what the cache has from another url: it may be another file."""
    urls = [*map(shown, each.weights.urls)]
    moved = settings.mirrors() or settings.rewrites() or artefact.source.startswith("file:")
    if artefact.fetched or each.weights.sha256 or artefact.source in urls or (moved and "file:" not in urls[0]):
        return
    raise CacheError(
        f"the cache has {each.name} from another url than its card has",
        expected=f"from {', '.join(urls)}",
        got=f"from {artefact.source or 'an unknown place'}",
        done="no digest was printed",
        hint=f"`zoo cache rm '{each.name}'` lets go of it, and the next run fetches the file of the card",
    )


def _require_weights(each: Missing, artefact: Artefact) -> None:
    """For ``zoo check --digests``, refuse the digest of a page or another thing that holds no weights."""
    with artefact.path.open("rb") as file:
        kind = describe(file.read(_HEAD))
    if kind in _NO_WEIGHTS and not each.weights.file_name.endswith(".json"):
        raise Unreadable(
            f"{each.name} is {kind}",
            expected="a file of weights",
            got=f"{artefact.size:,} bytes from {artefact.source}",
            done="no digest was printed",
            hint=f"{NEXT_STEPS[kind]}; `zoo cache rm '{each.name}'` first, so that this one is not taken again",
            path=artefact.path,
        )

"""What happened to every tensor on the way in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from zoo_core.errors import UsageError
from zoo_core.text import close_matches, did_you_mean, first_few, html_table, redacted

Outcome = Literal["loaded", "adapted", "initialized", "defaulted", "kept", "ignored"]
"""``loaded`` as it was in the file; ``adapted`` on its way in; ``initialized`` afresh, as a new head is; ``defaulted``
when an old file lacks a counter that torch fills in; ``kept`` as the model had it, by a partial load; ``ignored`` when
only the file has it."""
_SHOWN = 4


@dataclass(frozen=True)
class Receipt:
    """What happened to every tensor of a model on the way in.

    Attributes:
        model: Qualified name, or the class name of an adopted module.
        tag: Tag of the weights; None when there were none.
        source: Where the bytes came from.
        path: Where the file is now.
        sha256: Full digest of the file, when it is known.
        strength: ``"proven"`` by a full digest, ``"weak"`` by a prefix or first use, ``"none"``.
        tensors: Tensor name to what happened to it.
        notes: Tensor name to a remark, such as why it was kept or which tensor of a file it came from.
        taken: What of a file of the user's own was taken, such as averaged weights or the prefix of names; ``""`` where
            there was nothing to choose.
        needed_values: Why the constructor drew all values although a file replaced them; ``""`` when it did not.

    Example:
        >>> receipt = Receipt("tiny/net", tensors={"fc.weight": "initialized", "conv.weight": "loaded"})
        >>> receipt.names("loaded")
        ('conv.weight',)
        >>> print(receipt)
        tiny/net: 1 loaded, 1 initialized (fc.weight)
    """

    model: str
    tag: str | None = None
    source: str | None = None
    path: str | None = None
    sha256: str | None = None
    strength: str = "none"
    tensors: Mapping[str, Outcome] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    needed_values: str = ""
    taken: str = ""

    def names(self, outcome: Outcome | Literal["initialised"]) -> tuple[str, ...]:
        """The names of the tensors with that outcome, in the model's order; the spelling of before is taken too.

        Raises:
            UsageError: There is no such outcome.
        """
        outcome = "initialized" if outcome == "initialised" else outcome
        if outcome not in get_args(Outcome):
            hint = did_you_mean(close_matches(str(outcome), get_args(Outcome)), "one of these")
            raise UsageError(f"outcome cannot be {outcome!r}", expected=" or ".join(get_args(Outcome)), hint=hint)
        return tuple(name for name, what in self.tensors.items() if what == outcome)

    @property
    def counts(self) -> dict[str, int]:
        """How many tensors had each outcome."""
        return dict(Counter(self.tensors.values()))

    def with_new(self, removed: Iterable[str], added: Iterable[str]) -> Receipt:
        """The receipt after surgery replaced some tensors by freshly initialized ones."""
        gone = set(removed)
        kept: dict[str, Outcome] = {name: what for name, what in self.tensors.items() if name not in gone}
        new: dict[str, Outcome] = dict.fromkeys(added, "initialized")
        notes = {name: note for name, note in self.notes.items() if name in kept and name not in new}
        return replace(self, tensors={**kept, **new}, notes=notes)

    def __str__(self) -> str:
        counts = self.counts
        parts = [f"{counts['loaded']} loaded"] if "loaded" in counts else []
        rest: tuple[Outcome, ...] = ("adapted", "initialized", "defaulted", "kept", "ignored")
        parts += [f"{counts[what]} {what} ({first_few(self.names(what), _SHOWN)})" for what in rest if what in counts]
        weights = f"@{self.tag}" if self.tag else ""
        taken = f"; {self.taken}" if self.taken else ""
        slowly = f"; built with values: {self.needed_values}" if self.needed_values else ""
        return f"{self.model}{weights}: {', '.join(parts) or 'no tensors'}{taken}{slowly}"

    def _repr_html_(self) -> str:
        """A table for a notebook: how many tensors had each outcome, and which."""
        outcomes: dict[Outcome, int] = dict(Counter(self.tensors.values()))
        rows = [(what, str(count), first_few(self.names(what), _SHOWN)) for what, count in outcomes.items()]
        weights = f"@{self.tag}" if self.tag else ""
        file = f"{self.source}, {self.strength}" if self.source else "no file"
        return html_table(f"{self.model}{weights}", ("tensors", "how many", "names"), rows, redacted(file))

"""``zoo verify --outputs``: whether models give what they gave when that was written down."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from zoo_core.cli.console import echo
from zoo_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo_core.weights.trust.lock import Lock


def verify_outputs(names: Sequence[str], *, as_json: bool) -> None:
    """Run models on a generated image; the exit code is 1 when one gives something else than expected.

    Raises:
        UsageError: Nothing says what is expected of any of them.
    """
    from zoo_core.build.get import get
    from zoo_core.prediction.fingerprint import agrees, fingerprint
    from zoo_core.registry.zoo import current_zoo
    from zoo_core.weights.trust.lock import current_lock

    lock = current_lock()
    chosen = names or [name for name, entry in (lock.entries if lock else {}).items() if entry.outputs]
    if lock and lock.problems and not names:
        raise lock.problems[0]
    if not chosen:
        raise UsageError("no outputs to verify", hint="zoo lock --outputs NAME writes them down, or name models")
    changed, records = 0, []
    for each in chosen:
        card, tag = current_zoo().resolve(each)
        name = f"{card.id}@{card.find(tag).tag}"
        expected = _expected(name, lock) or tuple(card.find(tag).outputs.get("cpu", ()))
        if not expected:
            raise UsageError(f"nothing says what {name} should give", hint=f"zoo lock --outputs {name} writes it down")
        found = fingerprint(get(name, device="cpu"))
        good = agrees(expected, found)
        changed += not good
        records.append({"name": name, "good": good, "expected": expected, "got": found})
        if not as_json:
            echo(f"{name}: as expected" if good else _difference(name, expected, found))
    if as_json:
        echo(json.dumps(records, indent=2))
    if changed:
        raise SystemExit(1)


def _expected(name: str, lock: Lock | None) -> tuple[float, ...]:
    entry = lock.find(name) if lock else None
    return entry.outputs if entry else ()


def _difference(name: str, expected: tuple[float, ...], found: tuple[float, ...]) -> str:
    return (
        f"{name}: CHANGED: expected {_said(expected)}, got {_said(found)}; the file is right, so look at the versions "
        "of torch and of the model's library, and at the preprocessing"
    )


def _said(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{number:.4g}" for number in numbers)

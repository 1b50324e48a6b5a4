"""``zoo verify``: whether what is here is still what it was: files, a signature, and what models give."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from zoo_core.cli.console import echo
from zoo_core.errors import LockError, UsageError
from zoo_core.registry.zoo import current_zoo
from zoo_core.weights import Cache
from zoo_core.weights.cache import inventory
from zoo_core.weights.cache.converted import FOLDER
from zoo_core.weights.digest import steady_digest
from zoo_core.weights.trust.lock import LOCK, current_lock, find_lock, read_lock


@click.command()
@click.argument("name", nargs=-1)
@click.option("--outputs", is_flag=True, help="Run models, and compare what they give with what is expected.")
@click.option(
    "--signature",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="KEY",
    help="Check the signature of zoo.lock with the public key KEY, and the weights of the lock that are here.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(name: tuple[str, ...], signature: Path | None, *, outputs: bool, as_json: bool) -> None:
    r"""Verify every file in the cache by hashing it again; bad ones are moved aside, and the exit code is 1.

    With --outputs the models NAME, or else those of zoo.lock, are run on a generated image: a change of library, kernel
    or preprocessing shows, which no digest of a file does. `zoo lock --outputs NAME` writes down what is expected.

    With --signature zoo.lock must be what was signed by `zoo lock --sign`, and so must the weights of it that are in
    the cache; they are hashed again.

    \b
    zoo verify
    zoo verify --outputs tiny/glyphnet
    zoo verify --signature key.pub.pem
    """
    if outputs and signature:
        raise click.UsageError("--outputs and --signature are two runs")
    if name and not outputs:
        raise click.UsageError("NAME goes with --outputs: without it, every file in the cache is hashed")
    if outputs:
        _verify_outputs(name, as_json=as_json)
    elif signature:
        _verify_signature(signature, as_json=as_json)
    else:
        _verify_files(as_json=as_json)


def _verify_files(*, as_json: bool) -> None:
    """Verify the digests of all files in the cache; the exit code is 1 when a file is bad."""
    results = list(inventory.verify(Cache()))
    bad = [file for file, good in results if not good]
    if as_json:
        echo(json.dumps({"verified": len(results) - len(bad), "bad": [str(file) for file in bad]}, indent=2))
    else:
        for file in bad:
            echo(f"BAD  {file}: {_problem_of(file)}")
        echo(f"{len(results) - len(bad)} files are what they should be, {len(bad)} are not")
    if bad:
        raise SystemExit(1)


def _problem_of(file: Path) -> str:
    """What the matter is with a weights file that ``zoo verify`` found bad, from what is there now."""
    if file.is_symlink() or file.exists():
        return "not a plain file that can be read, left alone"
    if file.is_relative_to(Cache().root / FOLDER):
        return "removed, and made again when it is needed"
    return "moved aside" if file.with_name(f".{file.name}.bad").exists() else "missing"


def _verify_signature(public_key: Path, *, as_json: bool) -> None:
    """Check a signed lock, and the weights of it that are here; the exit code is 1 when some are not what it says."""
    from zoo_core.weights.trust.provenance import verify_lock_signature

    path = find_lock()
    if path is None:
        raise LockError(f"there is no {LOCK} here or in a parent folder", hint="`zoo lock NAME` writes one")
    verify_lock_signature(path, public_key)
    lock, cache = read_lock(path), Cache()
    if lock.problems:
        raise lock.problems[0]
    states = {}
    for entry in lock.entries.values():
        states[entry.name] = _state_of_locked(cache.find(entry.sha256), entry.sha256)
    if as_json:
        echo(json.dumps({"lock": str(path), "signature": "good", "weights": states}, indent=2))
    else:
        echo(f"{path}: signed with the key of {public_key}")
        for name, state in states.items():
            echo(f"{name}: {state}")
    if "BAD" in states.values():
        raise SystemExit(1)


def _state_of_locked(file: Path | None, sha256: str) -> str:
    """What ``zoo verify`` says of weights in a signed lock: good, bad or not here; nothing is moved."""
    if file is None:
        return "not here"
    try:
        return "good" if steady_digest(file)[0] == sha256 else "BAD"
    except OSError:  # such as of a link
        return "BAD"


def _verify_outputs(names: Sequence[str], *, as_json: bool) -> None:
    """Run models on a generated image; the exit code is 1 when one gives something else than expected.

    Raises:
        UsageError: Nothing says what is expected of any of them.
    """
    from zoo_core.build.get import get
    from zoo_core.prediction.fingerprint import agrees, fingerprint

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
        locked = lock.find(name) if lock else None
        expected = (locked and locked.outputs) or tuple(card.find(tag).outputs.get("cpu", ()))
        if not expected:
            raise UsageError(f"nothing says what {name} should give", hint=f"zoo lock --outputs {name} writes it down")
        result = fingerprint(get(name, device="cpu"))
        good = agrees(expected, result)
        changed += not good
        records.append({"name": name, "good": good, "expected": expected, "got": result})
        if not as_json:
            echo(f"{name}: as expected" if good else _changed_outputs(name, expected, result))
    if as_json:
        echo(json.dumps(records, indent=2))
    if changed:
        raise SystemExit(1)


def _changed_outputs(name: str, expected: tuple[float, ...], found: tuple[float, ...]) -> str:
    """Line of ``zoo verify`` on a model whose outputs have changed."""
    return (
        f"{name}: CHANGED: expected {_said(expected)}, got {_said(found)}; the file is right, so look at the versions "
        "of torch and of the model's library, and at the preprocessing"
    )


def _said(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{number:.4g}" for number in numbers)

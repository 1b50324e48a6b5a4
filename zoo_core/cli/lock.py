"""``zoo lock`` and ``zoo sync``: write down the exact weights of a project, and have exactly those again."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path

import click

from zoo_core import settings
from zoo_core.cli.console import echo
from zoo_core.cli.options import complete_model
from zoo_core.contract.card import Card, Weights
from zoo_core.errors import DigestMismatch, LockError, UsageError
from zoo_core.registry.zoo import Zoo, current_zoo
from zoo_core.utils.atomic_write import whole_file
from zoo_core.utils.no_follow import real
from zoo_core.utils.paths import is_there
from zoo_core.weights import obtain
from zoo_core.weights.cache.store import Cache
from zoo_core.weights.download.disk import disk_errors
from zoo_core.weights.hub_folder import fetch_folder, fetched_already, is_hub_name, lock_entry
from zoo_core.weights.transport.hub import at_commit, commit_of, hub_is_offline, is_hub, looks_like_hub
from zoo_core.weights.transport.policy import Policy
from zoo_core.weights.transport.urls import rewritten, without_password
from zoo_core.weights.trust.lock import LOCK, Lock, Locked, find_lock, read_lock, write_lock

_FILE = click.Path(dir_okay=False, path_type=Path)
_KEY = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("name", nargs=-1, shell_complete=complete_model)
@click.option("--update", is_flag=True, help="Accept a digest that differs from the locked one.")
@click.option("--trust", type=click.Choice(["first-use"]), help="Lock what comes first where nothing vouches for it.")
@click.option("--license", "licenses", multiple=True, help="A licence that is acceptable; may be repeated.")
@click.option("--outputs", is_flag=True, help="Run each model too, and lock what it gives for a generated image.")
@click.option("--sbom", type=_FILE, metavar="FILE", help="Write the weights of the lock to FILE too, as CycloneDX.")
@click.option("--sign", type=_KEY, metavar="KEY", help="Sign the lock with the private key KEY, in PEM.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def lock(
    name: tuple[str, ...],
    trust: str | None,
    licenses: tuple[str, ...],
    sbom: Path | None,
    sign: Path | None,
    *,
    update: bool,
    outputs: bool,
    as_json: bool,
) -> None:
    r"""Fetch the weights of the models NAME and write their digests to zoo.lock; without NAME, of those in it.

    \b
    zoo lock resnet18 tiny/glyphnet
    zoo lock hf://me/flowers
    zoo lock --sbom weights.cdx.json --sign key.pem
    """
    zoo = current_zoo()
    path = find_lock() or Path.cwd() / LOCK
    old = read_lock(path) if is_there(path) else Lock(path, {})
    if not name and not old.entries:
        raise UsageError("nothing to lock", expected="names of models, such as resnet18", hint="zoo list names them")
    shared = [lock_entry(item) for item in name or old.entries if is_hub_name(item)]
    resolved = [zoo.resolve(item) for item in name or old.entries if not is_hub_name(item)]
    chosen = [(card, card.find(tag)) for card, tag in resolved]
    renewed = {f"{card.id}@{weights.tag}" for card, weights in chosen} | {entry.name for entry in shared}
    if dropped := [problem for problem in old.problems if getattr(problem, "entry", None) not in renewed]:
        raise dropped[0]  # an entry that is malformed would not be written again
    entries, written = dict(old.entries), []
    saves = ((entry, "as shared") for entry in shared)
    for entry, strength in chain(saves, _locked_weights(zoo, chosen, trust, licenses)):
        before = entries.get(entry.name)
        _require_same(before, entry, update=update)
        entries[entry.name] = _with_outputs(entry, before, run=outputs and not is_hub_name(entry.name))
        written.append({"name": entry.name, "sha256": entry.sha256, "strength": strength})
        if not as_json:
            echo("  ".join(written[-1].values()))
    _renew(path, {each["name"]: entries[each["name"]] for each in written})
    _write_provenance(path, sbom, sign)
    echo(json.dumps({"lock": str(path), "weights": written}, indent=2) if as_json else f"wrote {path}")


def _locked_weights(
    zoo: Zoo, chosen: Iterable[tuple[Card, Weights]], trust: str | None, licenses: tuple[str, ...]
) -> Iterator[tuple[Locked, str]]:
    """Fetch the weights of each model in turn: its entry in the lock, and how strongly it is verified."""
    for card, weights in chosen:
        artefact = obtain(card, weights, trust=trust, licenses=licenses or None, obey_lock=False)
        yield _entry(zoo, card, weights, artefact.sha256, artefact.size), artefact.strength


def _with_outputs(entry: Locked, before: Locked | None, *, run: bool) -> Locked:
    """The entry that ``zoo lock`` writes with the outputs of its model, or those locked for the same file."""
    if run:
        return replace(entry, outputs=_outputs(entry.name))
    if before is not None and before.sha256 == entry.sha256:
        return replace(entry, outputs=before.outputs)
    return entry


def _write_provenance(path: Path, sbom: Path | None, sign: Path | None) -> None:
    """For ``zoo lock``, write the bill of materials of a lock file and sign the file, where that is requested."""
    from zoo_core.weights.trust.provenance import bill_of_materials, sign_lock

    if sbom:
        text = bill_of_materials(read_lock(path).entries.values())
        with whole_file(sbom) as new:
            new.write_text(text, encoding="utf-8")
    if sign:
        sign_lock(path, sign)


def _renew(path: Path, entries: dict[str, Locked]) -> None:
    """Put entries into a lock file; those that another ``zoo lock`` has written since it was read stay."""
    import filelock

    cache = Cache()
    cache.make()
    turn = cache.arriving / f"{hashlib.sha256(bytes(real(path))).hexdigest()[:16]}-zoo.lock"  # and not beside the lock
    with disk_errors(path.parent), filelock.FileLock(turn):
        now = read_lock(path).entries if is_there(path) else {}
        write_lock(path, {**now, **entries}.values())


def _entry(zoo: Zoo, card: Card, weights: Weights, sha256: str, size: int) -> Locked:
    """The entry that ``zoo lock`` writes for a model's weights: urls, digest, size, and the library's version."""
    member = zoo.member(card.family)
    library = member.family.requires
    try:
        built_by = f"{library} {version(library)}" if library else ""
    except PackageNotFoundError:
        built_by = library
    likeliest = sorted(weights.files, key=lambda file: not file.sha256)
    kept = next(file for file in likeliest if sha256.startswith(file.sha256))
    return Locked(
        name=f"{card.id}@{weights.tag}",
        sha256=sha256,
        size=size,
        file=kept.file_name,
        urls=tuple(map(without_password, urls_at_commit(kept.urls, sha256))),
        plugin=member.plugin.origin,
        library=built_by,
        licenses=weights.licenses,
        preprocessing=weights.preprocessing,
    )


def _outputs(name: str) -> tuple[float, ...]:
    """The fingerprint of what a model gives, for the entry that ``zoo lock`` writes."""
    from zoo_core.build.get import get
    from zoo_core.prediction.fingerprint import fingerprint

    return fingerprint(get(name, device="cpu"))


def _require_same(old: Locked | None, new: Locked, *, update: bool) -> None:
    """Refuse a run of ``zoo lock`` without ``--update`` on weights whose digest is another than the locked one."""
    if old and old.sha256 != new.sha256 and not update:
        raise DigestMismatch(
            f"the digest of {new.name} has moved",
            expected=f"sha256 {old.sha256} (zoo.lock)",
            got=f"sha256 {new.sha256} (now)",
            done="zoo.lock was left as it is",
            hint="look into why; --update accepts the new one",
            expected_digest=old.sha256,
            got_digest=new.sha256,
            source=new.urls[0],
        )


@click.command()
@click.option("--frozen", is_flag=True, help="Believe the lock alone: no plugin is called.")
@click.option("--license", "licenses", multiple=True, help="A licence that is acceptable; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def sync(licenses: tuple[str, ...], *, frozen: bool, as_json: bool) -> None:
    """Fetch exactly the weights that zoo.lock names."""
    path = find_lock()
    if path is None:
        raise LockError(f"there is no {LOCK} here or in a parent folder", hint="`zoo lock NAME` writes one")
    locked = read_lock(path)
    if locked.problems:
        raise locked.problems[0]
    done = []
    for entry in locked.entries.values():
        fetched = _sync_one(entry, licenses, frozen=frozen)
        done.append({"name": entry.name, "sha256": entry.sha256, "fetched": fetched})
        if not as_json:
            echo(f"{entry.name}  {'fetched' if fetched else 'is here'}")
    if as_json:
        echo(json.dumps(done, indent=2))


def _sync_one(entry: Locked, licenses: tuple[str, ...], *, frozen: bool) -> bool:
    """Fetch the weights of one entry of the lock file, and say whether they were not here."""
    if is_hub_name(entry.name):
        was_here = fetched_already(entry)
        fetch_folder(entry.name)
        return not was_here
    if frozen:
        family, _, rest = entry.name.partition("/")
        weights = entry.weights()
        card = Card(family, rest.rpartition("@")[0], build="", weights=(weights,))
    else:
        card, tag = current_zoo().resolve(entry.name)
        weights = card.find(tag)
    return obtain(card, weights, licenses=licenses or None).fetched


def urls_at_commit(urls: tuple[str, ...], sha256: str) -> tuple[str, ...]:
    """The urls that the command ``zoo lock`` writes: a hub's also at the commit of the file, as a branch may move on.

    Nothing is added offline, nor where the hub does not answer, or has another file by now.
    """
    from zoo_core.weights.transport.failures import Failure
    from zoo_core.weights.transport.http import headers_of

    result: list[str] = []
    for url in urls:
        place = rewritten(url)
        if looks_like_hub(place) and not settings.offline() and not (hub_is_offline() and is_hub(place)):
            with contextlib.suppress(Failure):
                if commit := commit_of(headers_of(place, Policy()), sha256):
                    result.append(at_commit(url, commit))
        result.append(url)
    return tuple(dict.fromkeys(result))

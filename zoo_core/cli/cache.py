"""``zoo cache``, ``zoo mirror`` and ``zoo bundle``: the weights on the disk, and bringing them to other machines."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from zoo_core.cli.console import echo
from zoo_core.cli.options import complete_kept
from zoo_core.errors import Untrusted, UsageError
from zoo_core.registry.zoo import current_zoo
from zoo_core.text import human
from zoo_core.weights import Cache
from zoo_core.weights.cache import bundle as bundles
from zoo_core.weights.cache import inventory, mirrors, pruning
from zoo_core.weights.cache.converted import Copy, copies


@click.group()
def cache() -> None:
    """Look after the weights on this machine."""


@cache.command("ls")
@click.argument("pattern", nargs=-1, shell_complete=complete_kept)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(pattern: tuple[str, ...], *, as_json: bool) -> None:
    """List the weights in the cache, or those whose names match PATTERN."""
    kept, problems = inventory.contents(Cache(), pattern)
    for problem in problems:
        echo(f"zoo: {problem}", err=True)
    if as_json:
        echo(json.dumps([_entry_record(item) for item in kept], indent=2))
        return
    for item in kept:
        state = "" if item.present else "  MISSING"
        echo(f"{human(item.ref.size):>9}  {item.used:%Y-%m-%d}  {item.ref.strength:<9}  {item.name}{state}")
    files = {item.path: item.ref.size for item in kept if item.present}
    echo(f"{human(sum(files.values())):>9}  in {len(files)} files under {Cache().root}")
    digests = {item.ref.sha256 for item in kept}
    if converted := [copy for copy in copies(Cache()) if copy.source in digests]:
        size = human(sum(copy.size for copy in converted))
        echo(f"{size:>9}  more in {_count(converted, 'copy', 'copies')} of them that can be mapped")


def _entry_record(item: inventory.Kept) -> dict[str, Any]:
    """An entry of the cache as ``zoo cache ls --json`` prints it."""
    return {
        "name": item.name,
        "sha256": item.ref.sha256,
        "size": item.ref.size,
        "path": str(item.path),
        "present": item.present,
        "source": item.ref.source,
        "strength": item.ref.strength,
        "verified": item.ref.verified,
        "converted": Copy(Cache(), item.ref.sha256).size,
        "used": item.used.isoformat(timespec="seconds"),
    }


@cache.command("rm")
@click.argument("pattern", nargs=-1, required=True, shell_complete=complete_kept)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rm(pattern: tuple[str, ...], *, as_json: bool) -> None:
    """Remove from the cache the weights whose names match PATTERN, with or without the tag."""
    kept, _ = inventory.contents(Cache(), pattern)
    freed = pruning.remove(Cache(), kept)
    if as_json:
        echo(json.dumps({"removed": [item.name for item in kept], "freed": freed}, indent=2))
    else:
        echo(f"removed {_count(kept, 'name')}, freed {human(freed)}")


@cache.command("prune")
@click.option("--unused", type=click.FloatRange(min=0), metavar="DAYS", help="Also what was not used for DAYS days.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def prune(unused: float | None, *, dry_run: bool, as_json: bool) -> None:
    """Remove from the cache what nothing needs: bad files, files without a name, and what dead downloads left."""
    result, old = pruning.leftovers(Cache(), unused_days=unused)
    if as_json:
        files = [{"path": str(item.path), "size": item.size, "reason": item.reason} for item in result]
        freed = 0 if dry_run else pruning.prune(Cache(), unused_days=unused)
        echo(json.dumps({"files": files, "names": [kept.name for kept in old], "freed": freed}, indent=2))
    elif dry_run:
        for item in result:
            echo(f"{human(item.size):>9}  {item.path}  ({item.reason})")
        for kept in old:
            echo(f"{human(kept.ref.size):>9}  {kept.name}  (last used {kept.used:%Y-%m-%d})")
    else:
        echo(f"freed {human(pruning.prune(Cache(), unused_days=unused))}")


@cache.command("path")
@click.argument("name", required=False, shell_complete=complete_kept)
def path(name: str | None) -> None:
    """Print where the cache is, or where the file of the weights NAME is."""
    if name is None:
        echo(Cache().root)
        return
    for item in inventory.contents(Cache(), (name,))[0]:
        echo(item.path)


@cache.command("import")
@click.argument("file", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--torch-hub", is_flag=True, help="Everything that torch.hub has downloaded.")
@click.option("--hugging-face", is_flag=True, help="Everything that the Hugging Face hub's library has downloaded.")
def import_(file: tuple[Path, ...], *, torch_hub: bool, hugging_face: bool) -> None:
    """Bring files that are on this machine's disk already into the cache, where their digests prove what they are."""
    from zoo_core.weights.cache.other_caches import adopt, hugging_face_folder, torch_hub_folder

    result = list(file)
    result += [item for item in sorted(torch_hub_folder().glob("*")) if torch_hub and item.is_file()]
    result += [item for item in sorted(hugging_face_folder().glob("models--*/blobs/*")) if hugging_face]
    if not result and not (torch_hub or hugging_face):
        raise UsageError("nothing to import", expected="files, --torch-hub or --hugging-face")
    cards = [card for member in current_zoo().usable() for card in member.cards.values()]
    for item in result:
        try:
            adopted = adopt(Cache(), item, cards)
        except Untrusted:
            if item in file:
                raise
            echo(f"passed over {item.name}: no installed model has weights like it", err=True)
        else:
            echo(f"{item.name}: {', '.join(adopted.names)}")


def _count(items: Iterable[object], noun: str, several: str = "") -> str:
    number = len(list(items))
    return f"{number} {noun if number == 1 else several or f'{noun}s'}"


@click.group()
def mirror() -> None:
    """Serve weights in the cache to other machines."""


@mirror.command("export")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.argument("pattern", nargs=-1)
def export_mirror(folder: Path, pattern: tuple[str, ...]) -> None:
    """Write the weights in the cache, or those that match PATTERN, to FOLDER for any web server or bucket to serve.

    Other machines use it with ZOO_MIRROR=https://host/folder.
    """
    kept, _ = inventory.contents(Cache(), pattern)
    count = mirrors.export_mirror(Cache(), kept, folder)
    echo(f"{count} file{'' if count == 1 else 's'} in {folder}; serve it, and set ZOO_MIRROR to its url")


@click.group()
def bundle() -> None:
    """Carry weights in the cache to a machine without a network, in one file."""


@bundle.command("export")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("pattern", nargs=-1)
def export_bundle(file: Path, pattern: tuple[str, ...]) -> None:
    """Write the weights in the cache, or those that match PATTERN, to FILE."""
    kept, _ = inventory.contents(Cache(), pattern)
    count = bundles.export_bundle(Cache(), kept, file)
    echo(f"{count} names in {file}; `zoo bundle import {file.name}` takes them in elsewhere")


@bundle.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def import_bundle(file: Path) -> None:
    """Take the weights in FILE into the cache; each is hashed on its way in."""
    for name in bundles.import_bundle(Cache(), file):
        echo(name)

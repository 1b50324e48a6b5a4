"""``zoo plugin new``: the beginning of a plugin, which keeps every promise from the start."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import click

from zoo_core.cli.console import echo
from zoo_core.errors import UsageError
from zoo_core.registry.entry_points import version_of
from zoo_core.registry.zoo import current_zoo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable

_NAME = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")
_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_LONGEST = 40
_SUFFIX = ".tmpl"
"""What a template has behind its name, so that no tool takes it for code."""
_OURS = ("core",)
"""Names that would give a distribution the name of one of zoo's own."""


@click.group()
def plugin() -> None:
    """Begin a plugin of your own."""


@plugin.command()
@click.argument("name")
@click.option("--library", default="", metavar="DIST", help="The distribution that the models come from.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the new folder goes; here by default.",
)
def new(name: str, library: str, directory: Path | None) -> None:
    """Write a working distribution, zoo-NAME, whose family is called NAME.

    It holds a toy model, passes the conformance kit, ruff and mypy as it is, and says what to replace.
    """
    folder = write_plugin(name, library=library, directory=directory or Path())
    echo(f"{folder} is a working plugin with a toy model. Next:")
    echo(f"  cd {folder} && pip install -e . pytest && pytest")
    echo("  then make catalog.py and anatomy.py those of your library, as README.md says")


@plugin.command()
@click.argument("family")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def signatures(family: str, file: Path) -> None:
    """Write to FILE what the state dicts of all models of FAMILY look like, for `zoo inspect`.

    Ship it in your package and name it in Family.signatures. A model that cannot be built here is left out.
    """
    from zoo_core.build.signatures import signature_of
    from zoo_core.errors import ZooError
    from zoo_core.weights.checkpoint.signatures import write_signatures

    made = []
    for card in current_zoo().member(family).cards.values():
        try:
            made.append(signature_of(card))
        except ZooError as error:
            echo(f"left out: {card.id}: {error.summary}", err=True)
    file.write_bytes(write_signatures(made))
    echo(f"{file}: {len(made)} models, {file.stat().st_size} bytes")


@plugin.command()
@click.argument("family")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def costs(family: str, file: Path) -> None:
    r"""Write to FILE what an image costs all models of FAMILY: multiply-adds and activations, counted without values.

    Ship it in your package and name it in Family.costs. A model that does not run without values is left out.

    \b
    zoo plugin costs acme zoo_acme/costs.json
    """
    from zoo_core.build.costs import cost_of
    from zoo_core.contract.costs import write_costs
    from zoo_core.errors import ZooError

    made = {}
    for card in current_zoo().member(family).cards.values():
        try:
            made[card.name] = cost_of(card)
        except ZooError as error:
            echo(f"left out: {card.id}: {error.summary}", err=True)
    file.write_text(write_costs(made), encoding="utf-8")
    echo(f"{file}: {len(made)} models, {file.stat().st_size} bytes")


def write_plugin(name: str, *, library: str = "", directory: Path) -> Path:
    """Write a plugin distribution.

    Args:
        name: Of the family: at most 40 lower-case letters and digits, with single dashes or underscores between them.
        library: The distribution that the models come from, as pip spells it; ``""`` when the plugin holds them. The
            version of it that is installed is the one that the plugin says it was tested with.
        directory: Where the new folder goes.

    Returns:
        The new folder, ``directory / "zoo-NAME"``.

    Raises:
        UsageError: A name is impossible or taken, or the folder is there already.

    Example:
        >>> import tempfile
        >>> folder = write_plugin("acme-nets", directory=Path(tempfile.mkdtemp()))
        >>> folder.name, (folder / "zoo_acme_nets" / "anatomy.py").exists()
        ('zoo-acme-nets', True)
    """
    _check_name(name)
    if library and not _DISTRIBUTION.fullmatch(library):
        raise UsageError(
            f"a library cannot be called {library!r}",
            expected="the name of a distribution as pip spells it, without a version, such as 'acme-models'",
        )
    words = _words(name, library)
    folder = directory / words["distribution"]
    if folder.exists():
        raise UsageError(f"{folder} is there already", hint="choose another --directory, or remove it first")
    for template, place in _templates(files("zoo_core.cli").joinpath("templates"), Path()):
        target = folder.joinpath(*(words["package"] if part == "package" else part for part in place.parts))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(Template(template.read_text(encoding="utf-8")).substitute(words), encoding="utf-8")
    return folder


def _check_name(name: str) -> None:
    bare = name.removeprefix("zoo-").removeprefix("zoo_")
    if bare != name:
        raise UsageError(f"a family is not called {name!r}", hint=f"zoo plugin new {bare} puts zoo- before it")
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise UsageError(
            f"a family cannot be called {name!r}",
            expected=f"at most {_LONGEST} lower-case letters and digits, with single dashes or underscores between, "
            "such as 'acme-nets'",
        )
    if name in _OURS:
        raise UsageError(f"a family cannot be called {name!r}", cause=f"zoo-{name} is a distribution of zoo itself")
    family = name.replace("-", "_")
    taken = [each for each in current_zoo().plugins if family in {known.name for known in each.families}]
    if taken:
        raise UsageError(
            f"there is a family {family!r} already, from {taken[0].origin}",
            hint="two plugins with one family are both refused, so choose another name",
        )


def _words(name: str, library: str) -> dict[str, str]:
    family = name.replace("-", "_")
    dependencies = ["zoo-core", *([library] if library else [])]
    return {
        "distribution": f"zoo-{name.replace('_', '-')}",
        "package": f"zoo_{family}",
        "family": family,
        "title": "".join(word.capitalize() for word in family.split("_")),
        "requires": library,
        "tested": f"=={version}" if (version := library and version_of(library)) else "",
        "library": f"`{library}`" if library else "your library",
        "dependencies": ", ".join(f'"{each}"' for each in dependencies),
    }


def _templates(folder: Traversable, place: Path) -> Iterator[tuple[Traversable, Path]]:
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.is_dir():
            yield from _templates(entry, place / entry.name)
        elif entry.name.endswith(_SUFFIX):
            yield entry, place / entry.name.removesuffix(_SUFFIX)

"""``zoo plugin``: write a plugin of your own, from templates or traced models, the files that it ships, the guide."""

from __future__ import annotations

import ast
import json
import re
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from pkgutil import resolve_name
from string import Template
from typing import TYPE_CHECKING, Any, cast

import click

from zoo_core import __version__
from zoo_core.cli.console import echo
from zoo_core.contract.card import Card
from zoo_core.contract.card_file import write_cards
from zoo_core.errors import AnatomyError, UsageError, ZooError
from zoo_core.registry.plugins import version_of
from zoo_core.registry.zoo import current_zoo
from zoo_core.text import with_uv_for_pip
from zoo_core.utils.paths import is_there

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from torch import Tensor, nn

    from zoo_core.contract.anatomy import Anatomy
    from zoo_core.weights.checkpoint.signatures import Signature

_NAME = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")
_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_LONGEST = 40
_SUFFIX = ".tmpl"
"""What a template has after its name, so that no tool takes it for code."""
_OURS = (
    *("core", "torchvision", "timm", "efficientnet-pytorch", "pretrainedmodels", "tiny", "lightning", "ray"),
    "efficientnet_pytorch",
)
"""Names that would give a distribution the name of one of zoo's own, installed here or not."""
_MODEL = re.compile(r"(?P<callable>[\w.]+:[\w.]+)\s*(\((?P<arguments>[^()]*(\([^()]*\)[^()]*)*)\))?\s*(,\s*|$)")
"""One of ``--models``; a value of its arguments may be a tuple."""


def traced_cards(name: str, models: str, input_size: tuple[int, ...]) -> list[Card]:
    """A card of the new plugin for each ``package.module:callable``; what tracing found is on stderr."""
    import torch

    from zoo_core.tracing.trace import trace

    made: list[Card] = []
    for what, options in _each_model(models):
        model = _built(what, options)
        try:
            example = torch.zeros(1, *input_size, device="cpu")
            result = trace(model.eval(), example)
        except AnatomyError as error:
            hint = "--input-size gives the size that its images have, such as 3x224x224"
            raise AnatomyError(f"--models: {what}: {error.summary}", **{**error.parts, "hint": hint}) from error
        main = result.anatomy.main
        called = what.rpartition(":")[2].rpartition(".")[2].lower()
        before = sum(card.build == what for card in made)
        card = Card(
            family=name.replace("-", "_"),
            name=f"{called}-{before + 1}" if before else called,
            build=what,
            options=options,
            task=_task(model, result.anatomy, example),
            input_size=input_size,
            num_classes=main.num_classes if main else 0,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
        )
        stages = ", ".join(f"{stage.channels} at {stage.stride}" for stage in result.anatomy.stages)
        echo(f"{card.id}: head {main.path if main else 'none'}; stages {stages or 'none'}", err=True)
        for part, why in result.missing.items():
            echo(f"  {part} not found: {why}", err=True)
        made.append(card)
    return made


def _each_model(models: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each model of a new plugin, as ``--models`` says it: what is called, and with which keywords."""
    left = models.strip()
    while left:
        match = _MODEL.match(left)
        try:
            call = cast("ast.Call", ast.parse(f"f({(match and match['arguments']) or ''})", mode="eval").body)
            options = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
            options = json.loads(json.dumps(options))  # as the card will be read, which has lists for tuples
        except (SyntaxError, ValueError, TypeError):
            match = None
        if match is None or call.args or "None" in options:
            raise UsageError(
                f"--models: {left} is not read",
                expected='"package.module:callable", or "package.module:callable(size=224, depth=6)" with plain values',
                hint="write a function of the plugin that calls it with its arguments",
            )
        yield match["callable"], options
        left = left[match.end() :]


def _built(what: str, options: Mapping[str, Any]) -> nn.Module:
    """The model that a function builds, for a card of the new plugin."""
    try:
        model: nn.Module = resolve_name(what)(**options)
    except Exception as error:
        lacks = isinstance(error, ModuleNotFoundError) and error.name != what.partition(":")[0]
        raise UsageError(
            f"--models: {what} builds no model",
            got=f"{type(error).__name__}: {error}",
            expected='a class or function that takes these arguments, as in "package.module:callable(size=224)"',
            hint="install what its library needs here"
            if lacks
            else "write a function of the plugin that calls it with its arguments",
        ) from error
    return model


def _task(model: nn.Module, anatomy: Anatomy, example: Tensor) -> str:
    """The task in the card of a new plugin's model: it has scores for each image or each place."""
    import torch
    from torch.utils._pytree import tree_leaves

    if not anatomy.heads:
        return "encoder"
    with torch.no_grad():
        shapes = [each.shape for each in tree_leaves(model(example)) if isinstance(each, torch.Tensor)]
    return "classification" if len(shapes[0]) == 2 else "segmentation"  # noqa: PLR2004 - [N, C]


def write_plugin(name: str, *, library: str = "", directory: Path, cards: Sequence[Card] = ()) -> Path:
    """Write a plugin distribution.

    Args:
        name: Of the family: at most 40 lower-case letters and digits, with single dashes or underscores between them.
        library: The distribution that the models come from, as pip spells it; ``""`` when the plugin holds them. The
            version of it that is installed is the one that the plugin says it was tested with.
        directory: Where the new folder goes.
        cards: Of the models, whose anatomy will be traced; none writes a toy model.

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
    words = _template_values(name, library)
    folder = directory / words["distribution"]
    if is_there(folder):
        raise UsageError(f"{folder} is there already", hint="choose another --directory, or remove it first")
    sources = [*_templates(files("zoo_core.cli").joinpath("templates"), Path())]
    if cards:
        sources = [(template, place) for template, place in sources if place.parts[0] != "package"]
        sources += _templates(files("zoo_core.cli").joinpath("templates_traced"), Path())
    for template, place in sources:
        target = folder.joinpath(*(words["package"] if part == "package" else part for part in place.parts))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(Template(template.read_text(encoding="utf-8")).substitute(words), encoding="utf-8")
    if cards:
        write_cards(folder / words["package"] / "catalog.jsonl", cards)
    return folder


def _check_name(name: str) -> None:
    """Refuse a name that the family of a new plugin cannot have."""
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


def _template_values(name: str, library: str) -> dict[str, str]:
    """Values that the templates of a new plugin are filled with."""
    family = name.replace("-", "_")
    major, minor, *_ = __version__.split(".")  # before 1.0 a minor version may change what plugins use
    bound = f"{major}.{int(minor) + 1}" if major == "0" else f"{int(major) + 1}"
    dependencies = [f"zoo-core>={major}.{minor},<{bound}", *([library] if library else [])]
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
    """The templates of a new plugin, each with its place in the distribution."""
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.is_dir():
            yield from _templates(entry, place / entry.name)
        elif entry.name.endswith(_SUFFIX):
            yield entry, place / entry.name.removesuffix(_SUFFIX)


_SIZES = re.compile(r"[1-9]\d*(x[1-9]\d*)+")


@click.group()
def plugin() -> None:
    """Write a plugin of your own: begin it, make the files that it ships, and read the guide."""


@plugin.command()
@click.argument("name")
@click.option("--library", default="", metavar="DIST", help="The distribution that the models come from.")
@click.option("--models", default="", metavar="PKG:CLASS(ARGS),...", help="What builds its models.")
@click.option("--input-size", default="3x224x224", help="Of the models: channels, height and width.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the new folder goes; here by default.",
)
def new(name: str, library: str, models: str, input_size: str, directory: Path | None) -> None:
    r"""Write a plugin that works: a distribution, zoo-NAME, whose family is called NAME.

    With --models it holds those of a library that is installed here, whose anatomy is traced; without, a toy model to
    replace. It passes the conformance kit, ruff and mypy as it is.

    \b
    zoo plugin new acme --library acme-models --models "acme.models:Net(dim=8)"
    """
    if not _SIZES.fullmatch(input_size):
        raise click.UsageError(f"--input-size {input_size}: sizes such as 3x224x224")
    cards = traced_cards(name, models, tuple(map(int, input_size.split("x")))) if models else []
    folder = write_plugin(name, library=library, directory=directory or Path(), cards=cards)
    models_of = f"{len(cards)} model{'' if len(cards) == 1 else 's'} of {library or 'your library'}"
    what = models_of if cards else "a toy model"
    echo(f"{folder} is a working plugin with {what}. Next:")
    install = with_uv_for_pip(f"pip install -e {folder} pytest")
    echo(f"  {install} && {'uv run ' if install.startswith('uv') else ''}pytest {folder}")
    if cards:
        echo("  then add weights to the cards, as README.md says")
    else:
        echo("  then make catalog.py and anatomy.py those of your library, as README.md says")


@plugin.command()
@click.argument("family")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def signatures(family: str, file: Path) -> None:
    """Write to FILE, for your plugin to ship, what state dicts of FAMILY's models look like, for `zoo inspect`.

    Ship it in your package and name it in Family.signatures. A model that cannot be built here is left out.
    """
    from zoo_core.weights.checkpoint.signatures import write_signatures

    _write_measured(family, file, _signature_of, lambda made: write_signatures(made.values()))


def _signature_of(card: Card) -> Signature:
    """For ``zoo plugin signatures``, the signature of a model as its default weights have it."""
    from zoo_core.build.construct import as_published
    from zoo_core.surgery.metadata import anatomy_of
    from zoo_core.weights.checkpoint.signatures import sign

    model = as_published(card)
    anatomy = anatomy_of(model)
    apart = {*(site.path for site in anatomy.heads), *(f"{path}.weight" for path in anatomy.stem)}
    apart |= {anatomy.keypoints} if anatomy.keypoints else set()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items() if hasattr(value, "shape")}
    return sign(card.id, shapes, apart)


@plugin.command()
@click.argument("family")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def costs(family: str, file: Path) -> None:
    r"""Write to FILE, for your plugin to ship, what an image costs FAMILY's models in multiply-adds and activations.

    Ship it in your package and name it in Family.costs. A model that does not run without values is left out.

    \b
    zoo plugin costs acme zoo_acme/costs.json
    """
    from zoo_core.build.costs import cost_of
    from zoo_core.contract.cost_files import write_costs

    _write_measured(family, file, cost_of, lambda made: write_costs(made).encode())


@plugin.command()
@click.argument("family")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def parts(family: str, file: Path) -> None:
    r"""Write to FILE, for a plugin, the heads and stages of all models of FAMILY, read from models without values.

    Ship it in your package and name it in Family.parts.

    \b
    zoo plugin parts acme zoo_acme/parts.json
    """
    from zoo_core.build.costs import parts_of
    from zoo_core.contract.cost_files import write_parts

    _write_measured(family, file, parts_of, lambda made: write_parts(made).encode())


def _write_measured(
    family: str, file: Path, measure: Callable[[Card], Any], write: Callable[[dict[str, Any]], bytes]
) -> None:
    """Write to a file for a plugin to ship what is measured of each model of its family, those that fail left out."""
    made = {}
    for card in current_zoo().member(family).cards.values():
        try:
            made[card.name] = measure(card)
        except ZooError as error:
            echo(f"left out: {card.id}: {error.summary}", err=True)
    file.write_bytes(write(made))
    echo(f"{file}: {len(made)} models, {file.stat().st_size} bytes")


@plugin.command()
def guide() -> None:
    r"""Print the guide for authors of plugins, which is Markdown.

    \b
    zoo plugin guide | less
    """
    places = (Path(__file__).parents[2], Path(sysconfig.get_path("data"), "share", "doc", "zoo-core"))
    pages = (places[0] / "docs" / "plugins.md", places[1] / "plugins.md")
    page = next((each for each in pages if each.is_file()), None)
    if page is None:
        raise UsageError(
            "the guide is not installed here",
            cause="this package of zoo-core lacks share/doc/zoo-core",
            hint="docs/plugins.md in the source distribution of zoo-core is the same: pip download --no-deps "
            "--no-binary :all: zoo-core",
        )
    echo(page.read_text(encoding="utf-8"))

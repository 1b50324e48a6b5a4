"""``zoo doctor``: what is installed here, where weights go, what is wrong, and what to do about it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import click

from zoo_core import settings
from zoo_core.cli.console import echo, paragraph
from zoo_core.cli.plugins import facts_of
from zoo_core.errors import ZooError
from zoo_core.registry.lookup_errors import INSTALL_A_FAMILY
from zoo_core.registry.plugins import version_of
from zoo_core.registry.zoo import current_zoo
from zoo_core.text import close_matches, did_you_mean, human, with_uv_for_pip
from zoo_core.utils.paths import is_file, is_folder, is_there
from zoo_core.weights import Cache
from zoo_core.weights.transport.urls import shown

_LITTLE = 2 << 30
"""Bytes free below which the next large model may not fit."""
_NEXT = "put that right, and zoo config shows all settings"
_OWN_EXTRAS = ("demo", "efficientnet-pytorch", "pretrainedmodels", "timm", "torchvision")
"""Extras that only name plugins, which have lines of their own."""


@dataclass(frozen=True)
class Finding:
    """One thing that ``zoo doctor`` looked at: its state, and the problem and remedy where it is wrong.

    Attributes:
        part: ``"python"``, ``"families"``, ``"extras"``, ``"cache"`` or ``"settings"``.
        name: What it is.
        state: How it is.
        problem: What is wrong with it; empty where nothing is.
        remedy: What to do about that.
    """

    part: str
    name: str
    state: str
    problem: str = ""
    remedy: str = ""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(*, as_json: bool) -> None:
    r"""Say what is installed, which device there is, where the cache is, what is wrong, and what to do.

    The exit code is 1 where something is wrong. An extra that is not installed is nothing wrong.

    \b
    zoo doctor
    zoo doctor --json > report.json
    """
    parts = {"python": _python, "families": _families, "extras": _extras, "cache": _cache, "settings": _settings}
    result = [each for name, part in parts.items() for each in _findings_of(name, part())]
    wrong = [*{each.problem: each for each in reversed(result) if each.problem}.values()][::-1]  # each cause once
    if as_json:
        echo(json.dumps([asdict(each) for each in result], indent=2))
    else:
        _print(result, wrong)
    if wrong:
        raise SystemExit(1)


def _findings_of(name: str, part: Iterator[Finding]) -> Iterator[Finding]:
    """Findings of ``zoo doctor`` on a part; what keeps it from looking, such as a broken zoo.toml, is a finding too."""
    try:
        yield from part
    except ZooError as error:
        yield Finding(name, name, "cannot be looked at", error.summary, error.parts["hint"] or _NEXT)


def _print(found: list[Finding], wrong: list[Finding]) -> None:
    """Print what ``zoo doctor`` found, what is wrong, and the next steps."""
    part = ""
    for each in found:
        if each.part != part:
            part = each.part
            echo(part)
        paragraph(f"  {each.name:<21} {each.state}", indent=24)
    echo("")
    for each in wrong:
        paragraph(f"wrong: {each.name}: {each.problem}")
        if each.remedy:
            paragraph(f"  next step: {with_uv_for_pip(each.remedy)}")
    if not wrong:
        echo("nothing is wrong")


def _python() -> Iterator[Finding]:
    """What ``zoo doctor`` finds of Python, zoo-core, torch and torchvision."""
    yield Finding("python", "python", f"{platform.python_version()} at {sys.executable}")
    yield Finding("python", "zoo-core", version("zoo-core"))
    yield Finding("python", "pip", version_of("pip") or "not here, so uv installs")
    for name, remedy in (("torch", "pip install torch"), ("torchvision", "pip install torchvision")):
        try:
            module = import_module(name)
        except Exception as error:  # noqa: BLE001 - an extension of another version raises what it likes
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            yield Finding("python", name, "does not import", reason, f"{remedy}, of versions that belong together")
            continue
        yield Finding("python", name, f"{module.__version__}{_device() if name == 'torch' else ''}")


def _device() -> str:
    """What torch runs on here, as ``zoo doctor`` says it."""
    import torch

    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        return f", {torch.cuda.device_count()} x {', '.join(sorted(names))}"
    if torch.backends.mps.is_available():
        return ", mps"
    return f", cpu, {torch.get_num_threads()} threads"


def _families() -> Iterator[Finding]:
    """What ``zoo doctor`` finds of each plugin and its families."""
    registry = current_zoo()
    for plugin in registry.plugins:
        facts = facts_of(registry, plugin)
        problems = "; ".join(facts["problems"])
        state = ", ".join(_family(name) for name in facts["families"]) or "no models of its own"
        state += "".join(f"; note: {note}" for note in facts["notes"])
        yield Finding("families", plugin.name, state, problems, "zoo plugins --verbose shows more" if problems else "")
    if registry.plugins:
        return
    if settings.plugins() or settings.disabled_plugins():
        yield Finding("families", "none", "", "ZOO_PLUGINS or ZOO_DISABLE leaves every plugin out", _NEXT)
    else:
        yield Finding("families", "none", "", "no plugin is installed", INSTALL_A_FAMILY)


def _family(name: str) -> str:
    """The library of a family and the number of its models, as ``zoo doctor`` says it."""
    members = current_zoo().claims.get(name, ())
    if not members:
        return name
    library = members[0].family.requires
    try:
        installed = f"{library} {version(library)}" if library else "its own models"
    except PackageNotFoundError:
        return f"{library} is not installed"
    try:
        count = len(members[0].cards)
    except ZooError:
        return installed
    return f"{installed}, {count} model{'' if count == 1 else 's'}"


def _extras() -> Iterator[Finding]:
    """What ``zoo doctor`` finds of each extra of zoo-core: which of its distributions are not here."""
    from packaging.requirements import Requirement

    missing: dict[str, list[str]] = {}
    for line in requires("zoo-core") or ():
        requirement = Requirement(line)
        extra = str(requirement.marker).partition("extra == ")[2].strip("\"'")
        if not extra or extra in _OWN_EXTRAS:
            continue
        missing.setdefault(extra, [])
        try:
            version(requirement.name)
        except PackageNotFoundError:
            missing[extra].append(requirement.name)
    for extra, names in missing.items():
        lacks = f"without {', '.join(names)}: pip install 'zoo-core[{extra}]'" if names else "installed"
        yield Finding("extras", extra, with_uv_for_pip(lacks))
    yield Finding("extras", "dot (Graphviz)", shutil.which("dot") or "not here: zoo draw --full needs it")


def _cache() -> Iterator[Finding]:
    """What ``zoo doctor`` finds of the cache: its place, its size, and the room on the disk."""
    try:
        folder = Cache().root
    except ZooError as error:
        yield Finding("cache", "place", "none", error.summary, "set ZOO_CACHE to a folder that can be written")
        return
    there = next(each for each in (folder, *folder.parents) if is_there(each))
    try:
        with TemporaryFile(dir=there):
            problem = ""
    except OSError as error:
        problem = f"{there} cannot be written: {error.strerror}"
    yield Finding("cache", "place", str(folder), problem, "set ZOO_CACHE to a folder of yours" if problem else "")
    sizes = [path.stat().st_size for path in _files(folder)]
    yield Finding("cache", "size", f"{len(sizes)} files, {human(sum(sizes))}")
    free = shutil.disk_usage(there).free
    problem = "little room is left on this disk" if free < _LITTLE else ""
    yield Finding("cache", "free", human(free), problem, "zoo cache prune, or ZOO_CACHE elsewhere" if problem else "")


def _files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (path for name in names if is_file(path := Path(place, name)) and not path.is_symlink())


def _settings() -> Iterator[Finding]:
    """What ``zoo doctor`` finds of settings, and of variables that look like settings and are none."""
    for setting in settings.SETTINGS:
        try:
            result = settings.find(setting)
        except ZooError as error:
            yield Finding("settings", setting.key, "malformed", error.summary, _NEXT)
            continue
        if result is not None:
            value = "yes" if result[0] is True else "no" if result[0] is False else "set"
            problem = _what_is_not_here(setting.key, result[0])
            remedy = f"correct {setting.key} in {result[1]}" if problem else ""
            yield Finding("settings", setting.key, f"{value} ({setting.meaning}), by {result[1]}", problem, remedy)
    known = [setting.variable for setting in settings.SETTINGS] + ["ZOO_CONFIG", "ZOO_SHARD"]
    for name in sorted(os.environ):
        if name.startswith("ZOO_") and name not in known and not name.startswith("ZOO_TEST"):
            hint = did_you_mean(close_matches(name, known), "zoo config lists them; unset this one")
            yield Finding("settings", name, "unknown", "no setting is called so, and nothing reads it", hint)


def _what_is_not_here(key: str, value: Any) -> str:
    """What is wrong with a value of the right form, as ``zoo doctor`` says it: it names what is not here."""
    known = {*current_zoo().claims, *(plugin.name for plugin in current_zoo().plugins)}
    if key == "families" and (absent := [name for name in value if name not in known]):
        return f"no such family: {', '.join(absent)}"
    if key == "cache_shared" and not is_folder(Path(value)):
        return f"no such folder: {value}"
    if key == "mirror" and (absent := [shown(url) for url in value if "://" not in url]):
        return f"no url: {', '.join(absent)}"
    return ""

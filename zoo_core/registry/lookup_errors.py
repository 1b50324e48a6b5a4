"""What to say of a family, a model or a task that is not there: what there is, why it may be missing, what to do."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from zoo_core import settings
from zoo_core.errors import UnknownFamily, UnknownModel, UsageError
from zoo_core.text import close_matches, did_you_mean
from zoo_core.utils.paths import is_written_as_path

if TYPE_CHECKING:
    from zoo_core.registry.plugins import Plugin


INSTALL_A_FAMILY = "pip install ./plugins/zoo-torchvision, for one, in a checkout of zoo"
"""What to do where no family is installed."""


def unknown_family(family: str, known: Collection[str], plugins: Iterable[Plugin]) -> UnknownFamily:
    """The error of a lookup of ``family``, which no plugin contributes; ``known`` are those that there are."""
    matches = close_matches(family, known)
    registered = "zoo plugins lists those installed; a model of your own needs its zoo.register first"
    return UnknownFamily(
        f"no such family: {family!r}",
        expected=f"one of {', '.join(known)}" if known else None,
        cause=_lookup_cause(plugins),
        hint=did_you_mean(matches, registered if known else f"{INSTALL_A_FAMILY}; {registered}"),
        family=family,
        matches=matches,
    )


def name_of_folder(name: str) -> UnknownFamily:
    """The error of a lookup of ``name``, which is a path, or would be one of a folder with ``./`` before it."""
    path = name if is_written_as_path(name) else f"./{name}"
    return UnknownFamily(
        f"not a model of a family: {name!r}",
        expected="'name', 'family/name' or 'family/name@tag'",
        cause="it is a path" if path == name else "it is a folder, which is written with ./ before it",
        hint=f"zoo.load({path!r}) loads a saved folder, and zoo info {path} shows what is in it",
        family=name.rpartition("/")[0],
        matches=(),
    )


def name_of_timm(name: str, repository: str, listed: Collection[str]) -> UnknownFamily:
    """The error of a lookup by the name that timm gives a hub ``repository``; ``listed`` have its weights."""
    save = f"hf://{repository} is the name of a save that zoo.push shared there"
    file = 'zoo.get("timm/NAME", weights="model.safetensors") takes the file of a repository for timm, once it is here'
    return UnknownFamily(
        f"no such family: {name.rpartition('/')[0]!r}",
        expected="hf://owner/name for a save on the hub, family/name@tag for a model of a family",
        cause=f"{name} is how timm names a repository on the hub",
        hint=f"{' or '.join(listed)} has the weights of that repository" if listed else f"{save}; {file}",
        family=name.rpartition("/")[0],
        matches=tuple(listed),
    )


def unknown_model(
    name: str, known: Collection[str], searched: Iterable[str], plugins: Iterable[Plugin]
) -> UnknownModel:
    """The error of a lookup of ``name``, which no family in ``searched`` has; ``known`` are the models there are."""
    matches = close_matches(name, known)
    otherwise = "zoo list names every model there is" if known else INSTALL_A_FAMILY
    return UnknownModel(
        f"no such model: {name!r}",
        got=f"looked in {', '.join(searched) or 'no family at all'}",
        cause=_lookup_cause(plugins),
        hint=did_you_mean(matches, otherwise),
        name=name,
        matches=matches,
    )


def unknown_task(task: str, known: Collection[str]) -> UsageError:
    """The error of a lookup of ``task``, which no model has; ``known`` are the tasks that there are."""
    return UsageError(
        f"no model has the task {task!r}",
        expected=f"one of {', '.join(known)}",
        hint=did_you_mean(close_matches(task, known), "leave it out to list every model"),
        task=task,
    )


def unknown_license(license: str, known: Collection[str]) -> UsageError:  # noqa: A002 - the field's word for it
    """The error of a lookup of ``license``, which no weights have; ``known`` are the licences that there are."""
    return UsageError(
        f"no weights have the licence {license!r}",
        expected=f"one of {', '.join(known)}",
        hint=did_you_mean(close_matches(license, known), "leave it out to list every model"),
        license=license,
    )


def _lookup_cause(plugins: Iterable[Plugin]) -> str | None:
    """Cause of a failed lookup: plugins that failed, or that were never loaded."""
    plugins = tuple(plugins)
    broken = [plugin.name for plugin in plugins if plugin.problem]
    if broken:
        return f"these plugins did not load: {', '.join(broken)}; zoo plugins says why"
    if plugins:
        return None
    chosen = {"ZOO_PLUGINS": settings.plugins(), "ZOO_DISABLE": settings.disabled_plugins()}
    said = " and ".join(f"{variable}={','.join(names)}" for variable, names in chosen.items() if names)
    return f"no plugin is loaded, because of {said}" if said else "no plugin is installed"

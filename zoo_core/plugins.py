"""Finding and loading plugins, one by one, so that none can stop another.

pluggy's own loader ends at the first plugin that raises and drops a second plugin of the same name without a word. Here
the entry points are taken in sorted order, each in a ``try`` of its own, and what goes wrong is kept as data.
"""

from __future__ import annotations

import time
import traceback
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pluggy

from zoo_core import hooks, settings
from zoo_core.card import Family
from zoo_core.errors import DuplicatePlugin, PluginError, ZooWarning, close_matches, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from importlib.metadata import EntryPoint

SLOW = 1.0
"""Seconds that loading a plugin may take before it is called slow."""


@dataclass
class Plugin:
    """One plugin, loaded or not.

    Attributes:
        name: Name of its entry point.
        source: The entry point it came from, or a word for it.
        families: What it contributes.
        commands: Command name to ``"package.module:command"``.
        problem: Why it does not work, on one line; None when it does.
        traceback: The traceback behind the problem.
        notes: What is odd about it without stopping it, such as a hook name that zoo does not know.
        seconds: How long loading it took.
    """

    name: str
    source: EntryPoint | str
    families: tuple[Family, ...] = ()
    commands: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None
    traceback: str | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def origin(self) -> str:
        """Distribution and version it came from, such as ``"zoo-torchvision 0.1.0"``; reading it opens a file."""
        if isinstance(self.source, str):
            return self.source
        return f"{self.source.dist.name} {self.source.dist.version}" if self.source.dist else self.source.value


def load_plugins(entry_points: Iterable[EntryPoint] | None = None) -> tuple[Plugin, ...]:
    """Load every installed plugin, or those given, in the order of their names.

    Args:
        entry_points: What to load; None means the installed group ``zoo_core``, filtered by ``ZOO_PLUGINS`` and
            ``ZOO_DISABLE``.

    Returns:
        One record a plugin. A plugin that raises is there too, with its problem and traceback.
    """
    if entry_points is None:
        entry_points = _installed()
    found = sorted(entry_points, key=lambda entry: (entry.name, entry.value))
    rivals = {entry.name: [rival for rival in found if rival.name == entry.name] for entry in found}
    return tuple(load_plugin(entry.name, entry.load, entry, rivals=rivals[entry.name]) for entry in found)


def _installed() -> list[EntryPoint]:
    from importlib.metadata import entry_points

    only, without = settings.plugins(), settings.disabled_plugins()
    group = entry_points(group=hooks.PROJECT)
    warn_of_unknown("ZOO_PLUGINS", only, group.names)
    warn_of_unknown("ZOO_DISABLE", without, group.names)
    return [entry for entry in group if (not only or entry.name in only) and entry.name not in without]


def warn_of_unknown(variable: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Warn of the names in an environment variable that mean nothing here, with those that may have been meant."""
    known = sorted(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        matches = tuple(dict.fromkeys(match for name in unknown for match in close_matches(name, known)))
        meant = did_you_mean(matches, f"there are {', '.join(known) or 'none'}")
        warnings.warn(f"{variable} names what is not there: {', '.join(unknown)}; {meant}", ZooWarning, stacklevel=3)


def load_plugin(
    name: str, load: Callable[[], Any], source: EntryPoint | str, rivals: Iterable[EntryPoint] = ()
) -> Plugin:
    """Load one plugin and ask it what it contributes; a failure is recorded, not raised.

    Args:
        name: What to call it.
        load: Returns the module, or any object, that has the hook implementations.
        source: Where it comes from, for messages.
        rivals: The entry points of that name; more than one makes all of them fail.

    Example:
        >>> class Acme:
        ...     @staticmethod
        ...     @hooks.hookimpl
        ...     def zoo_families():
        ...         return [Family(name="acme", catalog="acme:cards", anatomy="acme:anatomy")]
        >>> load_plugin("acme", lambda: Acme, "acme 1.0").families[0].name
        'acme'
    """
    plugin = Plugin(name, source)
    started = time.perf_counter()
    try:
        _refuse_rivals(name, list(rivals))
        _fill(plugin, load())
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin's own code: whatever it raises is its failure
        first_line = str(error).partition("\n")[0]
        plugin.problem = first_line if isinstance(error, PluginError) else f"{type(error).__name__}: {first_line}"
        if remedy := _remedy(error, source):
            plugin.problem = f"{plugin.problem}; {remedy}"
        plugin.traceback = traceback.format_exc()
        plugin.families, plugin.commands = (), {}
    plugin.seconds = time.perf_counter() - started
    if plugin.seconds > SLOW:
        plugin.notes = (*plugin.notes, f"slow: it took {plugin.seconds:.1f} s to load; import heavy things later")
    return plugin


def _remedy(error: BaseException, source: EntryPoint | str) -> str | None:
    """What to install when a library is missing; a plugin whose own modules are missing needs another remedy."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    missing = error.name.partition(".")[0]
    own = "" if isinstance(source, str) else source.module.partition(".")[0]
    return None if missing == own else f"pip install {missing}"


def _refuse_rivals(name: str, rivals: list[EntryPoint]) -> None:
    if len(rivals) > 1:
        origins = tuple(Plugin(name, rival).origin for rival in rivals)
        raise DuplicatePlugin(
            f"two plugins are called {name!r}: {' and '.join(origins)}",
            hint="uninstall one of them",
            name=name,
            claimants=origins,
        )


def _fill(plugin: Plugin, module: Any) -> None:  # noqa: ANN401 - a module or any object with hooks
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    manager.register(module, plugin.name)
    plugin.notes = tuple(_unknown_hooks(manager))
    for answer in manager.hook.zoo_families():
        plugin.families = (*plugin.families, *_checked_families(answer))
    for answer in manager.hook.zoo_commands():
        plugin.commands = {**plugin.commands, **_checked_commands(answer)}


def _unknown_hooks(manager: pluggy.PluginManager) -> Iterable[str]:
    known = [name for name in vars(hooks) if name.startswith("zoo_")]
    for caller in vars(manager.hook).values():
        if isinstance(caller, pluggy.HookCaller) and caller.name not in known:
            meant = did_you_mean(close_matches(caller.name, known), f"the hooks are {', '.join(known)}")
            yield f"unknown hook {caller.name!r}: {meant}"


def _checked_families(answer: object) -> tuple[Family, ...]:
    families = tuple(answer) if isinstance(answer, list | tuple) else (answer,)
    for family in families:
        if not isinstance(family, Family):
            raise PluginError(f"zoo_families must return a list of Family, got {family!r}")
    names = [family.name for family in families]
    if len(set(names)) != len(names):
        raise PluginError(f"zoo_families returned one family twice: {', '.join(names)}")
    return families


def _checked_commands(answer: object) -> Mapping[str, str]:
    if not isinstance(answer, dict) or not all(isinstance(text, str) for item in answer.items() for text in item):
        raise PluginError(f"zoo_commands must return a dict of name to 'package.module:command', got {answer!r}")
    return answer

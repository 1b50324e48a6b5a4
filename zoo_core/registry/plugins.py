"""Finding plugins by their entry points, and loading them one by one, so that none can stop another.

pluggy's own loader ends at the first plugin that raises and drops a second plugin of the same name without a word. Here
the entry points are taken in sorted order, each in a ``try`` of its own, and what goes wrong is kept as data.

What is installed is found by looking into the folders of ``sys.path``. ``importlib.metadata`` does this too, and its
import alone takes twice as long as the start of python. A look into each folder and each file of entry points is so
quick that nothing needs to be kept from one process to the next, and what is never kept is never out of date. Where
distributions are found in another way, in zip files or through an import hook, ``importlib.metadata`` is used.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from pkgutil import resolve_name
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from zoo_core import settings
from zoo_core.contract import hooks
from zoo_core.contract.family import Family
from zoo_core.errors import DuplicatePlugin, PluginError, ZooWarning
from zoo_core.text import close_matches, did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint


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
        has_engine: Whether ``zoo.embed(..., engine=name)`` can run on it.
        problem: Why it does not work and what to do, on one line; None when it does.
        traceback: The traceback of the problem.
        notes: What is odd about it without stopping it, such as a hook name that zoo does not know.
        seconds: How long loading it took.
    """

    name: str
    source: EntryPoint | PluginEntry | str
    families: tuple[Family, ...] = ()
    commands: Mapping[str, str] = field(default_factory=dict)
    has_engine: bool = False
    problem: str | None = None
    traceback: str | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def origin(self) -> str:
        """Distribution and version it came from, such as ``"zoo-torchvision 0.1.0"``; reading it opens a file."""
        if isinstance(self.source, str):
            return self.source
        try:
            name, version = self.source.dist.name, self.source.dist.version  # type: ignore[union-attr]  # or None
        except (AttributeError, KeyError, TypeError, ValueError, OSError):  # no metadata, or a broken file of it
            name = None
        return f"{name} {version}" if name else self.source.value


def load_plugins(entry_points: Iterable[EntryPoint | PluginEntry] | None = None) -> tuple[Plugin, ...]:
    """Load every installed plugin, or those given, in the order of their names.

    Args:
        entry_points: What to load; None means the installed group ``zoo_core``, filtered by ``ZOO_PLUGINS`` and
            ``ZOO_DISABLE``.

    Returns:
        One record a plugin. A plugin that raises is there too, with its problem and traceback.
    """
    if entry_points is None:
        entry_points = _entries_to_load()
    result = sorted(entry_points, key=lambda entry: (entry.name, entry.value))
    rivals = {entry.name: [rival for rival in result if rival.name == entry.name] for entry in result}
    return tuple(load_plugin(entry.name, entry.load, entry, rivals=rivals[entry.name]) for entry in result)


def _entries_to_load() -> list[EntryPoint | PluginEntry]:
    """The plugins to find and load: all entry points that are installed and that the settings do not leave out."""
    only, without = settings.plugins(), settings.disabled_plugins()
    result = plugin_entries()
    names = {entry.name for entry in result}
    warn_of_unknown("ZOO_PLUGINS", only, names)
    warn_of_unknown("ZOO_DISABLE", without, names)
    return [entry for entry in result if (not only or entry.name in only) and entry.name not in without]


def warn_of_unknown(variable: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Warn of names in an environment variable that no plugin or family has, with those that may have been meant."""
    known = sorted(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        matches = tuple(dict.fromkeys(match for name in unknown for match in close_matches(name, known)))
        meant = did_you_mean(matches, f"there are {', '.join(known) or 'none'}")
        warnings.warn(f"{variable} names what is not there: {', '.join(unknown)}; {meant}", ZooWarning, stacklevel=3)


def load_plugin(
    name: str,
    load: Callable[[], Any],
    source: EntryPoint | PluginEntry | str,
    rivals: Iterable[EntryPoint | PluginEntry] = (),
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
        reason = first_line if isinstance(error, PluginError) else f"{type(error).__name__}: {first_line}"
        plugin.problem = f"{reason}; {_load_remedy(error, plugin)}"
        from traceback import format_exc

        plugin.traceback = format_exc()
        plugin.families, plugin.commands = (), {}
    plugin.seconds = time.perf_counter() - started
    if plugin.seconds > SLOW:
        plugin.notes = (*plugin.notes, f"slow: it took {plugin.seconds:.1f} s to load; import heavy things later")
    return plugin


def _load_remedy(error: BaseException, plugin: Plugin) -> str:
    """What to do about a plugin that does not load: uninstall a rival, install a library, go without it and report."""
    if isinstance(error, DuplicatePlugin):
        return "uninstall one of them"
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    own = "" if isinstance(plugin.source, str) else plugin.source.module.partition(".")[0]
    if missing and missing != own:  # a plugin whose own modules are missing needs another remedy
        return f"pip install {missing}"
    return go_without(plugin)


def go_without(plugin: Plugin) -> str:
    """What to do about a plugin that loads but is wrong in itself: report it, and go on without it.

    Example:
        >>> go_without(Plugin("acme", "zoo-acme 1.0"))
        'report it to the authors of zoo-acme 1.0; ZOO_DISABLE=acme does without it'
    """
    return f"report it to the authors of {plugin.origin}; ZOO_DISABLE={plugin.name} does without it"


def _refuse_rivals(name: str, rivals: list[EntryPoint | PluginEntry]) -> None:
    """Refuse to load plugins of which two have the same name: DuplicatePlugin."""
    if len(rivals) > 1:
        origins = tuple(Plugin(name, rival).origin for rival in rivals)
        raise DuplicatePlugin(
            f"two plugins are called {name!r}: {' and '.join(origins)}",
            hint="uninstall one of them",
            name=name,
            claimants=origins,
        )


def _fill(plugin: Plugin, module: Any) -> None:
    """Put the families and commands that a plugin contributes into its record, once they are checked."""
    plugin.has_engine = callable(getattr(module, "embed_engine", None))
    answers = _plain_hook_answers(module)
    if answers is None:
        answers, plugin.notes = _hook_answers(plugin.name, module)
    for answer in answers["zoo_families"]:
        plugin.families = (*plugin.families, *_checked_families(answer))
    for answer in answers["zoo_commands"]:
        if not isinstance(answer, dict) or not all(isinstance(text, str) for item in answer.items() for text in item):
            raise PluginError(f"zoo_commands must return a dict of name to 'package.module:command', got {answer!r}")
        plugin.commands = {**plugin.commands, **answer}


def _plain_hook_answers(module: object) -> dict[str, list[object]] | None:
    """Answers of a loaded plugin whose hooks are functions without arguments and options; None for any other one.

    That is all that most plugins are. pluggy would call the same functions, but its import takes as long as the start
    of python.
    """
    if not isinstance(module, ModuleType):
        return None
    answers: dict[str, list[object]] = {hook.__name__: [] for hook in hooks.HOOKS}
    marked = {name: item for name, item in vars(module).items() if getattr(item, hooks.MARK, None) is not None}
    for name, item in marked.items():
        code = getattr(item, "__code__", None)
        takes_nothing = isinstance(item, FunctionType) and code and not code.co_argcount + code.co_kwonlyargcount
        if not takes_nothing or getattr(item, hooks.MARK) != hooks.PLAIN or name not in answers:
            return None
    for name, item in marked.items():
        answers[name] += [answer for answer in [item()] if answer is not None]
    return answers


def _hook_answers(name: str, plugin: object) -> tuple[dict[str, list[object]], tuple[str, ...]]:
    """What a plugin that is being loaded answers to each hook, and what is odd about it."""
    import pluggy

    manager = pluggy.PluginManager(hooks.PROJECT)
    specified = pluggy.HookspecMarker(hooks.PROJECT)
    for hook in hooks.HOOKS:
        specified(hook)
    manager.add_hookspecs(hooks)
    manager.register(plugin, name)
    known = [hook.__name__ for hook in hooks.HOOKS]
    callers = [caller.name for caller in vars(manager.hook).values() if isinstance(caller, pluggy.HookCaller)]
    notes = []
    for unknown in (caller for caller in callers if caller not in known):
        meant = did_you_mean(close_matches(unknown, known), f"the hooks are {', '.join(known)}")
        notes.append(f"unknown hook {unknown!r}: {meant}")
    return {hook: getattr(manager.hook, hook)() for hook in known}, tuple(notes)


def _checked_families(answer: object) -> tuple[Family, ...]:
    """The families that a plugin contributes; PluginError where one is none, or cannot be called so."""
    families = tuple(answer) if isinstance(answer, list | tuple) else (answer,)
    for family in families:
        if not isinstance(family, Family):
            raise PluginError(f"zoo_families must return a list of Family, got {family!r}")
        for part, value in vars(family).items():
            if part == "anatomy" and value is None:
                continue
            is_names = part == "plain_options" and isinstance(value, tuple)
            if not all(isinstance(each, str) for each in (value if is_names else (value,))):
                raise PluginError(f"zoo_families returned a Family whose {part} is {value!r:.60}, which is no text")
        if not family.name.strip() or set("/@*?[ ") & set(family.name):
            raise PluginError(f"no family can be called {family.name!r}: no '/', '@', space or wildcard")
    names = [family.name for family in families]
    if len(set(names)) != len(names):
        raise PluginError(f"zoo_families returned one family twice: {', '.join(names)}")
    return families


GROUP = "zoo_core"
_SUFFIXES = (".dist-info", ".egg-info")


@dataclass(frozen=True)
class PluginEntry:
    """An entry point of a plugin, as ``importlib.metadata.EntryPoint``, whose names it uses.

    Attributes:
        name: What the plugin is called.
        value: ``"package.module"`` or ``"package.module:attribute"``.
        folder: The metadata of the distribution that it is from.
    """

    name: str
    value: str
    folder: str

    @property
    def module(self) -> str:
        """The module of ``value``."""
        return self.value.partition(":")[0]

    @property
    def dist(self) -> Distribution:
        """The distribution, read now."""
        from importlib.metadata import Distribution

        return Distribution.at(Path(self.folder))

    def load(self) -> Any:
        """Import what it names."""
        return resolve_name(self.value)


def plugin_entries() -> tuple[Any, ...]:
    """The entry points in the group ``zoo_core``; of two distributions of one name the first on ``sys.path`` counts."""
    if not _can_read_folders():
        from importlib.metadata import entry_points

        return tuple(entry_points(group=GROUP))
    _folders.cache_clear()
    return tuple(entry for folder in _folders(tuple(sys.path)).values() for entry in _entries(folder))


def is_installed(distribution: str) -> bool:
    """Whether a distribution, such as the library of a family, is installed where plugins are; spelt in any way.

    Example:
        >>> is_installed("Torch"), is_installed("a-missing-library")
        (True, False)
    """
    return version_of(distribution) is not None


def version_of(distribution: str) -> str | None:
    """The version of a distribution that is installed where plugins are, spelt in any way; None when it is not.

    Example:
        >>> version_of("Torch").count(".") >= 2, version_of("a-missing-library")
        (True, None)
    """
    folder = _folders(tuple(sys.path)).get(_normalized(distribution), "")
    version = os.path.basename(folder).removesuffix(".dist-info").partition("-")[2]  # noqa: PTH119 - as below
    if version and folder.endswith(".dist-info"):
        return version
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as read

    try:
        return read(distribution)
    except PackageNotFoundError:
        return None


def _can_read_folders() -> bool:
    """Whether plugins can be found in folders: all distributions lie in some, as pip and uv put them."""
    if any(path and os.path.isfile(path) for path in sys.path):  # noqa: PTH113 - the folders of sys.path are texts
        return False
    finders = (finder for finder in sys.meta_path if hasattr(finder, "find_distributions"))
    return all(getattr(finder, "__module__", "").startswith("_frozen_importlib") for finder in finders)


@lru_cache(maxsize=1)
def _folders(paths: tuple[str, ...]) -> dict[str, str]:
    """The metadata folder of each distribution, where a plugin has its entry points, by its name as it is compared."""
    result: dict[str, str] = {}
    for path in paths:
        for name in _names_in(path or "."):
            if name.endswith(_SUFFIXES):
                folder = os.path.join(path, name)  # noqa: PTH118 - the folders of sys.path are texts
                result.setdefault(_normalized(name.rpartition(".")[0].partition("-")[0]), folder)
    return result


def _names_in(path: str) -> Iterable[str]:
    """Names in a folder of ``sys.path`` where plugins may be installed; none where it cannot be read."""
    try:
        return sorted(os.listdir(path))  # noqa: PTH208 - as above
    except OSError:
        return ()


def _normalized(name: str) -> str:
    """Name of an installed plugin's distribution, normalized to compare it: runs of ``-``, ``_`` and ``.`` are one."""
    parts = name.lower().replace("_", "-").replace(".", "-").split("-")
    return "-".join(part for part in parts if part)


def _entries(folder: str) -> Iterator[PluginEntry]:
    """The entry points of plugins in the metadata folder of one distribution."""
    try:
        with open(os.path.join(folder, "entry_points.txt"), "rb") as file:  # noqa: PTH118, PTH123
            content = file.read()
    except OSError:
        return
    if GROUP.encode() not in content:
        return
    inside = False
    for line in content.decode("utf-8", "replace").splitlines():
        if line.startswith("["):
            inside = line.strip() == f"[{GROUP}]"
        elif inside:
            name, equals, value = line.partition("[")[0].partition("=")
            if equals and not name.lstrip().startswith(("#", ";")):
                yield PluginEntry(name.strip(), value.strip(), folder)

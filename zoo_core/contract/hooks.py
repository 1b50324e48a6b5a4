"""The hooks: what a plugin may implement. One page, and that is the whole contract.

A plugin is a module with functions marked ``@hookimpl``, named by one entry point in the group ``zoo_core``::

    [project.entry-points.zoo_core]
    acme = "zoo_acme"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from zoo_core.contract.family import Family

PROJECT = "zoo_core"
"""The name of the pluggy project and of the entry-point group."""

MARK = f"{PROJECT}_impl"
"""Where pluggy looks for the options of an implementation."""
PLAIN = {
    "hookwrapper": False,
    "optionalhook": False,
    "tryfirst": False,
    "trylast": False,
    "wrapper": False,
    "specname": None,
}
"""The options that ``pluggy.HookimplMarker`` writes when none is given: listing models need not import it."""
F = TypeVar("F", bound="Callable[..., object]")


def hookimpl(function: F) -> F:
    """Mark a function of a plugin as its answer to the hook of the same name.

    Args:
        function: Named like a hook on this page; it is returned as it is.

    Example:
        >>> from zoo_core.plugin import Family, hookimpl
        >>> @hookimpl
        ... def zoo_families():
        ...     return [Family("acme", catalog="zoo_acme:cards", anatomy="zoo_acme:anatomy")]
        >>> zoo_families()[0].name
        'acme'
    """
    setattr(function, MARK, dict(PLAIN))
    return function


def zoo_families() -> Sequence[Family]:
    """The hook for the model families that a plugin contributes.

    Called once, when the plugin is loaded, so it must be cheap: return the records and import nothing heavy. What is
    heavy is named by the ``"package.module:function"`` strings of :class:`zoo_core.Family`.

    Returns:
        A list of records. What is none, a family named twice, and anything that this raises cost this plugin its
        families and no other plugin's: ``zoo plugins -v`` shows why. Two plugins that name one family are both refused.

    Example:
        >>> from zoo_core.plugin import Family, hookimpl
        >>> @hookimpl
        ... def zoo_families():
        ...     return [Family("acme", catalog="zoo_acme:cards", anatomy="zoo_acme:anatomy", requires="acme-models")]
    """
    raise NotImplementedError


def zoo_commands() -> Mapping[str, Any]:
    """The hook for commands that a plugin adds to the ``zoo`` command line (experimental).

    Returns:
        Command name to ``"package.module:command"``, where the object there is a click command. It is imported only
        when the command is used. A name that zoo or another plugin has is a conflict, shown by ``zoo plugins``.

    Example:
        >>> from zoo_core.plugin import hookimpl
        >>> @hookimpl
        ... def zoo_commands():
        ...     return {"finetune": "zoo_finetune.cli:finetune"}
    """
    raise NotImplementedError


HOOKS = (zoo_families, zoo_commands)
"""All of them."""

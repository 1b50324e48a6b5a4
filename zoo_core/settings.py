"""What the environment says, read when it is asked for, so that a change takes effect at once.

=================  ==================================================================================================
``ZOO_CACHE``      the folder of the weights cache
``ZOO_OFFLINE``    ``1``: open no socket; what is not in the cache is an error
``ZOO_VERIFY``     ``always``: hash every file on every use; ``auto``, the default: when it may have changed
``ZOO_CONVERT``    ``0``: keep no copies, which can be mapped, of weights whose own files cannot
``ZOO_MIRROR``     base urls, with spaces between, that serve a file of digest ``d`` as ``<base>/<d>``; tried first
``ZOO_REWRITE``    ``from=to`` pairs of url prefixes, with spaces between: where to go instead
``ZOO_LICENSES``   the licences that are acceptable, with commas between
``ZOO_PROGRESS``   ``1`` or ``0``: always or never show a progress bar; without it, on a terminal only
``ZOO_LOCK``       the lock file to obey, or ``0`` for none; without it, a ``zoo.lock`` in this folder or a parent
``ZOO_FAMILIES``   the order in which families are searched for an unqualified name, with commas between
``ZOO_PLUGINS``    load these plugins only, with commas between
``ZOO_DISABLE``    do not load these plugins, with commas between
``HF_ENDPOINT``    what to use instead of ``https://huggingface.co``
=================  ==================================================================================================
"""

from __future__ import annotations

import os
from typing import Literal, cast

from zoo_core.errors import UsageError, close_matches, did_you_mean

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})


def cache_dir() -> str | None:
    """``ZOO_CACHE``: the folder of the weights cache, or None to look for one."""
    return os.environ.get("ZOO_CACHE") or None


def offline() -> bool:
    """``ZOO_OFFLINE``: whether no socket may be opened."""
    return _flag("ZOO_OFFLINE") or False


def verify() -> Literal["auto", "always"]:
    """``ZOO_VERIFY``: when a file in the cache is hashed again."""
    value = os.environ.get("ZOO_VERIFY", "").lower() or "auto"
    if value not in ("auto", "always"):
        hint = did_you_mean(close_matches(value, ["auto", "always"]), "unset it for 'auto'")
        raise UsageError(f"ZOO_VERIFY is {value!r}", expected="'auto' or 'always'", hint=hint)
    return cast('Literal["auto", "always"]', value)


def convert() -> bool:
    """``ZOO_CONVERT``: whether weights that cannot be mapped are kept a second time, as safetensors that can."""
    return _flag("ZOO_CONVERT") is not False


def mirrors() -> tuple[str, ...]:
    """``ZOO_MIRROR``: base urls that serve files by digest, without a slash at the end."""
    return tuple(url.rstrip("/") for url in os.environ.get("ZOO_MIRROR", "").split())


def rewrites() -> tuple[tuple[str, str], ...]:
    """``ZOO_REWRITE``: pairs of a url prefix and what replaces it; ``HF_ENDPOINT`` is one of them.

    Raises:
        UsageError: An item is not of the form ``from=to``.
    """
    pairs = []
    for item in os.environ.get("ZOO_REWRITE", "").split():
        old, equals, new = item.partition("=")
        if not (old and equals and new):
            raise UsageError(f"ZOO_REWRITE has {item!r}", expected="from=to, two url prefixes", cause="a missing '='")
        pairs.append((old, new))
    if endpoint := os.environ.get("HF_ENDPOINT"):
        pairs.append(("https://huggingface.co/", endpoint.rstrip("/") + "/"))
    return tuple(pairs)


def licenses() -> tuple[str, ...] | None:
    """``ZOO_LICENSES``: the licences that are acceptable, in lower case; None when any is."""
    return _names("ZOO_LICENSES", lower=True) or None


def progress() -> bool | None:
    """``ZOO_PROGRESS``: whether to show progress bars; None means on a terminal."""
    return _flag("ZOO_PROGRESS")


def lock_file() -> str | None:
    """``ZOO_LOCK``: the lock file to obey, ``""`` to obey none, or None to look for one."""
    value = os.environ.get("ZOO_LOCK")
    return "" if value is not None and value.lower() in _FALSE else value


def family_order() -> tuple[str, ...]:
    """``ZOO_FAMILIES``: the order in which families are searched; empty for the usual one."""
    return _names("ZOO_FAMILIES")


def plugins() -> tuple[str, ...]:
    """``ZOO_PLUGINS``: the only plugins to load; empty for all."""
    return _names("ZOO_PLUGINS")


def disabled_plugins() -> tuple[str, ...]:
    """``ZOO_DISABLE``: plugins not to load."""
    return _names("ZOO_DISABLE")


def _names(variable: str, *, lower: bool = False) -> tuple[str, ...]:
    text = os.environ.get(variable, "")
    return tuple(name.strip() for name in (text.lower() if lower else text).split(",") if name.strip())


def _flag(variable: str) -> bool | None:
    value = os.environ.get(variable)
    if value is None:
        return None
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise UsageError(f"{variable} is {value!r}", expected="1 or 0")

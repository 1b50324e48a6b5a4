"""The settings, read when they are asked for, so that a change takes effect at once.

Each is a variable of the environment, and, in lower case, a key of ``zoo.toml``: see :mod:`zoo_core.config`. The
environment comes first. ``zoo config`` shows what is in force, and where that is said.

===================  ===============  ==================================================================================
``ZOO_CACHE``        ``cache``        the folder of the weights cache
``ZOO_CACHE_SHARED`` ``cache_shared`` a second cache, such as a team's: used below one's own, and only read
``ZOO_OFFLINE``      ``offline``      ``1``: open no socket; what is not in the cache is an error
``ZOO_VERIFY``       ``verify``       ``always``: hash every file on every use; ``auto``: when it may have changed
``ZOO_CONVERT``      ``convert``      ``0``: keep no copies, which can be mapped, of weights whose own files cannot
``ZOO_MIRROR``       ``mirror``       base urls that serve a file of digest ``d`` as ``<base>/<d>``; tried first
``ZOO_REWRITE``      ``rewrite``      ``from=to`` pairs of url prefixes: where to go instead
``ZOO_HEADERS``      ``headers``      ``url=Name: value``, one a line: what else to send to urls that begin so
``ZOO_LICENSES``     ``licenses``     the licences that are acceptable
``ZOO_CONNECTIONS``  ``connections``  how many connections may bring one large file at once; 8, and at most 32
``ZOO_PROGRESS``     ``progress``     ``1`` or ``0``: always or never a progress bar; else on a terminal only
``ZOO_LOCK``         ``lock``         the lock file to obey, or ``0``; else a ``zoo.lock`` in this folder or a parent
``ZOO_FAMILIES``     ``families``     the order in which families are searched for an unqualified name
``ZOO_PLUGINS``      ``plugins``      load these plugins only
``ZOO_DISABLE``      ``disable``      do not load these plugins
``ZOO_CONFIG``                        the file to read in place of every ``zoo.toml``, or ``0`` for none
``HF_ENDPOINT``                       what to use instead of ``https://huggingface.co``
===================  ===============  ==================================================================================

In a variable, names have commas between them, and urls and pairs have spaces. In a file::

    cache = "weights"                       # beside the file
    offline = false
    licenses = ["apache-2.0", "bsd-3-clause"]

    [rewrite]
    "https://download.pytorch.org/" = "https://mirror.example.org/pytorch/"
"""

from __future__ import annotations

import os
from typing import Any, Literal, cast

from zoo_core.config import SETTINGS, find, is_from_checkout


def cache_dir() -> str | None:
    """``ZOO_CACHE``: the folder of the weights cache, or None to look for one."""
    return cast("str | None", _value("cache"))


def shared_cache() -> str | None:
    """``ZOO_CACHE_SHARED``: the folder of a second cache, which is only read, or None for none."""
    return cast("str | None", _value("cache_shared"))


def offline() -> bool:
    """``ZOO_OFFLINE``: whether no socket may be opened."""
    return bool(_value("offline"))


def verify() -> Literal["auto", "always"]:
    """``ZOO_VERIFY``: when a file in the cache is hashed again."""
    return cast('Literal["auto", "always"]', _value("verify") or "auto")


def convert() -> bool:
    """``ZOO_CONVERT``: whether copies that can be mapped are kept of weights whose own files cannot."""
    return _value("convert") is not False


def mirrors() -> tuple[str, ...]:
    """``ZOO_MIRROR``: base urls that serve files by digest, without a slash at the end."""
    return tuple(url.rstrip("/") for url in _value("mirror") or ())


def rewrites() -> tuple[tuple[str, str], ...]:
    """``ZOO_REWRITE``: pairs of a url prefix and what replaces it; ``HF_ENDPOINT`` is one of them.

    Raises:
        UsageError: An item is not of the form ``from=to``.
    """
    pairs = tuple(_value("rewrite") or ())
    if endpoint := os.environ.get("HF_ENDPOINT"):
        pairs += (("https://huggingface.co/", endpoint.rstrip("/") + "/"),)
    return pairs


def may_vouch(key: str) -> bool:
    """Whether the user said a setting, in the environment or a file of their own, and not the file of a checkout."""
    return not is_from_checkout(_BY_KEY[key])


def headers() -> tuple[tuple[str, str], ...]:
    """``ZOO_HEADERS``: pairs of the beginning of a url and a header to send there, as ``Name: value``."""
    return _value("headers") or ()


def licenses() -> tuple[str, ...] | None:
    """``ZOO_LICENSES``: the licences that are acceptable, in lower case; None when any is."""
    return tuple(name.lower() for name in _value("licenses") or ()) or None


def connections() -> int:
    """``ZOO_CONNECTIONS``: how many connections may bring one large file at once."""
    return cast("int", _value("connections") or 8)


def progress() -> bool | None:
    """``ZOO_PROGRESS``: whether to show progress bars; None means on a terminal."""
    return cast("bool | None", _value("progress"))


def lock_file() -> str | None:
    """``ZOO_LOCK``: the lock file to obey, ``""`` to obey none, or None to look for one."""
    return cast("str | None", _value("lock"))


def family_order() -> tuple[str, ...]:
    """``ZOO_FAMILIES``: the order in which families are searched; empty for the usual one."""
    return _value("families") or ()


def plugins() -> tuple[str, ...]:
    """``ZOO_PLUGINS``: the only plugins to load; empty for all."""
    return _value("plugins") or ()


def disabled_plugins() -> tuple[str, ...]:
    """``ZOO_DISABLE``: plugins not to load."""
    return _value("disable") or ()


def _value(key: str) -> Any:  # noqa: ANN401 - each setting has a type of its own
    result = find(_BY_KEY[key])
    return result[0] if result else None


_BY_KEY = {setting.key: setting for setting in SETTINGS}

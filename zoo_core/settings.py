"""The settings there are, and where they are read: the environment, a project's ``zoo.toml``, and a user's.

Each is a row of :data:`SETTINGS`: a variable of the environment, and a key of ``zoo.toml``. A project's file is in the
current folder or a parent, beside ``zoo.lock``; a user's is ``zoo/zoo.toml`` in the platform's configuration folder,
``~/.config`` on Linux. ``ZOO_CONFIG`` names another file in place of both, or is ``0`` for none. The environment comes
first, then the project, then the user; an unknown key is an error. All are read at each use, so that a change takes
effect at once. ``zoo config`` shows the values and their origin; docs/SETTINGS.md is written from the table.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

from zoo_core.errors import UsageError
from zoo_core.text import close_matches, did_you_mean
from zoo_core.utils import no_follow
from zoo_core.utils.paths import and_above, expand, is_file
from zoo_core.utils.private_files import believed

NAME = "zoo.toml"
_TRUE = frozenset({"1", "true", "yes", "on"})
_MOST = 32
_FALSE = frozenset({"0", "false", "no", "off", ""})


@dataclass(frozen=True)
class Kind:
    """What a setting may be.

    Attributes:
        expected: What a variable may hold, for messages.
        in_file: The same of a file.
        from_text: The value in the text of a variable; None when that says nothing. Raises ValueError.
        from_file: The value in a file that stands in some folder; raises ValueError.
        is_secret: Whether no message may hold what is said.
    """

    expected: str
    in_file: str
    from_text: Callable[[str], Any]
    from_file: Callable[[Any, Path], Any]
    is_secret: bool = False


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        key: Its name in a file.
        variable: Its name in the environment.
        kind: What it may be.
        meaning: What it does.
    """

    key: str
    variable: str
    kind: Kind
    meaning: str


def find(setting: Setting) -> tuple[Any, str] | None:
    """What a setting is, and where that is said; None when it is not set.

    Raises:
        UsageError: What is said means nothing; or a file cannot be read, or has a key that is not a setting.
    """
    text = os.environ.get(setting.variable)
    if text is not None:
        try:
            value = setting.kind.from_text(text)
        except ValueError as error:
            hint = str(error) or None
            message = f"{setting.variable} has {'another form' if setting.kind.is_secret else repr(text)}"
            raise UsageError(message, expected=setting.kind.expected, hint=hint) from None
        if value is not None:
            return value, setting.variable
    for path in files():
        values = _values(path)
        if setting.key in values:
            return values[setting.key], str(path)
    return None


def files() -> tuple[Path, ...]:
    """The settings files that are in force here, the one that decides first.

    Raises:
        UsageError: ``ZOO_CONFIG`` names a file that is not there.
    """
    chosen = os.environ.get("ZOO_CONFIG")
    if chosen is not None:
        if chosen.lower() in _FALSE:
            return ()
        path = expand(chosen).absolute()
        if not is_file(path):
            raise UsageError(f"ZOO_CONFIG has {chosen!r}, which is not a file", hint="0 means none", path=path)
        return (path,)
    # os.path, which is several times as fast as Path: this runs on every use.
    paths = (os.path.join(folder, NAME) for folder in and_above())  # noqa: PTH118
    project = next((path for path in paths if os.path.isfile(path) and believed(path, "ZOO_CONFIG")), "")  # noqa: PTH113
    user = os.path.join(_user_folder(), NAME)  # noqa: PTH118
    chosen_files = dict.fromkeys((project, user if os.path.isabs(user) else ""))  # noqa: PTH117 - without a home, "~" stays
    return tuple(Path(path) for path in chosen_files if os.path.isfile(path))  # noqa: PTH113


def _user_folder() -> str:
    """The folder of a user's own settings."""
    if sys.platform == "linux":  # as platformdirs says, whose import takes as long as the start of python
        base = os.environ.get("XDG_CONFIG_HOME", "").strip()
        return os.path.join(base or os.path.expanduser("~/.config"), "zoo")  # noqa: PTH111, PTH118
    from platformdirs import user_config_dir

    return user_config_dir("zoo")


def _values(path: Path) -> dict[str, Any]:
    """The settings in a file, read again where it has changed since."""
    try:
        status = path.stat()
    except OSError as error:
        raise UsageError(f"{path} cannot be read", got=error.strerror, path=path) from error
    return _cached(path, status.st_mtime_ns, status.st_size)


_LONG_KEY = re.compile(r"""(("[^"\n]*"|'[^'\n]*'|(?<![\w-])[\w-]++)[ \t]*+\.[ \t]*+){50}""")


@lru_cache(maxsize=8)
def _cached(path: Path, _mtime: int, _size: int) -> dict[str, Any]:
    """The settings in a file, read once for each time that it was changed."""
    return read(path)


def read(path: Path) -> dict[str, Any]:
    """The settings in a ``zoo.toml``.

    Raises:
        UsageError: It is not TOML, or has a key that is not a setting, or a value that means nothing.
    """
    import tomllib

    try:
        text = no_follow.read_text(no_follow.real(path))  # of a link, what it stands for
        given = toml(text)
    except tomllib.TOMLDecodeError as error:
        match = re.search(r"at line (\d+)", str(error))
        raise _malformed(path, int(match[1]) if match else text.count("\n") + 1, str(error), "TOML") from error
    except (OSError, ValueError, RecursionError) as error:  # ValueError: an integer of thousands of digits
        raise UsageError(f"{path} cannot be read", cause=str(error), path=path) from error
    return {key: _checked(path, text, key, value) for key, value in given.items()}


def toml(text: str) -> dict[str, Any]:
    """The tables in a TOML file of settings, such as ``zoo.toml``.

    Raises:
        ValueError: It is no TOML, or has a key of very many parts, for which tomllib takes quadratic time.
    """
    import tomllib

    if _LONG_KEY.search(text):
        raise ValueError("a key has more than 50 parts")
    return tomllib.loads(text.removeprefix("\ufeff"))  # which editors on Windows begin a file with


def _checked(path: Path, text: str, key: str, value: object) -> object:
    """The value of one setting in a file, when it may be that; an error that names the line otherwise."""
    known = {setting.key: setting for setting in SETTINGS}
    line = _line_of(text, key)
    if key not in known:
        hint = did_you_mean(close_matches(key, known), "`zoo config` lists the settings")
        raise _malformed(path, line, f"there is no setting {key!r}", hint=hint)
    kind = known[key].kind
    try:
        return kind.from_file(value, path.parent)
    except ValueError as error:
        what = "has another form" if kind.is_secret else f"is {value!r}"
        raise _malformed(path, line, f"{key} {what}", kind.in_file, hint=str(error) or None) from None


def _line_of(text: str, key: str) -> int:
    """The line of a settings file on which a key stands, or the table of that name."""
    title = re.compile(rf"""\s*\[*\s*["']?{re.escape(key)}["']?\s*[]=.]""")
    numbered = enumerate(text.split("\n"), start=1)
    return next((number for number, line in numbered if title.match(line)), 1)


def _malformed(path: Path, line: int, reason: str, expected: str | None = None, hint: str | None = None) -> UsageError:
    """The error for a line of a settings file."""
    return UsageError(f"{path}, line {line}: {reason}", expected=expected, hint=hint, path=path, line=line)


def _flag(text: str) -> bool:
    """A setting that is on or off, from the environment."""
    if text.lower() not in _TRUE | _FALSE:
        raise ValueError
    return text.lower() in _TRUE


def _flag_in_file(value: object, _folder: Path) -> bool:
    """A setting that is on or off, from a ``zoo.toml``."""
    if not isinstance(value, bool):
        raise ValueError  # noqa: TRY004 - the kind says what was expected
    return value


def _path_in_file(value: object, folder: Path) -> str:
    """A setting that is a path, from a ``zoo.toml``, whose folder it is relative to."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError
    return str(folder / expand(value))


def _lock(text: str) -> str:
    """The setting of the lock file, from the environment; empty where it says to obey none."""
    return "" if text.lower() in _FALSE else text


def _lock_in_file(value: object, folder: Path) -> str:
    """The setting of the lock file, from a ``zoo.toml``; empty where it says to obey none."""
    return "" if value is False else _path_in_file(value, folder)


def _names(text: str) -> tuple[str, ...]:
    """A setting that is several names, from the environment, with commas between them."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _list_in_file(value: object, _folder: Path) -> tuple[str, ...]:
    """A setting that is several names, from a list in a ``zoo.toml``."""
    if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
        raise ValueError
    return tuple(item.strip() for item in value)


def _when(text: str) -> str | None:
    """The setting of when files are verified, from the environment; None for the usual."""
    if text.lower() not in ("auto", "always", ""):
        raise ValueError(did_you_mean(close_matches(text, ["auto", "always"]), "unset it for 'auto'"))
    return text.lower() or None


def _when_in_file(value: object, _folder: Path) -> str | None:
    """The setting of when files are verified, from a ``zoo.toml``."""
    if not value or not isinstance(value, str):
        raise ValueError
    return _when(value)


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """A setting of pairs, from the environment, with ``=`` inside and spaces between them."""
    pairs = []
    for item in text.split():
        old, _, new = item.partition("=")
        if not (old and new):
            raise ValueError(f"{item!r} is no pair")
        pairs.append((old, new))
    return tuple(pairs)


def _pairs_in_file(value: object, _folder: Path) -> tuple[tuple[str, str], ...]:
    """A setting of pairs, from a table in a ``zoo.toml``."""
    if not isinstance(value, dict) or not all(old and new and isinstance(new, str) for old, new in value.items()):
        raise ValueError
    return tuple(value.items())


def _headers(text: str) -> tuple[tuple[str, str], ...]:
    """The setting of HTTP headers by URL, from lines in the environment."""
    pairs = (line.strip().partition("=") for line in text.splitlines() if line.strip())
    return tuple(_header(url.strip(), header.strip()) for url, _, header in pairs)


def _headers_in_file(value: object, _folder: Path) -> tuple[tuple[str, str], ...]:
    """The setting of HTTP headers by URL, from a table in a ``zoo.toml``."""
    if not isinstance(value, dict):
        raise ValueError  # noqa: TRY004 - the kind says what was expected
    each = ((url, headers if isinstance(headers, list) else [headers]) for url, headers in value.items())
    return tuple(_header(url, header) for url, headers in each for header in headers)


def _header(url: str, header: object) -> tuple[str, str]:
    """A URL and its HTTP header from a setting, when both have the form that they have to have."""
    if not _BASE.fullmatch(url) or not isinstance(header, str) or not _HEADER.fullmatch(header):
        raise ValueError
    return url, header


def _number(text: str) -> int | None:
    """A setting that is a number, from the environment; None where it is empty."""
    if text and not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= _MOST):
        raise ValueError
    return int(text) if text else None


def _number_in_file(value: object, _folder: Path) -> int:
    """A setting that is a number, from a ``zoo.toml``."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
        raise ValueError
    return value


_FLAG = Kind("1 or 0", "true or false", _flag, _flag_in_file)
_PATH = Kind("a path", "a path in quotes", lambda text: text or None, _path_in_file)
_LOCK = Kind("a path, or 0", "a path in quotes, or false", _lock, _lock_in_file)
_NAMES = Kind("names with commas between", "a list of names", _names, _list_in_file)
_URLS = Kind("urls with spaces between", "a list of urls", lambda text: tuple(text.split()), _list_in_file)
_PAIRS = Kind("from=to, two url prefixes", "a table of url prefixes", _pairs, _pairs_in_file)
_BASE = re.compile(r"https?://[^/\s@]+(?:/\S*)?")
_HEADER = re.compile(
    r"(?!(?:host|range|if-range|content-|transfer-|connection|accept-encoding))[\w-]+:[ -~]+", re.IGNORECASE
)
"""Any header but those that say where a request goes, and which bytes it is about."""
_HEADERS = Kind(
    "url=Name: value, one a line",
    'a table of urls and "Name: value"',
    _headers,
    _headers_in_file,
    is_secret=True,
)
_NUMBER = Kind(f"1 to {_MOST}", f"1 to {_MOST}", _number, _number_in_file)
_WHEN = Kind("'auto' or 'always'", "'auto' or 'always'", _when, _when_in_file)

SETTINGS = (
    Setting("cache", "ZOO_CACHE", _PATH, "the folder of the weights cache"),
    Setting("cache_shared", "ZOO_CACHE_SHARED", _PATH, "a second cache, which is only read"),
    Setting("offline", "ZOO_OFFLINE", _FLAG, "open no socket"),
    Setting("verify", "ZOO_VERIFY", _WHEN, "when a file in the cache is hashed again"),
    Setting("convert", "ZOO_CONVERT", _FLAG, "keep copies that can be mapped"),
    Setting("mirror", "ZOO_MIRROR", _URLS, "base urls that serve files by digest"),
    Setting("rewrite", "ZOO_REWRITE", _PAIRS, "url prefixes, and where to go instead"),
    Setting("headers", "ZOO_HEADERS", _HEADERS, "what else to send to a mirror, such as a key"),
    Setting("licenses", "ZOO_LICENSES", _NAMES, "the licences that are acceptable"),
    Setting("connections", "ZOO_CONNECTIONS", _NUMBER, "how many may bring one large file at once"),
    Setting("progress", "ZOO_PROGRESS", _FLAG, "show progress bars"),
    Setting("lock", "ZOO_LOCK", _LOCK, "the lock file to obey"),
    Setting("families", "ZOO_FAMILIES", _NAMES, "the order in which families are searched"),
    Setting("plugins", "ZOO_PLUGINS", _NAMES, "the only plugins to load"),
    Setting("disable", "ZOO_DISABLE", _NAMES, "plugins not to load"),
)
"""Every setting, in the order of the table in :mod:`zoo_core.settings`."""

_BY_KEY = {setting.key: setting for setting in SETTINGS}


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
    """The setting ``ZOO_REWRITE``: pairs of a url prefix and what replaces it; ``HF_ENDPOINT`` is one of them.

    Raises:
        UsageError: An item is not of the form ``from=to``.
    """
    pairs = tuple(_value("rewrite") or ())
    if endpoint := os.environ.get("HF_ENDPOINT"):
        pairs += (("https://huggingface.co/", endpoint.rstrip("/") + "/"),)
    return pairs


def may_vouch(key: str) -> bool:
    """Whether the user said a setting, in the environment or a file of their own, and not the file of a checkout."""
    setting = _BY_KEY[key]
    result = find(setting)
    if result is None or result[1] == setting.variable or os.environ.get("ZOO_CONFIG") is not None:
        return True
    return result[1] == os.path.join(_user_folder(), NAME)  # noqa: PTH118


def headers() -> tuple[tuple[str, str], ...]:
    """The setting ``ZOO_HEADERS``: pairs of the beginning of a url and a header to send there, as ``Name: value``."""
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


def _value(key: str) -> Any:
    """The value of the setting of that key; None when it is not set."""
    result = find(_BY_KEY[key])
    return result[0] if result else None

"""References: small text files that say which bytes a name stands for, like git's."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from zoo_core.errors import CacheError, DigestMismatch
from zoo_core.utils import no_follow
from zoo_core.weights import digest as digests
from zoo_core.weights.digest import Stamp

_LONGEST = 180
_SAFE_FILE = re.compile(r"[A-Za-z0-9_+=@-][A-Za-z0-9._+=@-]*")


@dataclass(frozen=True)
class Ref:
    """A ref of the cache: which bytes a name stands for, and why that is believed.

    Attributes:
        sha256: The whole digest of the object.
        size: Its length in bytes.
        file: The name of its file.
        source: The url it came from.
        strength: What vouched for it: ``"proven"``, ``"weak"``, ``"declared"`` or ``"first-use"``.
        verified: When it was last hashed, in UTC.
        stamp: What the file system said of it then.
    """

    sha256: str
    size: int
    file: str
    source: str
    strength: str
    verified: str
    stamp: Stamp

    def __str__(self) -> str:
        return "".join(f"{name} {getattr(self, name)}\n" for name in _FIELDS)


def fresh_ref(path: Path, digest: str, *, source: str, strength: str, stamp: Stamp) -> Ref:
    """The ref for an object that has just been proven and put under ``objects/``."""
    return Ref(digest, stamp.size, path.name, source, strength, now(), stamp)


_FIELDS = ("sha256", "size", "file", "source", "strength", "verified", "stamp")


def now() -> str:
    """The time at which a ref was verified: now, in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ref_name(family: str, name: str, tag: str) -> str:
    """The path of a ref below ``refs/``, safe whatever the names are.

    Example:
        >>> ref_name("timm", "vit/base", "v1")
        'timm/vit%2Fbase@v1'
    """
    return f"{_segment(family)}/{_segment(f'{quote(name, safe=_PLAIN)}@{quote(tag, safe=_PLAIN)}', quoted=True)}"


_PLAIN = "+=, "


def _segment(text: str, *, quoted: bool = False) -> str:
    """One part of the path of a ref, quoted and short enough for every file system."""
    segment = text if quoted else quote(text, safe=_PLAIN)
    if len(segment) > _LONGEST:
        segment = f"{segment[: _LONGEST - 17]}~{hashlib.sha256(segment.encode()).hexdigest()[:16]}"
    return "%2E" + segment[1:] if segment.startswith(".") else segment or "%00"


def read_ref(path: Path) -> Ref | None:
    """The ref in a file, or None when there is no such file.

    Raises:
        CacheError: The file is malformed; the message names it, the line and the reason.
    """
    try:
        text = no_follow.read_text(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except CacheError:
        raise
    except PermissionError as error:
        raise CacheError(
            f"{path} may not be read",
            got=error.strerror,
            cause="another user of this cache wrote it for themselves alone",
            hint=f"ask for `chmod -R a+rX {path.parent.parent.parent}`, or use a cache of your own with ZOO_CACHE",
            path=path,
            file=str(path),
            line=0,
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise _malformed(path, 1, str(error)) from error
    return parse_ref(text, path)


def pinned(path: Path, digest: str, *, source: str) -> Ref | None:
    """The ref that a name has already, or None; refused when it stands for other bytes than those that come in.

    Args:
        path: Where the ref is.
        digest: The whole digest of what comes in.
        source: Where that is from, for the message.

    Raises:
        DigestMismatch: The name is pinned to another digest.
        CacheError: The ref is malformed, so that its pin cannot be told.
    """
    ref = read_ref(path)
    if ref is None or ref.sha256 == digest:
        return ref
    name = f"{path.parent.name}/{path.name}"
    raise DigestMismatch(
        f"{name} is pinned to other bytes",
        expected=f"sha256 {ref.sha256} (the cache, {ref.strength})",
        got=f"sha256 {digest} ({source})",
        done="its pin was left as it is",
        hint=f"look into why; `zoo cache rm {name}` first, if the new bytes are the right ones",
        expected_digest=ref.sha256,
        got_digest=digest,
        source=source,
    )


def parse_ref(text: str, path: Path) -> Ref:
    """The ref that a text describes, line by line.

    Args:
        text: Lines of a field name, a space and a value.
        path: Where the text is from, for messages.

    Raises:
        CacheError: The text is malformed.
    """
    values: dict[str, str] = {}
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        name, _, value = line.partition(" ")
        if line and (name not in _FIELDS or name in values):
            raise _malformed(path, number, f"{name[:40]!r} is not a field, or is there twice")
        if line:
            _check_ref_field(name, value, path, number)
            values[name] = value
    missing = [name for name in _FIELDS if name not in values]
    if missing:
        raise _malformed(path, len(lines), f"{', '.join(missing)} missing")
    fields: dict[str, Any] = {**values, "size": int(values["size"]), "stamp": Stamp.parse(values["stamp"])}
    return Ref(**fields)


def _check_ref_field(name: str, value: str, path: Path, number: int) -> None:
    """Refuse the text of a ref in which a field has a value that it cannot have."""
    if name == "sha256" and not digests.is_full(value):
        raise _malformed(path, number, f"{value[:80]!r} is not a SHA-256")
    if name == "file" and not _SAFE_FILE.fullmatch(value):
        raise _malformed(path, number, f"{value[:80]!r} is not a plain file name")
    if name == "size" and not (value.isascii() and value.isdigit() and len(value) < 20):  # noqa: PLR2004 - 64 bits
        raise _malformed(path, number, f"{value[:80]!r} is not a length")
    if name == "stamp":
        try:
            Stamp.parse(value)
        except ValueError as error:
            raise _malformed(path, number, str(error)) from error


def _malformed(path: Path, line: int, reason: str) -> CacheError:
    """The error for a malformed ref, with its file and line."""
    return CacheError(
        f"{path}, line {line}: not a ref",
        cause=reason,
        hint="remove that file; the object it named is hashed again when it is needed",
        path=path,
        file=str(path),
        line=line,
    )

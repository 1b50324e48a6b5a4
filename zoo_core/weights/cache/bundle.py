"""One file that carries weights to a machine without a network: a tar archive of objects and refs."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING

from zoo_core.errors import CacheError, DigestMismatch, ZooError
from zoo_core.utils import no_follow
from zoo_core.utils.atomic_write import whole_file
from zoo_core.utils.no_follow import real
from zoo_core.weights.cache.refs import Ref, fresh_ref, parse_ref, pinned
from zoo_core.weights.digest import Stamp
from zoo_core.weights.download.disk import disk_errors, read_error, require_space
from zoo_core.weights.download.partial import Partial

if TYPE_CHECKING:
    from zoo_core.weights.cache.inventory import Kept
    from zoo_core.weights.cache.store import Cache

_OBJECT = re.compile(r"objects/([0-9a-f]{64})/([A-Za-z0-9_+=@-][A-Za-z0-9._+=@-]{0,199})")
_REF = re.compile(r"refs/[A-Za-z0-9_.~%+=, @-]{1,255}/[A-Za-z0-9_.~%+=, @-]{1,255}")
_LONGEST_REF = 1 << 16
_BLOCK = 1 << 20


def export_bundle(cache: Cache, kept: Iterable[Kept], file: Path) -> int:
    """Write weights from the cache to a bundle, each proven first; the same weights give the same bytes.

    Returns:
        How many names are in it.

    Raises:
        DigestMismatch: An object in the cache is missing or bad.
        CacheError: The file cannot be written.
    """
    chosen = sorted(kept, key=lambda item: item.name)
    with (
        whole_file(file) as place,
        disk_errors(file.parent),
        place.open("wb") as opened,
        tarfile.open(fileobj=opened, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for item in {item.ref.sha256: item for item in chosen}.values():
            require_cached(cache, item)
            with os.fdopen(no_follow.descriptor(item.path), "rb") as data:
                _add(archive, f"objects/{item.ref.sha256}/{item.path.name}", item.ref.size, data)
        for item in chosen:
            text = str(item.ref).encode()
            _add(archive, item.ref_path.relative_to(cache.root).as_posix(), len(text), io.BytesIO(text))
    return len(chosen)


def require_cached(cache: Cache, item: Kept) -> None:
    """Refuse to write a bundle, or a mirror, of weights whose file in the cache is missing or bad.

    Raises:
        DigestMismatch: The object is missing or bad.
    """
    if cache.prove(item.path, item.ref.sha256) is None:
        raise DigestMismatch(
            f"the file of {item.name} is missing or bad",
            expected=f"sha256 {item.ref.sha256}",
            done="nothing was written",
            hint=f"`zoo get {item.name}` fetches it again",
            expected_digest=item.ref.sha256,
            got_digest="",
            source=str(item.path),
        )


def _add(archive: tarfile.TarFile, name: str, size: int, data: IO[bytes]) -> None:
    """Add a read-only member to the tar archive of a bundle."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o444
    archive.addfile(member, data)


def import_bundle(cache: Cache, file: Path) -> list[str]:
    """Take what is in a bundle into the cache; every object is hashed on its way in.

    Returns:
        The refs that were written, as ``family/name@tag`` in the spelling of the cache.

    Raises:
        DigestMismatch: An object is not what its name says, or a name is pinned to other bytes here; no ref is
            written.
        CacheError: The file is not a bundle, or the cache cannot be written.
    """
    cache.make()
    refs: dict[str, Ref] = {}
    try:
        opened = os.fdopen(no_follow.descriptor(real(file)), "rb")
        with opened, tarfile.open(fileobj=opened, mode="r:") as archive:
            for member in archive:
                data = archive.extractfile(member) if member.isreg() else None
                if data and (match := _OBJECT.fullmatch(member.name)):
                    _take(cache, match[1], match[2], member.size, data)
                elif data and _is_ref(member):
                    refs[member.name] = parse_ref(data.read().decode("utf-8"), file)
                else:
                    raise _no_bundle(file, f"{member.name[:200]!r} does not belong in one")
    except ZooError:
        raise
    except OSError as error:
        raise read_error(file, error) from error
    except (tarfile.TarError, EOFError, ValueError) as error:  # ValueError: broken headers of PAX
        raise _no_bundle(file, str(error)) from error
    strengths = {name: _strength(cache, name, ref, file) for name, ref in refs.items()}
    return [_note(cache, name, ref, strengths[name], file) for name, ref in refs.items()]


def _strength(cache: Cache, name: str, ref: Ref, file: Path) -> str:
    """What vouches here for a name in a bundle: a bundle cannot vouch for itself, whatever its refs say."""
    known = pinned(cache.root / name, ref.sha256, source=file.name)
    return known.strength if known else "first-use"


def _is_ref(member: tarfile.TarInfo) -> bool:
    """Whether a member of the tar archive of a bundle is a ref, with a name that is safe here."""
    steps = member.name.split("/")
    plain = _REF.fullmatch(member.name) and not any(step.startswith(".") for step in steps)
    return bool(plain) and member.size <= _LONGEST_REF


def _take(cache: Cache, digest: str, name: str, size: int, data: IO[bytes]) -> None:
    """Take one object out of a bundle into the cache, if its bytes have the digest that its name says."""
    final = cache.place(digest, name)
    if cache.prove(final, digest) is not None:
        return
    with Partial.open(cache.arriving, f"bundle-{digest[:16]}") as partial:
        partial.restart()
        require_space(cache.arriving, size)
        while block := data.read(_BLOCK):
            partial.write(block)
        got = partial.digest
        if got == digest:
            partial.publish(final, read_only=True)
            return
        partial.restart()
    raise DigestMismatch(
        f"wrong bytes for {name} in the bundle",
        expected=f"sha256 {digest}",
        got=f"sha256 {got}",
        done="it was not taken in",
        cause="the bundle was damaged on its way",
        hint="copy it again",
        expected_digest=digest,
        got_digest=got,
        source=name,
    )


def _note(cache: Cache, name: str, ref: Ref, strength: str, file: Path) -> str:
    """Write the ref of some weights that have come in a bundle, and give their name."""
    path = cache.place(ref.sha256, ref.file)
    try:
        stamp = Stamp.of(path)
    except OSError as error:
        raise _no_bundle(file, f"{name} stands for a file that is not in it") from error
    kept = fresh_ref(path, ref.sha256, source=ref.source, strength=strength, stamp=stamp)
    with disk_errors(cache.root):
        cache.write_ref(cache.root / name, kept)
    return name.removeprefix("refs/")


def _no_bundle(file: Path, reason: str) -> CacheError:
    """The error for a file that is not a whole bundle."""
    return CacheError(
        f"{file} is not a whole bundle",
        cause=reason,
        hint="`zoo bundle export` writes one; copy it again if it did",
        path=file,
    )

"""Where bytes come from: the web, this machine, installed packages, and buckets through fsspec."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from functools import reduce
from importlib.resources import files
from importlib.resources.readers import MultiplexedPath
from importlib.util import find_spec
from operator import truediv
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self, cast
from urllib.parse import unquote, urlsplit

from zoo_core.errors import ZooError
from zoo_core.weights.transport.failures import Failure, Permanent, Transient
from zoo_core.weights.transport.source_protocol import Reply, Source
from zoo_core.weights.transport.urls import shown

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from zoo_core.weights.transport.policy import Policy


_REMOTE_BLOCK = 1 << 20


class _OfFiles:
    """What sources of files have that are opened anew for each reading."""

    route = ""

    def __init__(self, url: str) -> None:
        self.url = url

    def another(self) -> Self:
        """Another reader of the same file."""
        return type(self)(self.url)

    def close(self) -> None:
        """Nothing is held open."""


class RemoteSource(_OfFiles):
    """A source through fsspec: a file in a bucket, or wherever else fsspec can open one.

    Args:
        url: Any url whose scheme fsspec knows.

    Raises:
        Permanent: fsspec, or the library of the scheme, is not installed, or the scheme is unknown.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        scheme = urlsplit(url).scheme
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise Permanent(f"{scheme}:// needs fsspec: pip install 'zoo-core[remote]'") from error
        try:
            self._files, self._path = url_to_fs(url)
        except Exception as error:  # each store raises errors of its own
            raise Permanent(f"{scheme}:// cannot be read: {error}") from error

    @contextlib.contextmanager
    def read(self, offset: int, etag: str, end: int | None = None) -> Iterator[Reply]:  # noqa: ARG002 - the digest proves
        """The bytes from ``offset`` on.

        Raises:
            Permanent: There is no such file, or no right to read it.
            Transient: The store did not answer.
        """
        try:
            with self._files.open(self._path, "rb", cache_type="readahead") as file:
                total = file.seek(0, 2)
                start = file.seek(min(offset, total))
                yield Reply(start, total, "", iter(lambda: file.read(_REMOTE_BLOCK), b""))
        except (FileNotFoundError, PermissionError) as error:
            raise Permanent(str(error) or type(error).__name__) from error
        except (Failure, ZooError):
            raise
        except Exception as error:  # each store raises errors of its own
            raise Transient(str(error) or type(error).__name__) from error


_BLOCK = 1 << 20
_STORES = ("hf", "s3", "gs", "gcs", "az", "abfs")
"""The schemes that are handed to fsspec, which has others that run what a url names."""


def source_of(url: str, policy: Policy, *, proven: bool) -> Source:
    """Which of the sources a url names: one on the web, on this machine, in an installed package or in a store.

    Args:
        url: ``https://``, ``http://``, ``file://``, ``package://name.of.package/path/in/it``, or that of a store:
            ``hf``, ``s3``, ``gs``, ``gcs``, ``az`` or ``abfs``, through fsspec.
        policy: How patient to be.
        proven: Whether a whole digest is known, so that the bytes may cross the network in the clear.

    Raises:
        Permanent: The url is not usable, or its scheme needs a library that is not installed.
    """
    if "::" in url.partition("?")[0].replace("[::", "[", 1):
        raise Permanent(f"{shown(url)} is a chain of urls, in which one can choose what reads the next")
    try:
        scheme = urlsplit(url).scheme.lower()
    except ValueError as error:
        raise Permanent(f"not a usable url: {error}") from error
    if scheme in ("http", "https"):
        from zoo_core.weights.transport.http import HttpSource

        return HttpSource(url, policy, proven=proven)
    if scheme in ("file", "package"):
        return LocalSource(url)
    if scheme not in _STORES:
        raise Permanent(f"{scheme}:// is not read: https, http, file, package and {', '.join(_STORES)} are")
    if scheme == "hf" and "@" in urlsplit(url).netloc:  # which the library would repeat in its errors
        raise Permanent("hf:// takes no user or password; HF_TOKEN has the token")
    return RemoteSource(url)


class LocalSource(_OfFiles):
    """A source on this machine: a file, or one inside an installed package.

    Args:
        url: ``file:///path`` or ``package://name.of.package/path/in/it``.
    """

    @contextlib.contextmanager
    def read(self, offset: int, etag: str, end: int | None = None) -> Iterator[Reply]:  # noqa: ARG002 - no need of them here
        """The bytes from ``offset`` on.

        Raises:
            Permanent: There is no such file, or it cannot be read.
        """
        try:
            resource = self._resource()
            if isinstance(resource, Path) and resource.exists() and not resource.is_file():
                raise Permanent(f"{shown(self.url)} is not a regular file")  # a pipe would be waited for without end
            with resource.open("rb") as opened:
                file = cast("BinaryIO", opened)
                total = file.seek(0, 2)
                start = file.seek(min(offset, total))
                yield Reply(start, total, "", iter(lambda: file.read(_BLOCK), b""))
        except (OSError, ModuleNotFoundError, ValueError) as error:
            raise Permanent(_why(error)) from error

    def _resource(self) -> Path | Traversable:
        parts = urlsplit(self.url)
        path = unquote(parts.path)
        if parts.scheme == "file":
            if parts.netloc not in ("", "localhost"):
                raise Permanent(f"{shown(self.url)} names another machine; a file url has three slashes")
            return Path(path)
        steps = [step for step in path.split("/") if step]
        if ".." in steps or not steps:
            raise Permanent(f"{shown(self.url)} names no file inside the package")
        if not all(step.isidentifier() for step in parts.netloc.split(".")):
            raise Permanent(f"{shown(self.url)} begins with what is not the name of a package")
        return reduce(truediv, steps, _package(parts.netloc))  # joinpath takes several in some classes only


def _package(name: str) -> Traversable:
    """The folder of a package, which is not imported for it: the settings of a checkout may name any source.

    Raises:
        Permanent: There is none, or it is a module without a folder.
    """
    if hasattr(imported := sys.modules.get(name), "__path__"):
        return files(imported)  # type: ignore[arg-type]  # None has no path
    top, *rest = name.split(".")
    spec = find_spec(top)
    if spec is None:
        raise ModuleNotFoundError(name=top)
    if spec.submodule_search_locations is None:
        raise Permanent(f"{top} is a module, and no package that can hold a file")
    reader = getattr(spec.loader, "get_resource_reader", lambda _name: None)(top)
    folder = reader.files() if reader else MultiplexedPath(*map(Path, spec.submodule_search_locations))
    return reduce(truediv, rest, cast("Traversable", folder))


def _why(error: Exception) -> str:
    """Why a source on this machine cannot be read, in words."""
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name!r} is not installed"
    return getattr(error, "strerror", None) or str(error)

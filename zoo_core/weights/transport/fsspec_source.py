"""Sources that fsspec reaches: ``s3://``, ``gs://``, ``az://`` and many more. Needs the extra ``zoo-core[remote]``."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from zoo_core.errors import ZooError
from zoo_core.weights.transport.failures import Failure, Permanent, Transient
from zoo_core.weights.transport.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Iterator


_REMOTE_BLOCK = 1 << 20


class RemoteSource:
    """A source whose file fsspec opens, as in a bucket.

    Args:
        url: Any url whose scheme fsspec knows.

    Raises:
        Permanent: fsspec, or the library of the scheme, is not installed, or the scheme is unknown.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.route = ""
        scheme = urlsplit(url).scheme
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise Permanent(f"{scheme}:// needs fsspec: pip install 'zoo-core[remote]'") from error
        try:
            self._files, self._path = url_to_fs(url)
        except Exception as error:  # each store raises errors of its own
            raise Permanent(f"{scheme}:// cannot be read: {error}") from error

    def another(self) -> RemoteSource:
        """Another reader of the same file."""
        return RemoteSource(self.url)

    def close(self) -> None:
        """Nothing is held open."""

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

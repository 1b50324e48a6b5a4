"""What the metadata of zoo-core gets when it is built: links of the README that work outside the tree, and urls.

Where the project is hosted is not written in the tree. The workflow that publishes says it, in ``ZOO_REPOSITORY``;
without it there are no urls, and the README's links to files become plain text.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")


def readme(text: str, repository: str | None, version: str) -> str:
    """The README with absolute links, or without links where nothing is known that they could lead to.

    Example:
        >>> readme("See [GPU](docs/GPU.md).", "https://example.org/zoo", "1.2.0")
        'See [GPU](https://example.org/zoo/blob/v1.2.0/docs/GPU.md).'
        >>> readme("See [GPU](docs/GPU.md). ![Curves](docs/demo.png)", None, "1.2.0")
        'See GPU. '
    """

    def absolute(match: re.Match[str]) -> str:
        image, words, path = match.groups()
        if repository is None:
            return "" if image else words
        return f"{image}[{words}]({repository}/{'raw' if image else 'blob'}/v{version}/{path})"

    return _LINK.sub(absolute, text)


class Metadata(MetadataHookInterface):
    """The hook that hatchling calls."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the README and the urls."""
        repository = os.environ.get("ZOO_REPOSITORY", "").rstrip("/") or None
        version = re.search(
            r'^__version__ = "(.+)"$',
            Path(self.root, "zoo_core", "__init__.py").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": readme(text, repository, version[1] if version else ""),
        }
        if repository:
            metadata["urls"] = {
                "Source": repository,
                "Issues": f"{repository}/issues",
                "Changelog": f"{repository}/blob/main/CHANGELOG.md",
            }

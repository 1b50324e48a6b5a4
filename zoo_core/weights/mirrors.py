"""Mirrors: static trees that any web server or bucket can serve, with files by digest and refs by name."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from zoo_core.errors import CacheError
from zoo_core.weights.failures import Failure
from zoo_core.weights.refs import parse_ref, ref_name
from zoo_core.weights.sources import source_of

if TYPE_CHECKING:
    from zoo_core.weights.policy import Policy

_LONGEST_REF = 1 << 16


def mirror_path(name: str) -> str:
    """Where a mirror keeps the ref of ``family/name@tag``.

    Example:
        >>> mirror_path("torchvision/resnet18@IMAGENET1K_V1")
        'refs/torchvision/resnet18@IMAGENET1K_V1'
    """
    family, _, rest = name.partition("/")
    model, _, tag = rest.rpartition("@")
    return f"refs/{ref_name(family, model, tag)}"


def digest_at_mirror(base: str, name: str, policy: Policy) -> str:
    """The whole digest that a mirror knows some weights by, or ``""`` when it does not have them.

    Args:
        base: The url of the mirror.
        name: ``family/name@tag``.
        policy: How patient to be.
    """
    url = f"{base}/{quote(mirror_path(name))}"
    try:
        with contextlib.closing(source_of(url, policy, proven=False)) as source, source.read(0, "") as reply:
            text = b""
            for block in reply.blocks:
                text += block
                if len(text) > _LONGEST_REF:
                    return ""
        return parse_ref(text.decode("utf-8"), Path(mirror_path(name))).sha256
    except (Failure, CacheError, UnicodeDecodeError):
        return ""

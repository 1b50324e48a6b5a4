"""``zoo.register``: models of one's own in the registry of this process, without a distribution."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from zoo_core.contract.card import Card, Preprocessing, Weights
from zoo_core.errors import UsageError
from zoo_core.registry.families import Own
from zoo_core.registry.zoo import current_zoo
from zoo_core.utils.arguments import strict_arguments
from zoo_core.utils.no_follow import real
from zoo_core.utils.paths import expand

if TYPE_CHECKING:
    from zoo_core.contract.anatomy import Anatomy

Builder = TypeVar("Builder", bound=Callable[..., Any])

_TAG = "own"


@strict_arguments
def register(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    sha256: str = "",
    class_names: Sequence[str] = (),
    num_classes: int | None = None,
    input_size: Sequence[int] = (3, 224, 224),
    preprocessing: Preprocessing | None = None,
    task: str = "classification",
    example: Any = None,
    head: str | None = None,
    stages: Any = None,
    anatomy: Anatomy | None = None,
) -> Callable[[Builder], Builder]:
    """Make a class or function of your own a model of the registry: ``zoo.get(name)`` builds it, in this process.

    Its anatomy is traced, as :func:`zoo_core.adopt` does. ``zoo.load`` brings a saved one back wherever the same
    registration has run; nothing is imported because a file says so.

    Args:
        name: ``family/name``, such as ``"mine/lenet"``; registering it again replaces it.
        weights: A file or URL of pretrained weights; a relative path is one of the working directory.
        sha256: Its SHA-256; of a file that is there now it is computed where you leave it out.
        class_names: What the classes are called, in the order of the scores.
        num_classes: How many scores the model gives; as many as there are ``class_names`` if they are said.
        input_size: Channels, height and width of its images.
        preprocessing: What an image goes through on its way in.
        task: What it does.
        example: What forward takes, where that is no image of ``input_size``.
        head: As in :func:`zoo_core.adopt`.
        stages: As in :func:`zoo_core.adopt`.
        anatomy: Where its parts are, instead of tracing it.

    Returns:
        A decorator that returns the class or function as it is.

    Raises:
        UsageError: ``name`` is not of that form, or what is decorated cannot be called.

    Example:
        >>> import torch, zoo_core as zoo
        >>> from torch import nn
        >>> @zoo.register("mine/net", input_size=(1, 8, 8), class_names=["cat", "dog"])
        ... def net():
        ...     return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        >>> zoo.get("mine/net", weights=None, num_classes=9)[1]
        Linear(in_features=64, out_features=9, bias=True)
    """
    family, _, model = name.partition("/") if isinstance(name, str) else ("", "", "")
    if not family or not model or set("/@*?[ ") & {*family, *model}:
        raise UsageError(
            f"a model cannot be registered as {name!r}",
            expected="'family/name', such as 'mine/lenet', without '@', spaces or wildcards",
        )
    classes = num_classes or len(class_names)
    entry = _weights_entry(weights, sha256, tuple(class_names), preprocessing) if weights is not None else ()

    def add(build: Builder) -> Builder:
        if not callable(build):
            raise UsageError(
                f"{name} cannot be built by {build!r}", expected="a class or function that makes the model"
            )
        card = Card(
            family=family,
            name=model,
            build=f"{build.__module__}:{getattr(build, '__qualname__', type(build).__name__)}",
            task=task,
            input_size=tuple(input_size),
            num_classes=classes,
            weights=entry,
            default=_TAG if entry else None,
        )
        own = Own(build, tuple(class_names), preprocessing, example, head, stages, anatomy)
        current_zoo().add(card, own=own)
        return build

    return add


def _weights_entry(
    where: str | os.PathLike[str], sha256: str, names: tuple[str, ...], preprocessing: Preprocessing | None
) -> tuple[Weights, ...]:
    """Weights entry of a model that is registered: a file, whose digest is taken here, or a URL."""
    url = str(where)
    if "://" not in url:
        path = real(expand(where))
        if not path.is_file():
            raise UsageError(f"there are no weights at {path}", hint="give the path of the file, or its URL")
        with path.open("rb") as opened:
            sha256 = sha256 or hashlib.file_digest(opened, "sha256").hexdigest()
        url = path.as_uri()
    return (
        Weights(
            _TAG,
            urls=(url,),
            sha256=sha256,
            num_classes=len(names),
            categories=names,
            preprocessing=preprocessing or Preprocessing(),
        ),
    )


def is_own_code(card: Card) -> bool:
    """Whether a model was registered in this process, so that code of the user's builds it."""
    return card.name in current_zoo().member(card.family).own

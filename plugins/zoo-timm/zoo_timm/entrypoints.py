"""What an entrypoint of timm is about to build, and how it would load it, without building anything."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from sys import modules
from typing import TYPE_CHECKING, Any

from timm.models import _builder, model_entrypoint

if TYPE_CHECKING:
    from torch import Tensor, nn

    Filter = Callable[..., Mapping[str, Tensor]]

_asking: ContextVar[bool] = ContextVar("asking", default=False)
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Loading:
    """How an entrypoint of timm loads its weights.

    Attributes:
        model_class: What it builds.
        filter: What it puts a checkpoint through, or None.
        strict: Whether every tensor has to fit.
    """

    model_class: Callable[..., nn.Module]
    filter: Filter | None
    strict: bool


class _AskedFor(Exception):
    """Carries the answer out of the entrypoint of timm."""

    def __init__(self, loading: Loading) -> None:
        super().__init__()
        self.loading = loading


def loading_of(name: str, tag: str | None) -> Loading:
    """How the entrypoint of an architecture of timm loads its weights.

    Every entrypoint hands that to one function, which builds the model and loads it. For this thread, and for as long
    as the question takes, that function answers instead of building; any other thread gets the real one.

    Args:
        name: The architecture, as timm spells it.
        tag: The tag of the weights.

    Raises:
        LookupError: The entrypoint does not go through that function.

    Example:
        >>> loading_of("resnet18", "a1_in1k").filter is None, loading_of("vgg11", "tv_in1k").filter.__name__
        (True, '_filter_fn')
    """
    entrypoint = model_entrypoint(name)
    with listening():
        try:
            entrypoint(pretrained=False, pretrained_cfg=tag)
        except _AskedFor as answer:
            return answer.loading
    msg = f"timm builds {name} without build_model_with_cfg"
    raise LookupError(msg)


@contextmanager
def listening() -> Iterator[None]:
    """Inside the block, this thread asks timm's entrypoints and cannot build; to begin that only once saves time."""
    if _asking.get():
        yield
        return
    real = _builder.build_model_with_cfg

    def answer(model_class: Callable[..., nn.Module], *args: Any, **kwargs: Any) -> object:
        if not _asking.get():
            return real(model_class, *args, **kwargs)
        raise _AskedFor(
            Loading(model_class, kwargs.get("pretrained_filter_fn"), strict=kwargs.get("pretrained_strict", True))
        )

    with _one_at_a_time:
        # a module imports the function by its name, and some build with the functions of another module
        users = [module for name, module in list(modules.items()) if name.startswith("timm.models.")]
        users = [module for module in users if getattr(module, real.__name__, None) is real]
        token = _asking.set(True)
        try:
            for module in users:
                setattr(module, real.__name__, answer)
            yield
        finally:
            for module in users:
                setattr(module, real.__name__, real)
            _asking.reset(token)

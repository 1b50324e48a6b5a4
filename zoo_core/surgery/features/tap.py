"""Taps: modules that record what they give, for the call that is running and for no other."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo_core.errors import NotSupported
from zoo_core.surgery.features.split import replaced
from zoo_core.surgery.features.variant import Variant, variant, without

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from zoo_core.surgery.features.split import Module


class _Call(threading.local):
    """What the taps of the call that this thread is in have recorded; None where no call listens.

    A call that checkpointing repeats during the backward pass is one of these, so that nothing is recorded twice.
    """

    outputs: dict[str, Any] | None = None


_CALL = _Call()


class Tap(Variant):
    """Put before the class of a module that is tapped, so that tracers see it as they see the module.

    What it records is what it gives, and what comes after works on a copy: a ReLU may work in place, and the scores
    still depend on what was recorded.
    """

    _zoo_key: tuple[str, ...]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - it is in the place of modules of any kind
        """What the module gives."""
        output = super().__call__(*args, **kwargs)  # type: ignore[misc]  # the class after it in the order is a module's
        outputs = _CALL.outputs
        if outputs is None:
            return output
        for path in self._zoo_key:
            outputs[path] = output
        return copied(output)


def copied(output: Any) -> Any:  # noqa: ANN401 - tokens may come as a tuple
    """The same values in other memory, as deep as tuples and lists go."""
    if isinstance(output, Tensor | torch.fx.Proxy):
        return output.clone()
    if type(output) in {tuple, list}:
        return type(output)([copied(each) for each in output])
    return output


def tapped(model: Module, paths: Iterable[str]) -> Module:
    """A twin of ``model`` in which the modules at these paths record what they give: see :func:`recorded`."""
    body = model
    for path in sorted(set(paths), key=len, reverse=True):  # what is inside another is tapped first
        place = _place(body, path)
        body = replaced(body, {place: _tap(body.get_submodule(place), path)})
    return body


def tap_in_place(model: nn.Module, path: str) -> None:
    """Tap a module of ``model`` itself, for good."""
    place = _place(model, path)
    model.set_submodule(place, _tap(model.get_submodule(place), path))


def recorded(
    run: Callable[[Any, Any], Any],
    body: nn.Module,
    x: Any,  # noqa: ANN401 - whatever forward takes
    paths: Sequence[str],
    *,
    whole: bool = False,
) -> tuple[Any, list[Any]]:
    """What ``run`` gives for ``x`` on a tapped model, and what the modules at ``paths`` gave meanwhile.

    Args:
        run: ``(model, x)`` to anything.
        body: The model, with taps.
        x: What it takes.
        paths: The modules; all of them are tapped.
        whole: Whether what ``run`` gives is of use. A front has nothing after its last tap, and a forward that cannot
            go on without it has done all that it is for.

    Raises:
        NotSupported: One of them did not run.
    """
    outer = _CALL.outputs
    outputs: dict[str, Any] = {}
    result = None
    _CALL.outputs = outputs
    try:
        result = run(body, x)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, AssertionError):
        if whole or not all(path in outputs for path in paths):
            raise
    finally:
        _CALL.outputs = outer
    for path in paths:
        if path not in outputs:
            raise NotSupported(
                f"the module {path!r} did not run, so there is nothing to take from it",
                hint="an auxiliary head runs in train mode only",
            )
    return result, [outputs[path] for path in paths]


def _place(model: nn.Module, path: str) -> str:
    """The module that gives the output of ``path``: checkpointing calls the layers of a Sequential one by one."""
    module = model.get_submodule(path)
    plain = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    hooks = module._forward_hooks or module._forward_pre_hooks  # noqa: SLF001 - no public way to see them
    if not plain or hooks or not len(module._modules):  # noqa: SLF001 - as above
        return path
    return _place(model, f"{path}.{list(module._modules)[-1]}")  # noqa: SLF001 - as above


def _tap(module: nn.Module, path: str) -> nn.Module:
    """The module again, with all its attributes, values and modes, and of a class that records."""
    before = type(module)._zoo_key if isinstance(module, Tap) else ()  # noqa: SLF001 - our own
    twin: nn.Module = object.__new__(variant(without(type(module), Tap), Tap, (*before, path)))
    object.__setattr__(twin, "__dict__", module.__dict__)
    return twin

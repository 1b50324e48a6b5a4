"""The language that names parts of a model: ``"backbone"``, ``"head"``, stages, module paths and glob patterns."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from zoo_core.errors import UnknownPart, UsageError, close_matches, did_you_mean
from zoo_core.surgery.depth import depths, tensor_names, under
from zoo_core.surgery.knowledge import anatomy_of, unwrap

if TYPE_CHECKING:
    from torch import nn

WORDS = ("all", "backbone", "head", "stem")


def select(model: nn.Module, what: tuple[str, ...], *, until: str | None = None, stages: int | None = None) -> set[str]:
    """The names of the parameters and buffers that are meant.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``.
        what: Any of ``"all"``, ``"backbone"`` (all but the head sites), ``"head"``, ``"stem"``, the name of a stage,
            the path of a module or tensor, and glob patterns over tensor names.
        until: A stage or module path: everything that comes before it.
        stages: The stem and that many stages.

    Raises:
        UnknownPart: A name matches nothing; the message lists what there is.
        UsageError: ``stages`` is not a number from 0 to the number of stages.
    """
    found: set[str] = set()
    for pattern in what:
        found |= _named(model, pattern)
    if until is not None:
        found |= _before(model, until)
    if stages is not None:
        count = len(anatomy_of(model).stages)
        if isinstance(stages, bool) or not isinstance(stages, int) or not 0 <= stages <= count:
            raise UsageError(f"stages cannot be {stages!r}", expected=f"a number from 0 to {count}")
        found |= {name for name, depth in depths(model).items() if depth <= stages}
    return found


def _named(model: nn.Module, pattern: str) -> set[str]:
    anatomy = anatomy_of(model)
    names = tensor_names(unwrap(model))
    heads = tuple(head.path for head in anatomy.heads)
    if pattern == "all":
        return set(names)
    if pattern in {"head", "backbone"}:
        in_head = {name for name in names if any(under(name, path) for path in heads)}
        # a model may have a module called "head"; it is then part of what the word means
        return in_head if pattern == "head" else set(names) - in_head
    if pattern == "stem":
        return {name for name in names if any(under(name, path) for path in anatomy.stem)}
    for stage in anatomy.stages:
        if stage.name == pattern:
            return {name for name in names if any(under(name, path) for path in stage.modules)}
    found = {name for name in names if under(name, pattern) or fnmatchcase(name, pattern)}
    if not found:
        raise _unknown(model, pattern)
    return found


def _before(model: nn.Module, part: str) -> set[str]:
    stages = [stage.name for stage in anatomy_of(model).stages]
    by_depth = depths(model)
    if part in stages:
        limit = stages.index(part) + 1
        return {name for name, depth in by_depth.items() if depth < limit}
    inside = _named(model, part)
    # Stages run in depth order; inside one, the order of registration is the order of the layers.
    order = sorted(by_depth, key=by_depth.__getitem__)
    first = next(index for index, name in enumerate(order) if name in inside)
    return set(order[:first])


def _unknown(model: nn.Module, pattern: str) -> UnknownPart:
    stages = tuple(stage.name for stage in anatomy_of(model).stages)
    modules = [path for path, _ in unwrap(model).named_modules() if path]
    return UnknownPart(
        f"nothing in this {type(unwrap(model)).__name__} is called {pattern!r}",
        expected=f"one of the stages {', '.join(stages)}; one of {', '.join(WORDS)}; a module path, or a pattern",
        hint=did_you_mean(close_matches(pattern, [*stages, *WORDS, *modules]), "print(model) shows every module path"),
        part=pattern,
        parts=stages,
    )

"""``zoo.trace``: the anatomy of any module, found by running it and proven."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from zoo_core.contract.anatomy import CANDIDATES, UNPROVEN, Anatomy
from zoo_core.errors import AnatomyError, UsageError
from zoo_core.surgery.layers import is_norm
from zoo_core.surgery.metadata import unwrap
from zoo_core.tracing.feature_maps import Grid, with_several_maps
from zoo_core.tracing.head_finder import NoHead, can_be_head, find_heads
from zoo_core.tracing.last_layers import Layers
from zoo_core.tracing.passes import placed, record_passes
from zoo_core.tracing.split_finder import proven, with_split
from zoo_core.tracing.stage_finder import with_stages
from zoo_core.tracing.stage_proof import unproven_stages
from zoo_core.tracing.stem_finder import channel_counts, find_stem, numbers_per_channel
from zoo_core.utils.arguments import strict_arguments
from zoo_core.utils.compiled import without_compiled

_DETECTOR = "a detector scores many places of its maps, and not one vector an image"
"""Of ``Anatomy.indivisible``."""


@dataclass(frozen=True)
class Trace:
    """What :func:`zoo_core.trace` finds of a module, and what it cannot prove.

    Attributes:
        anatomy: All that was proven.
        missing: What was not, ``"head"``, ``"stages"`` or ``"split"``, and why.
        candidates: Paths of the layers that ``head=`` may name, where none was proven.
        norms: Paths of the normalization layers.
        any_size: Whether it takes images twice as large.
        is_batched: Whether it takes batches of any size; else the example is all of an input, as a graph is.
    """

    anatomy: Anatomy
    missing: Mapping[str, str] = field(default_factory=dict)
    candidates: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    any_size: bool = False
    is_batched: bool = True


@strict_arguments
def trace(
    model: nn.Module,
    example: Any,
    *,
    head: str | None = None,
    stages: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
) -> Trace:
    """Find the anatomy of a module that no plugin declared, from a few passes without values; no name is consulted.

    The model is not changed. What is found is proven before it is believed: the head by replacing it, the split by
    running its parts and comparing bit for bit.

    Args:
        model: Any module.
        example: What forward takes: one value, a tuple of several arguments, or a dict of them by name. The first axis
            of a tensor is the batch; where batches made so do not run, as those of a graph, it is taken as it is.
        head: Path of the main head site, where the model has several or none is found.
        stages: Paths of the modules that end the stages; or names to the paths of each stage's modules.

    Returns:
        The anatomy, and what could not be proven.

    Raises:
        AnatomyError: The model does not run on the example, or what you named cannot be proven.
        UsageError: There is no example, or the model is no module.

    Example:
        >>> import torch, zoo_core as zoo
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(600, 10))
        >>> found = zoo.trace(net, torch.zeros(1, 1, 24, 24))
        >>> found.anatomy.main.path, found.anatomy.stem, list(found.missing)
        ('4', ('0',), [])
    """
    bare = unwrap(model)
    _require_runnable(bare, example)
    bare = without_compiled(bare)
    passes = record_passes(bare, example)
    grid = Grid(passes.evaluated, passes.larger)
    missing: dict[str, str] = {}
    candidates: tuple[str, ...] = ()
    last: Sequence[str] = ()
    try:
        heads, main = find_heads(passes, head)
    except NoHead as error:
        if head is not None:
            raise _refused_head(bare, head, error) from None
        missing["head"], last = error.why, error.candidates
        candidates = tuple(each for each in last if can_be_head(passes, each))
        heads, main = (), error.last or Layers((), (passes.evaluated.recording.root.outputs or [0])[0])
    found, sites = find_stem(passes), {head.path for head in heads}
    stem = tuple(path for path in found if path not in sites) or found  # a number may go to the head directly
    anatomy = Anatomy(
        heads,
        stem=stem,
        headless=_headless(missing.get("head"), candidates, last),
        per_channel=numbers_per_channel(passes, stem),
        channel_attributes=channel_counts(passes, stem),
    )
    anatomy = with_stages(passes, anatomy, main, grid, stages)
    if any(each.role == "box" for each in heads):
        anatomy = replace(anatomy, indivisible=_DETECTOR)
    elif heads:
        anatomy = proven(bare, with_split(passes, anatomy, main, grid), placed(passes.example, bare))
    if anatomy.indivisible:
        missing["split"] = anatomy.indivisible
    if why := unproven_stages(passes, grid, anatomy, main, stages):
        anatomy, missing["stages"] = replace(anatomy, stages=()), why
    anatomy = with_several_maps(passes.evaluated, anatomy)
    norms = tuple(path for path, module in bare.named_modules() if is_norm(module))
    is_batched = passes.example is not example
    return Trace(anatomy, missing, candidates, norms, any_size=passes.any_size, is_batched=is_batched)


def _require_runnable(model: object, example: Any) -> None:
    """Refuse to trace without an example, or what is no model that can be run."""
    if not any(isinstance(each, Tensor) for each in tree_leaves(example)):
        raise UsageError(
            "there is nothing to run the model on",
            expected="example= to hold what forward takes, such as torch.zeros(1, 3, 224, 224)",
        )
    if isinstance(model, type):
        raise UsageError(
            f"{model.__name__} is a class, and no model yet",
            expected="an nn.Module",
            hint=f"{model.__name__}() makes one",
        )
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"a {type(model).__name__} is no model", expected="an nn.Module", hint="give the module itself"
        )


def _refused_head(model: nn.Module, head: str, error: NoHead) -> AnatomyError:
    """Error of ``zoo.trace`` for a head that the user named and that it does not prove."""
    others = [each for each in error.candidates if each != head]
    return AnatomyError(
        f"{head!r} is not proven to be a head of this {type(model).__name__}",
        got=error.why,
        hint=f"{CANDIDATES} {' or '.join(map(repr, others[:4]))}"
        if others
        else "give anatomy=zoo.Anatomy(...) too, to say by hand where its parts are",
    )


def _headless(why: str | None, candidates: Sequence[str], last: Sequence[str]) -> str | None:
    """Message of a ``Trace`` on why no head is proven, with the candidates for one."""
    if why is None:
        return None
    named = f"; {CANDIDATES} {' or '.join(map(repr, candidates[:4]))}" if candidates else ""
    if last and not candidates:
        named = f"; none of its last layers can be one: {', '.join(map(repr, last[:4]))}"
    return f"{UNPROVEN}: {why}{named}"

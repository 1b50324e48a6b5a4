"""Cutting a model between two stages: what runs before, what runs after; and ``zoo.truncate``, the front alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.contract.anatomy import Anatomy
from zoo_core.contract.chain import Chain, Step
from zoo_core.errors import NotSupported, UsageError
from zoo_core.surgery.editing import record_edit
from zoo_core.surgery.features.extract import LeftOut, recorded, stage_index, tapped
from zoo_core.surgery.features.forward import recompose, without_hooks
from zoo_core.surgery.features.twin import Module, own_hooks, replaced, with_unsaved_buffers
from zoo_core.surgery.metadata import anatomy_of, attach, metadata_of, unwrap
from zoo_core.surgery.noise import noisy_copy
from zoo_core.surgery.select import depths
from zoo_core.surgery.structure import WALKED, paths_around, under
from zoo_core.utils.arguments import strict_arguments
from zoo_core.utils.compiled import as_before_compile
from zoo_core.utils.eval_mode import evaluating


def absent(model: nn.Module, gone: Callable[[int], bool], keep: Collection[str] = ()) -> dict[str, nn.Module]:
    """What a cut leaves out: a :class:`LeftOut` for each of the largest modules wholly at such depths.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``.
        gone: Says of a depth, as :func:`~zoo_core.surgery.select.depths` counts it, whether it is left out.
        keep: Paths that stay, whatever their depth.
    """
    depths_inside: dict[str, set[int]] = defaultdict(set)
    for tensor, depth in depths(model).items():
        for path in paths_around(tensor):
            depths_inside[path].add(depth)
    stages = anatomy_of(model).stages
    bare_layers = {path for i, stage in enumerate(stages, 1) if gone(i) for path in stage.modules}

    def visit(parent: nn.Module, start: str) -> Iterator[str]:
        for name, child in parent.named_children():
            path = f"{start}{name}"
            inside = depths_inside.get(as_before_compile(path), ())
            kept = any(under(each, path) for each in keep)
            if isinstance(child, WALKED):  # a forward walks through them, and may do so early
                yield from visit(child, f"{path}.")
            elif not kept and (all(map(gone, inside)) if inside else path in bare_layers):
                yield path
            elif path not in keep:
                yield from visit(child, f"{path}.")

    return {path: LeftOut(path) for path in visit(unwrap(model), "")}


def cut_off(model: nn.Module, twin: Module, gone: Callable[[int], bool]) -> Module:
    """A twin without what a cut leaves out: the modules of :func:`absent`, and parameters that are in none of these.

    Such parameters, which forward uses itself after the cut, are buffers in it that are not saved.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``.
        twin: The same, or a twin of it; not changed.
        gone: Says of a depth, as :func:`~zoo_core.surgery.select.depths` counts it, whether it is left out.
    """
    result, by_depth = replaced(twin, absent(model, gone)), depths(model)
    said = [path for path, _ in anatomy_of(model).depths]
    names = [name for name, _ in result.named_parameters(remove_duplicate=False) if gone(by_depth.get(name, 0))]
    return with_unsaved_buffers(result, [name for name in names if name in said])


def front(model: nn.Module, stages: int) -> Callable[[Any, Any], Any]:
    """What runs before a cut: ``(model, x)`` to the feature map after so many stages.

    A chain is cut off there. Any other ``features`` runs on a model whose last stage is tapped, with nothing after it:
    see :func:`needs_tap`.
    """
    anatomy = anatomy_of(model)
    steps = _steps(model, anatomy)
    if steps:
        end = _steps_before_cut(steps, anatomy, stages)
        if end is not None:
            return Chain(*steps[:end])
    if stages == 0:
        raise _no_chain(model, "there is no stage before it")
    edge = anatomy.stages[stages - 1].output
    ends: str = getattr(anatomy.features, "path", edge)  # of a traced model: inside the stage, which gives a dict then
    is_run = any(isinstance(step, str) and under(edge, step) for step in steps or (edge,))
    is_run = is_run and (ends == edge or not under(ends, edge))
    return AtStage(edge, (anatomy.features if is_run else None) or without_hooks)


def needs_tap(run: Callable[[Any, Any], Any] | None) -> tuple[str, ...]:
    """Paths of the modules that have to be tapped for the front before a cut to work; none for a chain."""
    return (run.path,) if isinstance(run, AtStage) else ()


def tail(model: nn.Module, stages: int, x: Tensor) -> Chain:
    """What runs after a cut: the steps from the feature map after so many stages to the end of the features.

    Where the family gives no chain, the stages are run one after another, and one pass over ``x`` has to show that
    this gives the same bits.

    Raises:
        NotSupported: It does not.
    """
    anatomy = anatomy_of(model)
    steps = _steps(model, anatomy)
    end = _steps_before_cut(steps, anatomy, stages) if steps else None
    if end is not None:
        return Chain(*steps[end:])
    if anatomy.features is None:
        raise _no_chain(model, "its family does not say where its features end")
    after = [path for stage in anatomy.stages[stages:] for path in stage.modules]
    for chain in (Chain(*after), Chain(*after, *_norms_after(model, anatomy))):
        if _same(model, anatomy.features, anatomy.stages[stages - 1].output, chain, x):
            return chain
    raise _no_chain(model, "its stages do not simply run one after another")


def _steps(model: nn.Module, anatomy: Anatomy) -> tuple[Step, ...]:
    """The steps of a chain of features, so that a cut can be before and after every stage; empty for no chain."""
    if not isinstance(anatomy.features, Chain):
        return ()
    edges = [path for stage in anatomy.stages for path in (stage.modules[0], stage.output)]
    return tuple(step for each in anatomy.features.steps for step in _expanded(unwrap(model), each, edges))


def _expanded(model: nn.Module, step: Step, edges: list[str]) -> Iterator[Step]:
    """The steps inside a Sequential that a cut may go through, in its place; any other step as it is."""
    inside = isinstance(step, str) and any(edge != step and under(edge, step) for edge in edges)
    module = model.get_submodule(step) if isinstance(step, str) else None
    if inside and isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        for name, _ in module.named_children():
            yield from _expanded(model, f"{step}.{name}", edges)
    else:
        yield step


def _steps_before_cut(steps: tuple[Step, ...], anatomy: Anatomy, stages: int) -> int | None:
    """How many steps of a chain come before the cut; None where none of them ends there."""
    edge = anatomy.stages[stages - 1].output if stages else anatomy.stages[0].modules[0]
    if steps.count(edge) != 1:
        return None
    return steps.index(edge) + (1 if stages else 0)


def _norms_after(model: nn.Module, anatomy: Anatomy) -> list[str]:
    """Layers that the part after any cut may end with, from the last stage to the pool, such as a final norm."""
    last = len(anatomy.stages) + 1
    pool = anatomy.pool.steps if isinstance(anatomy.pool, Chain) else ()
    pooled = [step for step in pool if isinstance(step, str)]
    owners = dict.fromkeys(name.rpartition(".")[0] for name, depth in depths(model).items() if depth == last)
    return [path for path in owners if not any(under(path, step) for step in pooled)]


def _same(model: nn.Module, run: Callable[[Any, Any], Any], edge: str, chain: Chain, x: Tensor) -> bool:
    """Whether ``chain``, started after a cut from what the module ``edge`` gives, ends with what ``run`` gives."""
    body = noisy_copy(tapped(unwrap(model), [edge]))
    x = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), device="cpu")
    with torch.no_grad(), evaluating(body):
        whole, (start,) = recorded(run, body, x, [edge], whole=True)
        try:
            ours = chain(body, start)
        except (RuntimeError, TypeError, ValueError, AttributeError):  # a layer was given what it does not take
            return False
    return isinstance(ours, torch.Tensor) and isinstance(whole, torch.Tensor) and torch.equal(ours, whole)


def _no_chain(model: nn.Module, cause: str) -> NotSupported:
    """The error for a model that cannot be cut between two stages, as they do not run one after another."""
    return NotSupported(
        f"this {type(unwrap(model)).__name__} cannot be cut there",
        cause=cause,
        hint="models whose stages run one after another can, such as torchvision/resnet18, torchvision/densenet121, "
        "torchvision/efficientnet_b0, torchvision/mobilenet_v3_large, torchvision/convnext_tiny and torchvision/swin_t",
    )


def refuse_auxiliary(model: nn.Module, verb: str) -> None:
    """Raise NotSupported where other heads hang on layers that ``verb`` cuts out of the forward."""
    others = [site for site in anatomy_of(model).heads if site.role != "main"]
    if not others:
        return
    paths = ", ".join(site.path for site in others)
    auxiliary = all(site.role == "aux" for site in others)
    raise NotSupported(
        f"this {type(unwrap(model)).__name__} cannot be used with {verb}: it has more than one head site",
        cause=f"{paths} would never run again and only look trained"
        if auxiliary
        else f"its own forward goes on computing with what several heads give, {paths} among them",
        hint="build it without them, as options={'aux_logits': False} does for Inception and GoogLeNet"
        if auxiliary
        else "models with a single head can, such as torchvision's classifiers",
    )


@strict_arguments
def truncate(model: nn.Module, *, after: str) -> nn.Module:
    """The front of ``model``, up to a stage: it gives the feature map of that stage and holds nothing after it.

    The front shares its parameters with the model, which stays whole. Its class is a subclass
    of the model's, of the same name, and its state-dict keys are
    those of the model as far as it goes. All surgery that needs no head works on it.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``; not changed.
        after: Name of the last stage that stays.

    Returns:
        The front: ``[N, C, H, W]`` to what the stage gives, such as ``[N, channels, H / stride, W / stride]``.
        That of a module which takes several values is given them as one tuple or dict, as :func:`zoo_core.features` is.

    Raises:
        UnknownPart: There is no such stage; the message lists the stages.
        NotAZooModel: zoo knows nothing about the model.

    Example:
        >>> import torch, zoo_core as zoo
        >>> front = zoo.truncate(zoo.get("resnet18", weights=None), after="layer3")
        >>> front(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 256, 4, 4])
        >>> sum(parameter.numel() for parameter in front.parameters())
        2782784
    """
    if not isinstance(after, str):
        raise UsageError(f"after cannot be {after!r}", expected="the name of a stage, such as 'layer3'")
    kept = stage_index(model, after) + 1
    bare = unwrap(model)
    run = front(bare, kept)
    twin = cut_off(bare, bare, lambda depth: depth > kept)
    twin = tapped(twin, needs_tap(run))
    own_hooks(twin)
    read = anatomy_of(model).stages[kept - 1].read
    run = run if read is None else MapOf(run, read)
    only_front(bare, twin, kept, run, f"it was cut after {after!r}")
    record_edit(twin, "truncate", after=after)
    return twin


@dataclass(frozen=True)
class MapOf:
    """What ends a model that was cut: ``(model, x)`` to the map in what its last stage gives.

    Attributes:
        run: ``(model, x)`` to what the stage gives.
        read: ``(model, output)`` to the map in it, as the stage has it.
    """

    run: Callable[[Any, Any], Any]
    read: Callable[[Any, Any], Any]

    def __call__(self, model: nn.Module, x: Any) -> Any:
        """Run the front, and take the map out of what it gives."""
        return self.read(model, self.run(model, x))


def only_front(model: nn.Module, to: nn.Module, kept: int, run: Callable[[Any, Any], Any], headless: str) -> None:
    """Make ``to``, which holds the front of ``model``, run as a truncated model does, and know that it is one.

    Args:
        model: The whole.
        to: What is left of it; changed in place.
        kept: How many stages are left.
        run: ``(to, x)`` to what the front gives.
        headless: Why it has no head.
    """
    known = metadata_of(model)
    anatomy = replace(
        anatomy_of(model),
        heads=(),
        stages=known.anatomy.stages[:kept],
        features=run,
        pool=None,
        classify=None,
        scores=None,
        headless=headless,
    )
    left = to.state_dict()
    tensors = {name: what for name, what in known.receipt.tensors.items() if name in left}
    attach(to, replace(known, anatomy=anatomy, receipt=replace(known.receipt, tensors=tensors)))
    recompose(to, anatomy)


@dataclass(frozen=True)
class AtStage:
    """What runs before a cut in a model that is no chain: ``run``, for what a tapped stage gives in it.

    Attributes:
        path: The module, which has to be tapped.
        run: ``(model, x)`` to anything.
    """

    path: str
    run: Callable[[Any, Any], Any]

    def __call__(self, model: nn.Module, x: Tensor) -> Any:
        """Run the model, and take what the module gives."""
        return recorded(self.run, model, x, [self.path])[1][0]

"""The checks of forward: each image by itself, on any device, and compiled."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pkgutil import resolve_name
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from zoo_core.contract.card import Card
from zoo_core.errors import ZooError
from zoo_core.surgery.features.split import split
from zoo_core.surgery.head.swap import swap_head
from zoo_core.surgery.metadata import anatomy_of
from zoo_core.testing.checks.split import check_other_batch, check_other_inputs
from zoo_core.testing.checks.swap import NUM_CLASSES
from zoo_core.testing.findings import NonConformance, NotChecked, difference, line_of_caller, only_shapes, require
from zoo_core.testing.process import files_left, printed, random_states, started_from, watched
from zoo_core.testing.under_test import (
    DETECTORS,
    arguments,
    by_shapes,
    example,
    inputs_of,
    model_under_test,
    need_values,
    noisy,
    scores_of,
)
from zoo_core.utils.duplicate import duplicate
from zoo_core.utils.random_state import seeded

_ROUNDING = 1e-3
"""Of the largest score: kernels sum in another order for another batch."""
_TAKES_BOTH = {"index", "index_put", "copy", "to_copy", "pack_padded_sequence"}
"""What torch computes of tensors on two devices, without the underscores of variants."""


def check_forward(card: Card) -> None:
    """Each image of a batch gets the scores that it gets alone, on the device of the model; and nothing changes."""
    model = noisy(card)
    if by_shapes(card):
        only_shapes("scores")
    else:
        _check_leaves_alone(card, model)
        if card.task not in DETECTORS:  # which choose among the boxes of a batch
            _check_batch(card, model)
    _check_device(card, model.to("meta"))
    del model
    check_other_inputs(card)


def _check_leaves_alone(card: Card, model: nn.Module) -> None:
    """Forward in eval mode changes neither the model nor the process, prints nothing, and leaves no file."""
    x = inputs_of(card)
    before, numbers = dict(_marks(model.eval())), dict(_numbers(model))
    with watched() as changes, printed() as text, files_left() as files:
        seeds = _seeds_after(model, _brighter(x), 1)
        if seeds:  # drawing is a library's right, and gives others from another seed
            seeds &= _seeds_after(model, x, 2)
    label = f"{card.id}: forward in eval mode"
    after = dict(_marks(model))
    moved = [mark for mark in {**before, **after} if before.get(mark) != after.get(mark)]
    if numbers != (once := dict(_numbers(model))):  # it may remember the size of images, though nothing of themselves
        with torch.no_grad():
            model(*_brighter(_brighter(x)))
        moved += [name for name, number in _numbers(model) if number != once.get(name)]
    require(not moved, f"{label} changes {', '.join(moved[:5])}")
    require(not changes, f"{label} changes {', '.join(changes)} for the whole process")
    require(not [*text, *files], f"{label} {', '.join([*text, *files])}")
    require(not seeds, f"{label} seeds {', '.join(sorted(name for name, _ in seeds))} for the whole process")


def _brighter(x: tuple[Any, ...]) -> Any:
    """Brighter images than those that a checked forward took last, of the same size."""
    return tree_map(lambda each: each + 1 if isinstance(each, Tensor) else each, x)


def _seeds_after(model: nn.Module, x: tuple[Any, ...], seed: int) -> set[tuple[str, str]]:
    """In the check of forward, run a model after generators were seeded: those that moved, and what they are then."""
    with seeded(seed), started_from(seed) as before:
        model(*x)
        states = {name: repr(state) for name, state in random_states().items() if state != before[name]}
        if torch.initial_seed() != seed:
            states["torch"] = ""
    return {*states.items()}


def _marks(model: nn.Module) -> Iterator[tuple[str, object]]:
    """What forward must leave alone in eval mode: what is saved, modes, and which parameters train."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, nn.Parameter):
            yield name, (id(tensor), tensor._version)  # noqa: SLF001 - torch's only way to say that it was written to
            yield f"whether {name} trains", tensor.requires_grad
        elif isinstance(tensor, Tensor) and tensor.layout is torch.strided and not tensor.is_quantized:
            yield name, tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    for path, module in model.named_modules():
        yield f"the mode of {path or 'the model'}", module.training


def _numbers(model: nn.Module) -> Iterator[tuple[str, object]]:
    """The numbers in attributes of a model, for the check: forward may set them once for all images of a size."""
    for path, module in model.named_modules():
        plain = {name: value for name, value in vars(module).items() if type(value) in (bool, int, float)}
        yield from ((f"the attribute {path}{'.' if path else ''}{name}", value) for name, value in plain.items())


def _check_batch(card: Card, model: nn.Module) -> None:
    """The first image of a batch of two has the scores that it has alone."""
    x = example(card)
    image = x.clone()
    other = _difference(card, model, x)
    require(
        torch.equal(x, image), f"{card.id}: forward changes the images that it is given; x - mean leaves them alone"
    )
    if other is not None:  # noise on the parameters of some makes them amplify their rounding, which is smaller here
        with suppress(RuntimeError):  # a model that makes tensors of float32
            other = _difference(card, duplicate(model).double(), x.double())
    if other is not None:
        with torch.no_grad():
            one, two = (scores_of(model, *arguments(card, x)) for _ in range(2))
            alone = scores_of(model, *arguments(card, x[:1]))
            with _interrupted(card, model, x[:1]):
                interrupted = scores_of(model, *arguments(card, x[:1]))
        require(torch.equal(one, two), f"{card.id}: it gives other scores each time in eval mode, as a dropout would")
        if not torch.equal(alone, interrupted):
            raise NonConformance(
                f"{card.id}: an image gets other scores when another one is computed meanwhile, as by another thread, "
                f"by {difference(interrupted, alone)}",
                cause="forward keeps what it computes of an image in an attribute, and reads it there again",
                hint="pass it on as a local variable",
            )
        raise NonConformance(
            f"{card.id}: an image gets other scores beside another one than alone, by {other}",
            cause="forward computes over the batch in eval mode too, as a mean or a softmax along axis 0 does",
            hint="norms of batches normalize with their running statistics in eval mode",
        )


def _difference(card: Card, model: nn.Module, x: Tensor) -> str | None:
    """How the scores of the first image of a batch differ from those that it has alone; None if they do not."""
    with torch.no_grad():
        both = scores_of(model, *arguments(card, x))
        before = _count_kept_by_forward(model)
        with _interrupted(card, model, x[:1]):
            alone = scores_of(model, *arguments(card, x[:1]))
        if _count_kept_by_forward(model) > before:
            before = _count_kept_by_forward(model)
            scores_of(model, *arguments(card, x[:1]))
    more = _count_kept_by_forward(model) - before
    require(more <= 0, f"{card.id}: each forward leaves {more} tensors more in attributes of the model, for good")
    require(
        alone.dim() == both.dim(),
        f"{card.id}: forward gives scores of the shape {[*both.shape]} for two images, and of {[*alone.shape]} "
        "for one: it squeezes the axis of the batch away",
    )
    dtypes = {each.dtype for each in (*model.parameters(), x) if each.is_floating_point()}
    require(
        both.dtype in dtypes or len(dtypes) > 1,
        f"{card.id}: forward gives scores of {both.dtype} for images of {x.dtype}: a buffer or a constant is of it",
    )
    if both.shape[1:] != alone.shape[1:] or not bool(alone.isfinite().all()):
        return None
    is_near = float((both[:1] - alone).abs().max()) <= _ROUNDING * float(alone.abs().max())
    return None if is_near else difference(both[:1], alone)


@contextmanager
def _interrupted(card: Card, model: nn.Module, x: Tensor) -> Iterator[None]:
    """Inside the block, forward computes another image once while it computes one, as another thread might do."""
    anatomy, modules, others = anatomy_of(model), dict(model.named_modules()), arguments(card, 0.5 * x + 0.3)
    paths = [*(stage.output for stage in anatomy.stages[-1:]), *(head.path for head in anatomy.heads)]
    is_done = not paths or paths[0] not in modules

    def interrupt(*_: object) -> None:
        nonlocal is_done
        if not is_done:
            is_done = True
            model(*others)

    with modules.get(paths[0] if paths else "", model).register_forward_hook(interrupt):
        yield


def _count_kept_by_forward(model: nn.Module) -> int:
    """How many tensors the modules keep of a checked forward in their attributes, and in lists and dicts there."""
    return sum(isinstance(each, Tensor) for module in model.modules() for each in tree_leaves([*vars(module).values()]))


def _check_device(card: Card, model: nn.Module) -> None:
    """No tensor of forward, or of the parts of the split, stays on the CPU while the model is on another device."""
    x = example(card)
    _require_one_device(card, model, arguments(card, x), "forward")
    try:
        parts = split(model)
    except ZooError:  # it cannot be split, which the check of the split says
        return
    _require_one_device(card, nn.Sequential(*parts), (x,), "a part of the split")
    if isinstance(x, Tensor):
        check_other_batch(card, model, nn.Sequential(*parts), torch.cat([x, x[:1]]).to("meta"))


def _require_one_device(card: Card, model: nn.Module, inputs: tuple[Any, ...], what: str) -> None:
    """Refuse tensors that forward leaves on the CPU when its model is on another device; it is run without values."""
    x = tree_map(lambda each: each.to("meta") if isinstance(each, Tensor) else each, inputs)
    with torch.no_grad(), _Devices() as devices, suppress(Exception):  # what needs values fails there
        model(*x)
    require(
        not devices.mixed,
        f"{card.id}: {what} stays on the CPU when the model is on another device: {', '.join(devices.mixed[:2])}; "
        "make the tensor with device=x.device, or register it as a buffer",
    )


class _Devices(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's
    """Notes where forward gives torch a tensor on the CPU beside one on the meta device.

    What is copied to the CPU has no values there and becomes zeros, so that the run goes on.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's
        self.mixed: list[str] = []

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = func.__name__.partition(".")[0].strip("_")
        inputs = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        on_meta = [each for each in inputs if each.is_meta]
        if on_meta and any(each.dim() and not each.is_meta for each in inputs) and name not in _TAKES_BOTH:
            self.mixed.append(f"{name}{line_of_caller()}")
        if name == "to_copy" and on_meta and getattr(kwargs.get("device"), "type", "meta") == "cpu":
            return torch.zeros(on_meta[0].shape, dtype=kwargs.get("dtype") or on_meta[0].dtype, device="cpu")
        return func(*args, **kwargs)


def check_compile(card: Card) -> None:
    """Forward under ``torch.compile`` keeps the outputs, with no more graph breaks than the library's own model.

    A dear check, for a sample of models. The graph is captured and run by torch itself, without a code generator.
    """
    need_values(card)
    if card.task in DETECTORS:
        raise NotChecked(f"{card.id} is a detector: torch.compile leaves its choice of boxes to Python")
    x, model = inputs_of(card), duplicate(model_under_test(card))
    if anatomy_of(model).heads:
        swap_head(model, NUM_CLASSES, seed=0)
    own = resolve_name(card.build)(**card.options).eval()
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    breaks = [_graph_breaks(each, x) for each in (model, own)]
    require(
        breaks[0] <= breaks[1],
        f"{card.id}: {breaks[0]} graph breaks under torch.compile, and {breaks[1]} in the library's own model",
    )
    compiled = cast("nn.Module", torch.compile(duplicate(model), backend="eager"))
    with torch.no_grad():
        ours, theirs = scores_of(compiled, *x), scores_of(model, *x)
    torch._dynamo.reset()  # noqa: SLF001 - its public way to forget what it compiled
    close = torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    require(close, f"{card.id}: other outputs under torch.compile, by up to {(ours - theirs).abs().max().item():.2g}")


def _graph_breaks(model: nn.Module, x: tuple[Any, ...]) -> int:
    """Count the graph breaks of forward under ``torch.compile``, of a copy and of the library's own model."""
    torch._dynamo.reset()  # noqa: SLF001 - as above
    with torch.no_grad():
        return int(torch._dynamo.explain(model)(*x).graph_break_count)  # noqa: SLF001 - as above

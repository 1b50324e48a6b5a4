"""The conformance kit: what a family promises, checked on its models by its own author.

A plugin's whole test file::

    from zoo_core.testing import Conformance


    class TestAcme(Conformance):
        family = "acme"

Each check is a plain function of one card, so that it can be called by hand as well. Models are built untrained through
``zoo.get(..., weights=None)``; no check touches a network.
"""

from __future__ import annotations

import copy
import pickle
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import torch

from zoo_core.build import get
from zoo_core.errors import PluginError, close_matches, did_you_mean
from zoo_core.registry import current_zoo
from zoo_core.surgery.freeze import freeze
from zoo_core.surgery.head import seeded, swap_head
from zoo_core.surgery.knowledge import anatomy_of
from zoo_core.surgery.split import split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pytest
    from torch import Tensor, nn

    from zoo_core.card import Card

_SMALL_SIDE = 64
_GROWTH = 128
_NUM_CLASSES = 9
_SCHEMES = ("https://", "http://", "file://", "package://", "s3://", "gs://")


class NonConformance(PluginError, AssertionError):
    """A family does not keep a promise; the message names the model, the part and the cause."""


def specimen(card: Card) -> nn.Module:
    """An untrained model of this card in eval mode, always with the same parameters. Copy it before changing it."""
    return _specimen(card.id)


@lru_cache(maxsize=1)
def _specimen(name: str) -> nn.Module:
    return get(name, weights=None, seed=0).eval()


def example(card: Card, batch: int = 2) -> Tensor:
    """A batch of noise as small as the model takes: 64 pixels a side, or the size it was designed for.

    Args:
        card: The model.
        batch: How many pictures.
    """
    channels, *sides = card.input_size
    small = tuple(min(side, _SMALL_SIDE) for side in sides)
    with seeded(0):
        tries = [torch.randn(batch, channels, *size) for size in dict.fromkeys((small, tuple(sides)))]
    for x in tries[:-1]:
        try:
            with torch.no_grad():
                specimen(card)(x[:1])
        except (RuntimeError, ValueError, AssertionError):  # how models say that a picture is too small for them
            continue
        return x
    return tries[-1]


def check_card(card: Card) -> None:
    """The weights entries are well formed: a known scheme, a digest, no plain http without a full digest."""
    for weights in card.weights:
        label = f"{card.id}@{weights.tag}"
        for url in weights.urls:
            _require(url.startswith(_SCHEMES), f"{label}: {url} has none of the schemes {', '.join(_SCHEMES)}")
        _require(weights.strength != "none", f"{label}: no digest at all")
        _require(
            not isinstance(weights.categories, tuple) or len(weights.class_names) in (0, weights.num_classes),
            f"{label}: {len(weights.class_names)} class names for {weights.num_classes} classes",
        )
    _require(bool(card.default) == bool(card.weights), f"{card.id}: it has weights but no default, or the other way")


def check_paths(card: Card) -> None:
    """Every path of the anatomy is a module of the model."""
    model = specimen(card)
    anatomy = anatomy_of(model)
    known = dict(model.named_modules())
    named = [("head site", head.path) for head in anatomy.heads]
    named += [("stem", path) for path in anatomy.stem]
    named += [(f"stage {stage.name}", path) for stage in anatomy.stages for path in stage.modules]
    for what, path in named:
        nearest = did_you_mean(close_matches(path, known, limit=1), f"print({type(model).__name__}) shows the paths")
        _require(path in known, f"{card.id}: {what} {path!r}: no such module; {nearest}")


def check_in_features(card: Card) -> None:
    """The main head site is given as many features as the anatomy says, measured on a forward pass."""
    model = specimen(card)
    main = anatomy_of(model).main
    if main is None:
        return
    given = [x.shape for x in _inputs_of(model, main.path, example(card))]
    _require(bool(given), f"{card.id}: head site {main.path!r} is never called in eval mode")
    size = given[0][1] if main.kind == "conv" else given[0][-1]
    _require(size == main.in_features, f"{card.id}: {main.path!r} is given {size} features, not {main.in_features}")


def check_stages(card: Card) -> None:
    """The channels and strides of the stages are true, measured on forward passes."""
    model, x = specimen(card), example(card, batch=1)
    anatomy = anatomy_of(model)
    maps = _stage_maps(model, x)
    larger = _stage_maps(model, torch.cat([x[..., :1].expand(*x.shape[:-1], _GROWTH), x], dim=-1))
    for stage in anatomy.stages:
        channels, sides = _layout(anatomy.layout, maps[stage.name].shape)
        label = f"{card.id}: stage {stage.name}"
        _require(channels == stage.channels, f"{label} has {channels} channels, not {stage.channels}")
        if not sides:
            continue
        pixels, steps, slack = x.shape[-1], sides[-1], 0
        if stage.name in larger:  # what a wider picture adds is free of what padding does at the border
            pixels, steps, slack = _GROWTH, _layout(anatomy.layout, larger[stage.name].shape)[1][-1] - steps, 1
        right = abs(pixels / stage.stride - steps) <= slack
        _require(right, f"{label} makes {steps} steps of {pixels} pixels, so its stride is not {stage.stride}")


def check_split(card: Card) -> None:
    """``head(pool(features(x)))`` equals ``model(x)`` bit for bit in eval mode."""
    model, x = specimen(card), example(card)
    if anatomy_of(model).main is None:
        return
    backbone, head = split(model)
    with torch.no_grad():
        ours, theirs = head(backbone.pool(backbone.features(x))), model(x)
    _require(torch.equal(ours, theirs), f"{card.id}: split and forward differ by up to {_difference(ours, theirs)}")
    shared = {id(p) for p in backbone.parameters()} & {id(p) for p in head.parameters()}
    _require(not shared, f"{card.id}: backbone and head have {len(shared)} parameters in common")


def check_swap(card: Card) -> None:
    """A swap to 9 classes changes head keys only, aux heads and repeated class counts included."""
    model = copy.deepcopy(specimen(card))
    sites = [head.path for head in anatomy_of(model).heads]
    if not sites:
        return
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    swap_head(model, _NUM_CLASSES, seed=0)
    for name, tensor in model.state_dict().items():
        if name not in before or tensor.shape != before[name].shape:
            _require(_in(name, sites), f"{card.id}: the swap changed {name}, which is not under {', '.join(sites)}")
        elif not _in(name, sites):
            _require(torch.equal(tensor, before[name]), f"{card.id}: the swap changed the values of {name}")
    left = [name for name in _wide(model, before) if name not in sites]
    _require(not left, f"{card.id}: still {card.num_classes}-way after the swap: {', '.join(left)}")
    with torch.no_grad():
        scores = model(example(card))
    _require(tuple(scores.shape) == (2, _NUM_CLASSES), f"{card.id}: {tuple(scores.shape)} scores after the swap")


def check_freeze(card: Card) -> None:
    """With a frozen backbone gradients reach the head alone, and no running statistic moves after ``train()``."""
    model = copy.deepcopy(specimen(card))
    sites = [head.path for head in anatomy_of(model).heads]
    if not sites:
        return
    freeze(model, "backbone").train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    sum(tensor.float().sum() for tensor in _tensors(model(example(card)))).backward()  # type: ignore[union-attr]
    touched = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    outside = [name for name in touched if not _in(name, sites)]
    _require(not outside, f"{card.id}: gradients outside the head: {', '.join(outside[:5])}")
    _require(bool(touched), f"{card.id}: no gradient reached the head")
    moved = [name for name, buffer in model.named_buffers() if not torch.equal(before[name], buffer)]
    _require(not moved, f"{card.id}: these buffers moved while frozen: {', '.join(moved[:5])}")


def check_twins(card: Card) -> None:
    """Copies by deepcopy and pickle keep the outputs, and what zoo knows."""
    model, x = specimen(card), example(card, batch=1)
    for how, twin in (("deepcopy", copy.deepcopy(model)), ("pickle", pickle.loads(pickle.dumps(model)))):  # noqa: S301 - our own bytes
        with torch.no_grad():
            same = torch.equal(next(_tensors(twin(x))), next(_tensors(model(x))))
        _require(same, f"{card.id}: other outputs after {how}")
        _require(anatomy_of(twin).heads == anatomy_of(model).heads, f"{card.id}: another anatomy after {how}")


CHECKS: tuple[Callable[[Card], None], ...] = (
    check_card,
    check_paths,
    check_in_features,
    check_stages,
    check_split,
    check_swap,
    check_freeze,
    check_twins,
)
"""Every check, from cheap to dear."""


class Conformance:
    """Subclass this as ``TestSomething``, say which family, and pytest runs every check on every model.

    Attributes:
        family: Name of the family.
        models: Glob patterns of the models to check; all by default.
        tasks: The tasks whose models are checked.
        expected_failures: ``"check_name:model"`` globs to the reason; one that passes after all is an error.
    """

    family: ClassVar[str]
    models: ClassVar[Sequence[str]] = ("*",)
    tasks: ClassVar[Sequence[str]] = ("classification",)
    expected_failures: ClassVar[Mapping[str, str]] = {}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test a model and check; the models are the outer loop, so that each is built once."""
        zoo = current_zoo()
        names = [name for pattern in self.models for name in zoo.list(pattern, family=self.family)]
        cards = [zoo.resolve(name)[0] for name in dict.fromkeys(names)]
        cards = [card for card in cards if card.task in self.tasks]
        pairs = [(card, check) for card in cards for check in CHECKS]
        ids = [f"{card.name}-{check.__name__.removeprefix('check_')}" for card, check in pairs]
        metafunc.parametrize(("card", "check"), pairs, ids=ids)

    def test_conformance(self, card: Card, check: Callable[[Card], None]) -> None:
        """Run one check on one model."""
        from fnmatch import fnmatchcase

        case = f"{check.__name__}:{card.name}"
        reason = next((why for glob, why in self.expected_failures.items() if fnmatchcase(case, glob)), None)
        if reason is None:
            check(card)
            return
        try:
            check(card)
        except NonConformance:
            return
        raise NonConformance(f"{case} passes, though it was expected to fail: {reason}", hint="take the exception out")


def _require(condition: bool, message: str) -> None:  # noqa: FBT001 - it is the subject of the sentence
    if not condition:
        raise NonConformance(message)


def _inputs_of(model: nn.Module, path: str, x: Tensor) -> list[Tensor]:
    seen: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model(x)
    handle.remove()
    return seen


def _stage_maps(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The outputs of all stages by name; none when the model does not take a picture of this size."""
    maps: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(stage.output).register_forward_hook(
            lambda _, __, made, name=stage.name: maps.__setitem__(name, made)
        )
        for stage in anatomy_of(model).stages
    ]
    try:
        with torch.no_grad():
            model(x)
    except (RuntimeError, ValueError, AssertionError):  # how models say that they take one size only
        return {}
    finally:
        for handle in handles:
            handle.remove()
    return maps


def _layout(layout: str, shape: torch.Size) -> tuple[int, tuple[int, ...]]:
    """Channels and sides of a map; tokens have no sides."""
    if layout == "NCHW":
        return shape[1], tuple(shape[2:])
    return shape[-1], tuple(shape[1:-1]) if layout == "NHWC" else ()


def _in(name: str, sites: Sequence[str]) -> bool:
    return any(name.startswith(f"{site}.") for site in sites)


def _wide(model: nn.Module, before: Mapping[str, Tensor]) -> Iterator[str]:
    """Modules with as many outputs as the old head had, whose weight is as it was: heads that were left behind."""
    old = {before[f"{path}.weight"].shape[0] for path in _head_paths(model) if f"{path}.weight" in before}
    for path, module in model.named_modules():
        weight = getattr(module, "weight", None)
        width = getattr(module, "out_features", None)
        if width in old and weight is not None and weight.shape[0] == width and f"{path}.weight" in before:
            yield path


def _head_paths(model: nn.Module) -> list[str]:
    return [head.path for head in anatomy_of(model).heads]


def _tensors(output: object) -> Iterator[Tensor]:
    """The tensors in what a model returned: itself, or those of a tuple or mapping."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, dict):
        for item in output.values():
            yield from _tensors(item)
    elif isinstance(output, list | tuple):
        for item in output:
            yield from _tensors(item)


def _difference(ours: Tensor, theirs: Tensor) -> str:
    if ours.shape != theirs.shape:
        return f"shape, {tuple(ours.shape)} and {tuple(theirs.shape)}"
    return f"{(ours - theirs).abs().max().item():.2g}"

"""Which of the last layers are head sites: the main one, those beside it, and the proof that they can be replaced."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from zoo_core.contract.anatomy import Head
from zoo_core.surgery.head.sites import evaluating
from zoo_core.tracing.head_sites import Layers, last_layers, site
from zoo_core.tracing.program import run
from zoo_core.tracing.recording import plain_fields

if TYPE_CHECKING:
    from zoo_core.tracing.dataflow import Dataflow
    from zoo_core.tracing.passes import Passes

_MORE = 7
"""Classes that a head is given more of to see what changes."""
_VECTORS = 2
"""Axes of ``[N, C]``."""
_ALIKE = 4
"""Ops by which the ways to two sites may differ and still be of one depth."""
_AUXILIARY = 8
"""Parametric ops of its own that the way to the main output has at least, beside one to an auxiliary output."""


class NoHead(Exception):
    """Why there is no head site that can be believed.

    Args:
        why: The reason.
        candidates: Paths of the layers that the user may have meant.
    """

    def __init__(self, why: str, candidates: list[str]) -> None:
        super().__init__(why)
        self.why = why
        self.candidates = candidates


def find_heads(passes: Passes, chosen: str | None = None) -> tuple[tuple[Head, ...], Layers]:
    """The proven head sites, and the output that the main one gives.

    Args:
        passes: The recorded model.
        chosen: Path of the main one, where the user says it.

    Raises:
        NoHead: None is proven.
    """
    found = last_layers(passes.model, passes.evaluated)
    if not chosen and (place := _place(passes, found)):
        return place, found[0]
    main = _chosen(found, chosen) if chosen else _main(passes.evaluated, found)
    paths = [chosen] if chosen else [*main.ops]
    role = "summed" if not main.averaged else "distilled"
    sites = [
        site(passes.model, passes.evaluated, path, main.ops[path], "main" if index == 0 else role)
        for index, path in enumerate(_deepest_first(passes.evaluated, main, paths))
    ]
    sites += [] if chosen else _auxiliary(passes, found, main, sites)
    heads = _proven(passes, tuple(sites), main)
    return heads, main


def _deepest_first(flow: Dataflow, main: Layers, paths: list[str]) -> list[str]:
    """The sites of one output: what the most is computed for comes first, then what runs first."""

    def rank(path: str) -> tuple[int, int]:
        number = main.ops[path]
        return -(len(flow.ancestors(flow.recording.ops[number].outputs)) // _ALIKE), number

    return sorted(paths, key=rank)


def _place(passes: Passes, found: list[Layers]) -> tuple[Head, ...] | None:
    """A place for a head in a model that gives vectors: the last module through which they go as they are."""
    recording = passes.evaluated.recording
    if len(found) != 1 or found[0].key or found[0].ops or len(recording.shapes[found[0].value]) != _VECTORS:
        return None
    calls = [call for call in recording.calls() if call.outputs == [found[0].value]]
    through = [(call.path, type(passes.model.get_submodule(call.path))) for call in calls]
    last_dropout = max((index for index, (_, kind) in enumerate(through) if kind is nn.Dropout), default=-1)
    after = [path for path, kind in through[last_dropout + 1 :] if kind is nn.Identity]
    places = [path for path, kind in through if kind is nn.Identity]
    places += after[:1] if last_dropout >= 0 else []
    width = recording.shapes[found[0].value][-1]
    for path in reversed(places):
        model = copy.deepcopy(passes.model)
        like = next(model.parameters(), torch.empty(0, device="cpu"))
        model.set_submodule(path, nn.Linear(width, width + _MORE, device=like.device, dtype=like.dtype))
        with torch.no_grad(), evaluating(model):
            made = run(model, passes.x)
        if isinstance(made, Tensor) and made.shape[-1] == width + _MORE:
            return (Head(path, width, 0),)
    return None


def _chosen(found: list[Layers], path: str) -> Layers:
    for each in found:
        if path in each.ops:
            return each
    reasons = {name: why for each in found for name, why in each.reasons.items()}
    why = reasons.get(path, "it is not the last layer before an output")
    raise NoHead(f"{path} is no head site: {why}", [name for each in found for name in each.ops])


def _main(flow: Dataflow, found: list[Layers]) -> Layers:
    candidates = [path for each in found for path in (*each.ops, *each.reasons) if path]
    able = [each for each in found if each.ops and not each.reasons]
    if not able:
        reasons = {path: why for each in found for path, why in each.reasons.items()}
        why = "; ".join(f"{path or 'forward'}: {text}" for path, text in [*reasons.items()][:3])
        raise NoHead(why or "no output depends on the input", [*dict.fromkeys(candidates)][:8])
    ways = {id(each): flow.ancestors([each.value]) for each in able}
    able = [each for each in able if not any(_leads_to(each, other, ways[id(other)]) for other in able)]
    distinct = [each for index, each in enumerate(able) if all(each.ops != other.ops for other in able[:index])]
    for each in distinct:
        if all(other is each or _is_auxiliary(flow, other, each, ways) for other in distinct):
            return each
    raise NoHead(
        f"forward returns {len(distinct)} outputs from layers of their own, and nothing says which is the main one",
        list(dict.fromkeys(candidates)),
    )


def _leads_to(one: Layers, other: Layers, way: set[int]) -> bool:
    """Whether the layers of ``one`` come before those of ``other``: hidden layers that are returned as well."""
    return one is not other and one.ops != other.ops and all(number in way for number in one.ops.values())


def _is_auxiliary(flow: Dataflow, one: Layers, main: Layers, ways: dict[int, set[int]]) -> bool:
    """Whether ``one`` branches off long before ``main``, and has little of its own."""

    def own(each: Layers, other: Layers) -> int:
        private = ways[id(each)] - ways[id(other)]
        return sum(bool(flow.parameters_of(flow.recording.ops[number])) for number in private)

    return own(main, one) >= _AUXILIARY and own(main, one) > 2 * own(one, main)


def _auxiliary(passes: Passes, found: list[Layers], main: Layers, sites: list[Head]) -> list[Head]:
    """The sites of other outputs with as many classes: those in eval mode, and those that appear in train mode."""
    known = {each.path for each in sites}
    sources = [(passes.evaluated, [each for each in found if each is not main])]
    if passes.trained:
        sources.append((passes.trained, last_layers(passes.model, passes.trained)))
    aux: dict[str, Head] = {}
    for flow, outputs in sources:
        ends = {path: number for each in outputs for path, number in each.ops.items()}
        way = flow.ancestors(flow.recording.root.outputs)
        for each in outputs:
            for path, number in each.ops.items():
                head = site(passes.model, flow, path, number, "aux")
                last = not any(
                    flow.recording.ops[number].outputs[0] in flow.recording.ops[later].inputs
                    and later in way
                    and flow.parameters_of(flow.recording.ops[later])
                    for later in range(number + 1, len(flow.recording.ops))
                )
                if path not in known and head.num_classes == sites[0].num_classes and last and path in ends:
                    aux[path] = head
    return [*aux.values()]


def _proven(passes: Passes, sites: tuple[Head, ...], main: Layers) -> tuple[Head, ...]:
    """The sites, each replaced by a layer with more classes, with the attributes that this needs.

    Raises:
        NoHead: That does not change the width of the main output, or changes another one.
    """
    called = {call.path for flow in passes.flows for call in flow.recording.calls()}
    paths = [each.path for each in sites]
    for path in paths:
        if path not in called:
            raise NoHead(f"the weights of {path} are used without calling it", paths)
    if why := _refusal(passes, sites, main):
        with_numbers = tuple(replace(each, attributes=_numbers(passes.model, each)) for each in sites)
        if not any(each.attributes for each in with_numbers) or _refusal(passes, with_numbers, main):
            raise NoHead(f"with other classes at {', '.join(paths)}, {why}", paths)
        return with_numbers
    return sites


def _refusal(passes: Passes, sites: tuple[Head, ...], main: Layers) -> str | None:
    """What is wrong when all sites have more classes; None where the width of the main output is all that changes."""
    model = copy.deepcopy(passes.model)
    for each in sites:
        model.set_submodule(each.path, _wider(model.get_submodule(each.path)))
        for name in each.attributes:
            owner, _, own = name.rpartition(".")
            setattr(model.get_submodule(owner), own, each.num_classes + _MORE)
    try:
        with torch.no_grad(), evaluating(model):
            made = run(model, passes.x)
    except Exception as error:  # noqa: BLE001 - the model's own code
        return f"forward fails: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    recording = passes.evaluated.recording
    before, spec = tree_flatten(recording.root.output)
    after, new_spec = tree_flatten(plain_fields(made))
    if spec != new_spec:
        return "forward returns something else"
    aux = any(each.role == "aux" for each in sites)
    for old, new in zip(before, after, strict=True):
        value = getattr(old, "value", None)
        if value is None or not isinstance(new, Tensor):
            continue
        shape, wanted = tuple(new.shape), recording.shapes[value]
        changed = [(a, b) for a, b in zip(wanted, shape, strict=False) if a != b]
        if value == main.value and changed != [(sites[0].num_classes, sites[0].num_classes + _MORE)]:
            return f"the output's shape is {list(shape)} after {list(wanted)}"
        if value != main.value and changed and not aux:
            return f"another output's shape is {list(shape)} after {list(wanted)}"
    return None


def _wider(layer: Any) -> nn.Module:  # noqa: ANN401 - a Linear or a convolution
    """A layer like this one with more classes."""
    like = layer.weight
    options: dict[str, Any] = {"bias": layer.bias is not None, "device": like.device, "dtype": like.dtype}
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, layer.out_features + _MORE, **options)
    kind: Any = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.Conv3d
    shape = {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation")}
    wider: nn.Module = kind(layer.in_channels, layer.out_channels + _MORE, **shape, **options)
    return wider


def _numbers(model: nn.Module, head: Head) -> tuple[str, ...]:
    """Paths of the integers that are as many as the classes, in the modules around a head site."""
    parts = head.path.split(".")
    owners = [".".join(parts[:depth]) for depth in range(len(parts))]
    found = []
    for path in owners:
        for name, value in vars(model.get_submodule(path)).items():
            if type(value) is int and value == head.num_classes:
                found.append(f"{path}.{name}".lstrip("."))
    return tuple(found)

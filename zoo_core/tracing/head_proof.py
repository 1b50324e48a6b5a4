"""The proof of traced heads: each is given more classes, and just the main output has to become wider."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from zoo_core.tracing.last_layers import KINDS, last_layers, owner
from zoo_core.tracing.program import run
from zoo_core.tracing.recording import plain_fields
from zoo_core.utils.attributes import repeated_numbers, set_attribute
from zoo_core.utils.eval_mode import evaluating
from zoo_core.utils.meta_shapes import MetaShapes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from zoo_core.contract.anatomy import Head
    from zoo_core.tracing.last_layers import Layers
    from zoo_core.tracing.passes import Passes
    from zoo_core.tracing.recording import Dataflow


_CLASS_COUNTS = frozenset(
    {"num_classes", "n_classes", "nb_classes", "num_class", "n_class", "nclass", "num_labels", "n_labels"}
)


MORE = 7
"""Classes that a head is given more of to see what changes."""


class NoHead(Exception):
    """Why there is no head that has a proof, of those that a traced model may have.

    Args:
        why: The reason.
        candidates: Paths of the layers that the user may have meant.
        last: The last layers, where these are known; they are no part of a stage, heads or not.
    """

    def __init__(self, why: str, candidates: list[str], last: Layers | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.candidates = candidates
        self.last = last


def proven_heads(passes: Passes, sites: tuple[Head, ...], main: Layers, *, said: bool) -> tuple[Head, ...]:
    """The head sites, proven by a layer with more classes at each, with the attributes that this needs.

    Raises:
        NoHead: That does not change the width of the main output, or changes another one.
    """
    called = {call.path for flow in passes.flows for call in flow.recording.calls()}
    paths = [each.path for each in sites]
    for path in paths:
        number = main.ops.get(path)
        is_inside = number is None or path in passes.evaluated.recording.ops[number].modules
        if path not in called or not is_inside:
            raise NoHead(f"the weights of {path} are used without calling it", paths, main)
    counting, numbered = (
        tuple(replace(each, attributes=paths_in(passes.model, each)) for each in sites)
        for paths_in in (_counts, _class_counts)
    )
    reasons = {}
    for tried in dict.fromkeys((counting, sites, numbered)):
        reasons[tried] = _refusal(passes, tried, main, said=said)
        if reasons[tried] is None:
            return tried
    raise NoHead(f"with other classes at {', '.join(paths)}, {reasons[sites]}", paths, main)


def _refusal(passes: Passes, sites: tuple[Head, ...], main: Layers, *, said: bool) -> str | None:
    """What refutes the heads when all have more classes; None where just the width of the main output changes.

    A site that the user ``said`` may also leave the shape as it is, as where forward returns a class and no scores,
    or be one of several whose scores are joined.
    """
    model = passes.model
    try:
        with torch.no_grad(), evaluating(model), with_more_classes(model, sites), MetaShapes():
            made = run(model, passes.x)
    except Exception as error:  # noqa: BLE001 - the model's own code
        return f"forward fails: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    recording = passes.evaluated.recording
    before, spec = tree_flatten(recording.root.output)
    after, new_spec = tree_flatten(plain_fields(made))
    if spec != new_spec:
        return "forward returns something else"
    aux = any(each.role == "aux" for each in sites)
    outputs = last_layers(model, passes.evaluated)
    alike = [each.value for each in outputs if each.ops and {*each.ops} <= {*main.ops}]  # also of one head of several
    for old, new in zip(before, after, strict=True):
        value = getattr(old, "value", None)
        if value is None or not isinstance(new, Tensor):
            continue
        shape, expected = tuple(new.shape), recording.shapes[value]
        changed = [(a, b) for a, b in zip(expected, shape, strict=False) if a != b]
        more = [(sites[0].num_classes, sites[0].num_classes + MORE)]
        beside = said and all(b - a == MORE for a, b in changed) and len(changed) <= 1
        if beside and not changed and value == main.value and (where := _other_use(passes.evaluated, sites[0], main)):
            return f"the output has as many numbers as before: {where}"
        if value == main.value and changed != more and not beside:
            return f"the output's shape is {list(shape)} after {list(expected)}"
        follows = value in alike and changed == more
        if value != main.value and changed and not aux and not follows:
            return f"another output's shape is {list(shape)} after {list(expected)}"
    return None


def _layer_after_head(flow: Dataflow, head: Head, main: Layers) -> str | None:
    """What refutes a head: a layer that is computed with what it gives, on the way to the output."""
    after = {*flow.recording.ops[main.ops[head.path]].outputs}
    for number in sorted(flow.ancestors([main.value])):
        op = flow.recording.ops[number]
        if not after.isdisjoint(op.inputs):
            if parameters := flow.parameters_of(op):
                return owner(op, parameters) or parameters[0]
            after.update(op.outputs)
    return None


def _other_use(flow: Dataflow, head: Head, main: Layers) -> str | None:
    """What refutes a head: its scores go to another layer, as those of a gate, or nowhere."""
    if used := _layer_after_head(flow, head, main):
        return f"what it gives goes into {used}"
    made, axis = flow.recording.ops[main.ops[head.path]].outputs, -1 if head.kind == "linear" else 1
    left = flow.part_left(made, main.value, axis, head.num_classes)
    return None if left is None else f"forward goes on with {left} of its {head.num_classes}"


@contextmanager
def with_more_classes(model: nn.Module, sites: Sequence[Head]) -> Iterator[None]:
    """Inside the block, the heads to prove give more scores, and the copy's numbers of classes say so."""
    counts = {name: each.num_classes for each in sites for name in each.attributes}
    layers = {each.path: model.get_submodule(each.path) for each in sites}
    more = {each.path: MORE * each.per_class for each in sites}
    try:
        for path, layer in layers.items():
            model.set_submodule(path, _wider_layer(layer, more[path]))
        _set_numbers(model, {name: count + MORE for name, count in counts.items()})
        yield
    finally:
        for path, layer in layers.items():
            model.set_submodule(path, layer)
        _set_numbers(model, counts)


def _set_numbers(model: nn.Module, numbers: Mapping[str, int]) -> None:
    for path, number in numbers.items():
        set_attribute(model, path, number)


def _wider_layer(layer: Any, more: int) -> nn.Module:
    """A head's layer with more outputs, to prove it with, otherwise like this one."""
    like = layer.weight
    options: dict[str, Any] = {"bias": layer.bias is not None, "device": like.device, "dtype": like.dtype}
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, layer.out_features + more, **options)
    kind: Any = next(each for each, _ in KINDS if isinstance(layer, each))
    shape = {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation")}
    wider: nn.Module = kind(layer.in_channels, layer.out_channels + more, **shape, **options)
    return wider


def _counts(model: nn.Module, head: Head) -> tuple[str, ...]:
    """Paths of the integers called a number of classes, raised as a head is proven though forward reads none."""
    return repeated_numbers(model, head.path, head.num_classes, _CLASS_COUNTS)


def _class_counts(model: nn.Module, head: Head) -> tuple[str, ...]:
    """Integers around a head to prove that are as many as its classes, its own attributes first."""
    parts = head.path.split(".")
    owners = [".".join(parts[:depth]) for depth in range(len(parts))]
    result = dict.fromkeys(_counts(model, head))
    for path in owners:
        for name, value in vars(model.get_submodule(path)).items():
            if type(value) is int and value == head.num_classes:
                result[f"{path}.{name}".lstrip(".")] = None
    return tuple(result)

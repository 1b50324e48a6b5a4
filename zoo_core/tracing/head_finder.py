"""Finding the heads of a traced model among its last layers, and the proof: with more classes the output widens.

Those of a detector are scores of the classes, and four numbers a class for the box, of the same features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_structure

from zoo_core.contract.anatomy import Head
from zoo_core.surgery.features.forward import run_forward
from zoo_core.tracing.last_layers import IMAGES, KINDS, VECTORS, Layers, last_layers, layer_refusal, owner
from zoo_core.tracing.recording import Dataflow, plain_fields
from zoo_core.utils.attributes import repeated_numbers, set_attribute
from zoo_core.utils.duplicate import duplicate
from zoo_core.utils.eval_mode import evaluating
from zoo_core.utils.meta_shapes import MetaShapes

if TYPE_CHECKING:
    from zoo_core.tracing.passes import Passes


_CLASS_COUNTS = frozenset(
    {"num_classes", "n_classes", "nb_classes", "num_class", "n_class", "nclass", "num_labels", "n_labels"}
)
MORE = 7
"""Classes that a head is given more of to see what changes."""
_ALIKE = 4
"""Ops by which the ways to two sites may differ and still be of one depth."""
_AUXILIARY = 8
"""Parametric ops of its own that the way to the main output has at least, beside one to an auxiliary output."""
_BOX = 4
"""Numbers of a box."""


def find_heads(passes: Passes, chosen: str | None = None) -> tuple[tuple[Head, ...], Layers]:
    """Find the head sites of a traced model, prove them, and give the output that the main one gives.

    Raises:
        NoHead: None is proven.
    """
    result = last_layers(passes.model, passes.evaluated)
    if place := _place_for_head(passes, result, chosen):
        return place, replace(result[0], ops={}, reasons={})
    last = [path for each in result for path in (*each.ops, *each.reasons) if path]
    boxes = _box_heads(passes, last)
    if boxes and chosen in {None, boxes[0].path}:
        number = _number_of(passes.evaluated, boxes[0].path)
        return boxes, Layers((), result[0].value, {boxes[0].path: number})
    main = _output_of_chosen(passes, result, chosen) if chosen else _main_output(passes, result)
    paths = [chosen] if chosen else [*main.ops]
    role = "summed" if not main.averaged else "distilled"
    sites = [
        _site_at(passes.model, passes.evaluated, path, main.ops[path], "main" if index == 0 else role)
        for index, path in enumerate(_deepest_first(passes.evaluated, main, paths))
    ]
    if not chosen:
        _refuse_tokens(passes, main, sites)
        _refuse_other_ways(passes, main, sites)
        sites += _auxiliary(passes, result, main, sites)
    heads = proven_heads(passes, tuple(sites), main, said=chosen is not None)
    return heads, main


def _box_heads(passes: Passes, last: Sequence[str]) -> tuple[Head, ...]:
    """The heads of a traced detector: its sites of class scores, boxes and masks; none where they are not plain.

    Scores are chosen by their values, so the proof is that forward still runs when all of them have more classes.
    """
    model, flow = passes.model, passes.evaluated
    if not isinstance(passes.x, list):
        return ()
    numbers: dict[str, int] = {}
    for number, op in enumerate(flow.recording.ops):
        for name in flow.parameters_of(op):
            numbers.setdefault(name.rpartition(".")[0], number)
    layers = {path: model.get_submodule(path) for path in dict.fromkeys(last) if path in numbers}
    linear = {path: layer for path, layer in layers.items() if isinstance(layer, nn.Linear)}
    pairs = [
        (one, other)
        for one in linear
        for other in linear
        if linear[other].out_features == _BOX * linear[one].out_features
        and flow.moving(flow.recording.ops[numbers[one]]) == flow.moving(flow.recording.ops[numbers[other]])
    ]
    if len(pairs) != 1:
        return ()
    (scores, boxes), width = pairs[0], linear[pairs[0][0]].in_features
    classes = linear[scores].out_features
    heads = [Head(scores, width, classes), Head(boxes, width, classes, role="box", per_class=_BOX)]
    heads += [
        Head(path, layer.in_channels, classes, "conv", role="mask")
        for path, layer in ((path, model.get_submodule(path)) for path in numbers if numbers[path] > numbers[scores])
        if isinstance(layer, nn.Conv2d) and layer.out_channels == classes and _is_mask_head(flow, numbers[path])
    ]
    return tuple(heads) if _detector_runs(passes, tuple(heads)) else ()


def _is_mask_head(flow: Dataflow, number: int) -> bool:
    """Whether that op of a detector is a head: no layer takes what it gives, though hundreds of ops paste its masks."""
    reached = {*flow.recording.ops[number].outputs}
    for op in flow.recording.ops[number + 1 :]:
        if not reached.isdisjoint(op.inputs):
            if flow.parameters_of(op):
                return False
            reached.update(op.outputs)
    return True


def _detector_runs(passes: Passes, heads: tuple[Head, ...]) -> bool:
    """Whether a detector runs, and gives outputs of the same structure, while its heads to prove have more classes."""
    try:
        with torch.no_grad(), evaluating(passes.model), with_more_classes(passes.model, heads):
            made = run_forward(passes.model, passes.x)
    except Exception:  # noqa: BLE001 - the model's own code
        return False
    return tree_structure(plain_fields(made)) == tree_structure(passes.evaluated.recording.root.output)


def _refuse_tokens(passes: Passes, main: Layers, sites: Sequence[Head]) -> None:
    """Refuse to find a head in a last layer that gives a vector for each token of an image.

    These are scores in text recognition, and embeddings in an encoder, whose projection no verb should replace.

    Raises:
        NoHead: It is such a layer.
    """
    shapes, inputs = passes.evaluated.recording.shapes, passes.evaluated.recording.inputs
    is_sequence = len(shapes[main.value]) == VECTORS + 1
    if is_sequence and all(each.tokens for each in sites) and any(len(shapes[value]) in IMAGES for value in inputs):
        why = "it gives a vector for each token of an image, which may be scores or a projection"
        raise NoHead(why, [each.path for each in sites], main)


def _refuse_other_ways(passes: Passes, main: Layers, sites: Sequence[Head]) -> None:
    """Refuse to find a head where forward chose by values what it ran, and layers left out may give the scores as well.

    These are the layers beside a head, and those of its width, that do not lead to the output.

    Raises:
        NoHead: There is one.
    """
    flow = passes.evaluated
    if not flow.reads_input:
        return
    ops = [flow.recording.ops[number] for number in flow.ancestors([main.value])]
    ran = {owner(op, flow.parameters_of(op)) for op in ops}
    paths = [each.path for each in sites]
    beside = {path.rpartition(".")[0] for path in paths}
    widths = {_candidate_width(passes.model.get_submodule(path)) for path in paths}
    others = [
        path
        for path, layer in passes.model.named_modules()
        if isinstance(layer, tuple(kind for kind, _ in KINDS))
        and path not in ran
        and (path.rpartition(".")[0] in beside or _candidate_width(layer) in widths)
    ]
    if others:
        why = f"forward chooses by values what it runs, and for other ones {others[0]} may give the scores"
        raise NoHead(why, [*paths, *others], main)


def _candidate_width(layer: Any) -> int:
    """How wide a layer is that the finder of heads takes for one."""
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


def can_be_head(passes: Passes, path: str) -> bool:
    """Whether the layer at ``path`` is a head site if the user says so."""
    try:
        find_heads(passes, path)
    except NoHead:
        return False
    return True


def _deepest_first(flow: Dataflow, main: Layers, paths: list[str]) -> list[str]:
    """The sites of one output: what the most is computed for comes first, then what runs first."""

    def rank(path: str) -> tuple[int, int]:
        number = main.ops[path]
        return -(len(flow.ancestors(flow.recording.ops[number].outputs)) // _ALIKE), number

    return sorted(paths, key=rank)


def _place_for_head(passes: Passes, found: list[Layers], chosen: str | None) -> tuple[Head, ...] | None:
    """Place for a head in a traced model that gives vectors: the last module through which they go as they are.

    Vectors that a layer gave may be scores, so that it is one there only where the user says so.
    """
    recording = passes.evaluated.recording
    if len(found) != 1 or found[0].key or len(recording.shapes[found[0].value]) != VECTORS:
        return None
    if not isinstance(dict(passes.model.named_modules()).get(chosen), nn.Identity) if chosen else found[0].ops:
        return None
    calls = [call for call in recording.calls() if call.outputs == [found[0].value]]
    through = [(call.path, type(passes.model.get_submodule(call.path))) for call in calls]
    last_dropout = max((index for index, (_, kind) in enumerate(through) if kind is nn.Dropout), default=-1)
    after = [path for path, kind in through[last_dropout + 1 :] if kind is nn.Identity]
    places = [path for path, kind in through if kind is nn.Identity]
    places += after[:1] if last_dropout >= 0 else []
    width = recording.shapes[found[0].value][-1]
    for path in [path for path in reversed(places) if chosen in {None, path}]:
        model = duplicate(passes.model)
        like = next(model.parameters(), torch.empty(0, device="cpu"))
        model.set_submodule(path, nn.Linear(width, width + MORE, device=like.device, dtype=like.dtype))
        with torch.no_grad(), evaluating(model):
            made = run_forward(model, passes.x)
        if isinstance(made, Tensor) and made.shape[-1] == width + MORE:
            return (Head(path, width, 0),)
    return None


def _output_of_chosen(passes: Passes, found: list[Layers], path: str) -> Layers:
    """Output for which the layer at ``path`` is the head, or at least one of the last that can be."""
    flow = passes.evaluated
    for each in found:
        if path in each.ops:
            return each
    for each in found:
        if path in each.reasons and path and not layer_refusal(passes.model, path, []):
            return Layers(each.key, each.value, {path: _number_of(flow, path)})
    reasons = {name: why for each in found for name, why in each.reasons.items()}
    after = "".join(f"; {name or 'forward'}: {why}" for name, why in reasons.items())
    why = (
        reasons.get(path, f"it is not the last layer before an output{after}") if found else _no_dataflow(passes.model)
    )
    raise NoHead(f"{path} is no head site: {why}", [name for each in found for name in each.ops])


def _site_at(model: nn.Module, flow: Dataflow, path: str, number: int, role: Any) -> Head:
    """The head site that the last layer at ``path`` before an output is, which ran in the op of this number."""
    layer: Any = model.get_submodule(path)
    kind = next(kind for each, kind in KINDS if isinstance(layer, each))
    moving = flow.moving(flow.recording.ops[number])
    tokens = kind == "linear" and bool(moving) and len(flow.recording.shapes[moving[0]]) > VECTORS
    if kind == "linear":
        return Head(path, layer.in_features, layer.out_features, role=role, tokens=tokens)
    return Head(path, layer.in_channels, layer.out_channels, kind=kind, role=role)


def _number_of(flow: Dataflow, path: str) -> int:
    """The number of the first traced op that uses the parameters of a layer that was found to be a head."""
    return next(i for i, op in enumerate(flow.recording.ops) if owner(op, flow.parameters_of(op)) == path)


def _no_dataflow(model: nn.Module) -> str:
    """Why no output of a recorded model depends on its input, so that no head is found."""
    scripted = [path or "the model" for path, each in model.named_modules() if isinstance(each, torch.jit.ScriptModule)]
    if scripted:
        return (
            f"{scripted[0]} is a torch.jit.ScriptModule, which hides what it computes: adopt the module it was made of"
        )
    return "no output depends on the input"


def _main_output(passes: Passes, found: list[Layers]) -> Layers:
    """Find which output is that of the main head, where it can be told from the others."""
    flow = passes.evaluated
    candidates = [path for each in found for path in (*each.ops, *each.reasons) if path]
    able = [each for each in found if each.ops and not each.reasons]
    if not able:
        reasons = {path: why for each in found for path, why in each.reasons.items()}
        why = "; ".join(f"{path or 'forward'}: {text}" for path, text in [*reasons.items()][:3])
        raise NoHead(why or _no_dataflow(passes.model), [*dict.fromkeys(candidates)][:8])
    ways = {id(each): flow.ancestors([each.value]) for each in able}
    able = [each for each in able if not any(_leads_to(each, other, ways[id(other)]) for other in able)]
    _refuse_beside(flow, [each for each in found if each.reasons], able, candidates)
    distinct = [each for index, each in enumerate(able) if all({*each.ops} != {*it.ops} for it in able[:index])]
    for each in distinct:
        if all(other is each or _is_auxiliary(flow, other, each, ways) for other in distinct):
            return each
    raise NoHead(
        f"forward returns {len(distinct)} outputs from layers of their own, and nothing says which is the main one",
        list(dict.fromkeys(candidates)),
    )


def _refuse_beside(flow: Dataflow, unproven: list[Layers], able: list[Layers], candidates: list[str]) -> None:
    """Refuse to find a main head where an output with layers of its own, not proven, may be the main one as well.

    Raises:
        NoHead: There is one.
    """
    known = flow.ancestors([each.value for each in able])
    for each in unproven:
        private = flow.ancestors([each.value]) - known
        if any(flow.parameters_of(flow.recording.ops[number]) for number in private):
            reasons = "; ".join(f"{path or 'forward'}: {text}" for path, text in [*each.reasons.items()][:3])
            raise NoHead(f"an output beside the others may be the main one: {reasons}", [*dict.fromkeys(candidates)])


def _leads_to(one: Layers, other: Layers, way: set[int]) -> bool:
    """Whether the layers of ``one`` come before those of ``other``: hidden layers returned beside the head's."""
    return one is not other and one.ops != other.ops and all(number in way for number in one.ops.values())


def _is_auxiliary(flow: Dataflow, one: Layers, main: Layers, ways: dict[int, set[int]]) -> bool:
    """Whether the head of ``one`` branches off long before ``main``, and has little of its own."""

    def own(each: Layers, other: Layers) -> int:
        private = ways[id(each)] - ways[id(other)]
        return sum(bool(flow.parameters_of(flow.recording.ops[number])) for number in private)

    return own(main, one) >= _AUXILIARY and own(main, one) > 2 * own(one, main)


def _auxiliary(passes: Passes, found: list[Layers], main: Layers, sites: list[Head]) -> list[Head]:
    """The auxiliary heads, with as many classes: those in eval mode, and those that appear in train mode."""
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
                head = _site_at(passes.model, flow, path, number, "aux")
                last = not any(
                    flow.recording.ops[number].outputs[0] in flow.recording.ops[later].inputs
                    and later in way
                    and flow.parameters_of(flow.recording.ops[later])
                    for later in range(number + 1, len(flow.recording.ops))
                )
                if path not in known and head.num_classes == sites[0].num_classes and last and path in ends:
                    aux[path] = head
    return [*aux.values()]


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
            made = run_forward(model, passes.x)
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
    """Write the numbers of classes of heads to prove to the attributes that hold them."""
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

"""The language that names parts of a model (words, stages, module paths, slices, globs), and how deep each part is."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from zoo_core.contract.anatomy import Anatomy
from zoo_core.errors import UnknownPart, UsageError
from zoo_core.surgery.changed_by_hand import sequence_around
from zoo_core.surgery.metadata import anatomy_of, cut_of, is_unproven, metadata_of, no_head, unwrap
from zoo_core.surgery.structure import under
from zoo_core.text import close_matches, did_you_mean
from zoo_core.utils.compiled import as_before_compile, without_compiled

if TYPE_CHECKING:
    from torch import nn


def tensor_names(model: nn.Module) -> list[str]:
    """Names of all tensors of ``model`` to select from, as registered; buffers after the parameters beside them."""
    names = [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for own in (module._parameters, module._buffers)  # noqa: SLF001 - named_* would drop tensors that are shared
        for name, tensor in own.items()
        if tensor is not None
    ]
    return list(dict.fromkeys(names))


def depths(model: nn.Module) -> dict[str, int]:
    """The depth of every parameter and buffer of ``model``, by which first and last layers are selected.

    Returns:
        Tensor name to depth: 0 for the stem and whatever comes before the first stage, ``i`` for the ``i``-th stage
        and what is registered between it and the next, one more for what is between the last stage and the head, and
        one more again for the head. What ``Anatomy.depths`` names is as deep as that says.

    Example:
        >>> import zoo_core as zoo
        >>> found = depths(zoo.get("resnet18", weights=None))
        >>> [found[name] for name in ("conv1.weight", "layer1.0.bn1.bias", "layer4.1.conv2.weight", "fc.bias")]
        [0, 1, 4, 6]
    """
    return depths_in(tensor_names(unwrap(model)), anatomy_of(model), in_head(model))


def depths_in(names: Sequence[str], anatomy: Anatomy, head: Collection[str]) -> dict[str, int]:
    """The depth of every tensor to select by, as :func:`depths` counts it, from names and anatomy alone."""
    after = len(anatomy.stages) + 1
    staged: dict[str, int] = {}
    for depth, stage in enumerate(anatomy.stages, 1):
        for name in names:
            if any(under(name, path) for path in stage.modules):
                staged.setdefault(name, depth)
    said = dict(anatomy.depths)
    last = [path for piece in (anatomy.pool, anatomy.classify) for path in getattr(piece, "paths", ())]
    waiting = len(staged)  # as long as a stage is still to come, what is beside the stages is before it
    result: dict[str, int] = {}
    before = 0
    for name in names:
        waiting -= name in staged
        if name in head:
            result[name] = after + 1
        elif name not in staged and (path := max((each for each in said if under(name, each)), key=len, default="")):
            result[name] = min(said[path], after)
        elif any(under(name, path) for path in anatomy.stem) and name not in staged:
            result[name] = 0
        elif name not in staged and any(under(name, path) for path in last):
            result[name] = after
        else:
            before = staged.get(name, before if waiting else after)
            result[name] = before
    return result


def in_head(model: nn.Module) -> set[str]:
    """Names of the tensors that the word ``head`` selects: those of its sites, and of layers put in before them.

    A classifier of several new layers may have its site at the last of them, where the first is given a map.
    """
    known, anatomy = metadata_of(model), anatomy_of(model)
    sites = [site.path for site in anatomy.heads]
    around = sequence_around(unwrap(model), anatomy.main.path) if anatomy.main and anatomy.stages else ""
    before = [*anatomy.stem, *(path for stage in anatomy.stages for path in stage.modules)]
    own_layers = {path for path in known.own_layers if around and under(path, around)}
    return {
        name
        for name in tensor_names(unwrap(model))
        if any(under(name, path) for path in sites)
        or (name.rpartition(".")[0] in own_layers and not any(under(name, path) for path in before))
    }


WORDS = ("all", "backbone", "head", "stem")

# A colon never occurs in the name of a tensor, so a slice cannot be mistaken for the set of characters of a glob.
_SLICE = re.compile(r"(?P<path>[^\[\]]*)\[(?P<start>-?\d*):(?P<stop>-?\d*)\]")


def select(
    model: nn.Module,
    what: Collection[str | Collection[str]] = (),
    *,
    default: str = "all",
    until: str | None = None,
    stages: int | None = None,
    first: int | None = None,
    last: int | None = None,
) -> set[str]:
    """The names of the parameters and buffers that words, stages, paths, slices and globs mean.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``.
        what: Any of ``"all"``, ``"backbone"`` (all but the head), ``"head"``, ``"stem"``, the name of a stage,
            the path of a module or tensor, a slice of the children of one, such as ``"features[:6]"`` or ``"[:6]"`` for
            the model's own, and glob patterns over tensor names.
        default: What is meant when nothing else is said.
        until: A stage or module path: everything that comes before it.
        stages: The stem and that many stages.
        first: Of what is named, or of the whole model, only this many layers, counted from the input; a layer is a
            module that has parameters of its own.
        last: As ``first``, but counted from the output.

    Raises:
        UnknownPart: A name matches nothing; the message lists what there is.
        NotSupported: ``"backbone"`` or ``"head"`` is meant, and where the head is was not found when it was traced.
        UsageError: A number is not one of those possible, or nothing at all is left.

    Example:
        >>> import zoo_core as zoo
        >>> model = zoo.get("resnet18", weights=None)
        >>> sorted(select(model, ["layer4"], last=1))[:2]
        ['layer4.1.bn2.bias', 'layer4.1.bn2.num_batches_tracked']
    """
    result: set[str] = set()
    what = patterns_in("a part", what)
    if until is not None and not isinstance(until, str):
        raise UsageError(f"until cannot be {until!r}", expected="the name of a stage or the path of a module")
    if not what and until is None and stages is None:
        what = (default,) if first is None and last is None else ("all",)
    for pattern in what:
        result |= _named(model, pattern)
    if until is not None:
        result |= _before(model, until)
    if stages is not None:
        count = _number("stages", stages, range(len(anatomy_of(model).stages) + 1))
        # The first convolution of some models is inside their first stage.
        result |= _of_word(model, "stem") | {name for name, depth in depths(model).items() if depth <= count}
    if first is not None or last is not None:
        result = _select_layers(model, result, first, last)
    if not result:
        before = f"before {until!r}" if until is not None else "before the first stage"
        raise UsageError(f"nothing comes {before}", hint="until= names the first part that is not meant")
    return result


def patterns_in(name: str, what: object) -> tuple[str, ...]:
    """The names and patterns to select by in ``what``: one, or several, of which some may be lists of them.

    Raises:
        UsageError: There is something other than text.
    """
    if isinstance(what, str):
        return (what,)
    if not isinstance(what, Collection):
        got = f"a {type(what).__name__}"
        raise UsageError(f"{name} cannot be {what!r}", expected="a name or a pattern, or a list of them", got=got)
    return tuple(pattern for each in what for pattern in patterns_in(name, each))


def _named(model: nn.Module, pattern: str) -> set[str]:
    """Names of the tensors that one word or pattern selects; UnknownPart where there are none."""
    result = _of_word(model, pattern) if pattern in WORDS else _of_path(model, pattern)
    if not result:
        raise _unknown(model, pattern)
    return result


def _of_word(model: nn.Module, word: str) -> set[str]:
    """Names of the tensors that a word such as ``head``, ``stem`` or ``backbone`` selects."""
    anatomy, names = anatomy_of(model), set(tensor_names(unwrap(model)))
    if word == "all":
        return names
    if word == "stem":
        return {name for name in names if any(under(name, path) for path in anatomy.stem)}
    if is_unproven(model):
        raise no_head(model, f"to tell {word!r} by")
    # A model may have a module called "head" or "backbone"; the word comes first, and "backbone.*" names the module.
    head = in_head(model)
    return head if word == "head" else names - head


def _of_path(model: nn.Module, pattern: str) -> set[str]:
    """Names of the tensors that a stage, a module path, a slice or a glob selects."""
    names = tensor_names(unwrap(model))
    if piece := _SLICE.fullmatch(pattern):
        paths = _sliced(
            model, piece["path"], slice(*(int(end) if end else None for end in piece.group("start", "stop")))
        )
    else:
        paths = _modules_of_stage(model, pattern) or (pattern,)
    return {
        name
        for name in names
        if fnmatchcase(name, pattern)
        or fnmatchcase(as_before_compile(name), pattern)
        or any(under(name, path) for path in paths)
    }


def _modules_of_stage(model: nn.Module, name: str) -> tuple[str, ...]:
    """Paths of the modules that the name of a stage selects; none for any other name."""
    return next((stage.modules for stage in anatomy_of(model).stages if stage.name == name), ())


def _sliced(model: nn.Module, path: str, piece: slice) -> tuple[str, ...]:
    """Paths of the children of a module that a slice selects; a stage of several modules has those for children."""
    modules = _modules_of_stage(model, path) or (path,)
    if len(modules) > 1:
        return modules[piece]
    try:
        parent = without_compiled(unwrap(model)).get_submodule(modules[0])
    except AttributeError as error:
        raise _unknown(model, path) from error
    start = f"{modules[0]}." if modules[0] else ""
    return tuple(f"{start}{name}" for name, _ in parent.named_children())[piece]


def _before(model: nn.Module, part: str) -> set[str]:
    """Names of the tensors that come before a part, to select all up to a stage, word or module path."""
    stages = [stage.name for stage in anatomy_of(model).stages]
    by_depth = depths(model)
    if part in stages:
        limit = stages.index(part) + 1
        return {name for name, depth in by_depth.items() if depth < limit}
    modules = [path for path, _ in unwrap(model).named_modules()]
    inside = _of_word(model, part) if part in WORDS else _of_path(model, part)
    if part and not inside and part in modules:  # without tensors, so only the order of registration says where it is
        return {name for name in by_depth if _owner(name) in modules[: modules.index(part)]}
    inside = inside or _named(model, part)
    order = sorted(by_depth, key=by_depth.__getitem__)
    at = next(index for index, name in enumerate(order) if name in inside)
    return set(order[:at])


def _select_layers(model: nn.Module, names: set[str], first: int | None, last: int | None) -> set[str]:
    """Select those of these tensors that belong to the first or last few layers, as many as requested."""
    if first is not None and last is not None:
        raise UsageError("first and last both say which layers are meant", hint="say it with one of them")
    parameters = {name for name, _ in unwrap(model).named_parameters(remove_duplicate=False)} & names
    by_depth = depths(model)  # inside a stage, the order is that of registration
    in_order = sorted(by_depth, key=by_depth.__getitem__)
    layers = list(dict.fromkeys(_owner(name) for name in in_order if name in parameters))
    possible = range(1, len(layers) + 1)
    chosen = (
        layers[: _number("first", first, possible)] if first is not None else layers[-_number("last", last, possible) :]
    )
    return {name for name in names if _owner(name) in chosen}


def _owner(name: str) -> str:
    """Path of the module that a selected tensor is in."""
    return name.rpartition(".")[0]


def _number(name: str, value: object, possible: range) -> int:
    """How many first or last layers to select, as it is, when there are so many."""
    if isinstance(value, bool) or not isinstance(value, int) or value not in possible:
        expected = f"a number from {possible.start} to {possible.stop - 1}"
        raise UsageError(f"{name} cannot be {value!r}", expected=expected)
    return value


def _unknown(model: nn.Module, pattern: str) -> UnknownPart:
    """The error for a word, path, slice or glob that selects nothing in a model."""
    stages = tuple(stage.name for stage in anatomy_of(model).stages)
    modules = [path for path, _ in unwrap(model).named_modules() if path]
    others = [name for name in (*stages, *WORDS, *modules) if name != pattern]
    kinds = [f"one of the stages {', '.join(stages)}"] if stages else []
    kinds += [f"one of {', '.join(WORDS)}", "a module path, a slice of one's children, or a pattern"]
    holds = " holds no tensors" if pattern in modules or pattern in WORDS or _SLICE.fullmatch(pattern) else ""
    kind = type(unwrap(model)).__name__
    return UnknownPart(
        f"{pattern!r} of this {kind}{holds}" if holds else f"nothing in this {kind} is called {pattern!r}",
        expected="; ".join(kinds),
        cause=cut_of(model),
        hint=copies_to_select(model, pattern)
        or did_you_mean(close_matches(pattern, others), "print(model) shows every module path"),
        part=pattern,
        parts=stages,
    )


def copies_to_select(model: nn.Module, path: str) -> str | None:
    """What to select instead of the module at ``path`` in a model with branches, each with a copy; None for others."""
    result = [each for each, _ in unwrap(model).named_modules() if each.endswith(f".body.{path}")]
    return f"ask for {' or '.join(map(repr, result))}" if result else None

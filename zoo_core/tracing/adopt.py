"""``zoo.adopt``: telling zoo about a module that it did not build."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from zoo_core.build.construct import anatomy_for
from zoo_core.contract.anatomy import Anatomy
from zoo_core.contract.card import Card
from zoo_core.errors import AnatomyError, UsageError, ZooWarning
from zoo_core.registry.zoo import current_zoo
from zoo_core.surgery.changed_by_hand import with_all_layers
from zoo_core.surgery.features.forward import run_forward
from zoo_core.surgery.head.swap import swap_head
from zoo_core.surgery.metadata import ATTRIBUTE, Metadata, attach, metadata_of, unwrap
from zoo_core.surgery.receipt import Receipt
from zoo_core.surgery.structure import Structure, structure_of, under
from zoo_core.text import close_matches, did_you_mean
from zoo_core.tracing.passes import batch_of
from zoo_core.tracing.trace import Trace, trace
from zoo_core.utils.arguments import strict_arguments
from zoo_core.utils.duplicate import duplicate
from zoo_core.utils.eval_mode import evaluating


@strict_arguments
def adopt(
    model: nn.Module,
    *,
    family: str | None = None,
    name: str | None = None,
    weights: str | None = None,
    options: Mapping[str, object] | None = None,
    example: Any = None,
    head: str | None = None,
    stages: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    anatomy: Anatomy | None = None,
) -> nn.Module:
    """Tell zoo about a model that you built, so that all surgery works on it.

    With ``family`` it is a model of an installed library. With ``example`` it is any module: its head, stem, stages and
    split are found by running it (see :func:`zoo_core.trace`), proven, and left out where they cannot be; a verb that
    needs what was left out says why it was. Where no head is proven and a family declares the class, as torchvision's
    dense detectors are, what it declares holds.

    Args:
        model: Changed only by an attribute that forward never sees.
        family: Name of the family it belongs to, such as ``"torchvision"``.
        name: Which model of the family it is, such as ``"resnet18"``; ``zoo.save`` needs it to build the model again,
            and so does a model whose classifier was changed by hand, such as a ``Linear`` where a ``Sequential`` was.
        weights: The tag of the weights that it has, where they are published ones; :func:`zoo_core.transforms` and
            :func:`zoo_core.class_names` need it.
        options: What its constructor was given, where that is more than the model's card says.
        example: What forward takes: one value, a tuple of several arguments, or a dict of them by name.
        head: Path of the main head site, where tracing finds several or none.
        stages: Paths of the modules that end the stages; or names to the paths of each stage's modules.
        anatomy: Where its parts are, instead of tracing it; with ``example`` as well, its head is proven.

    Returns:
        The same model.

    Raises:
        UnknownFamily: No plugin contributes that family.
        UnknownModel: The family has no model of that name.
        UnknownTag: The model has no such weights.
        UsageError: ``weights`` is given without ``name``, or neither ``family`` nor ``example`` nor ``anatomy`` is.
        AnatomyError: The family does not know models of this class, the model does not run on the example, or what you
            named of it cannot be proven.

    Example:
        >>> import torch, torchvision, zoo_core as zoo
        >>> model = zoo.adopt(torchvision.models.resnet18(), family="torchvision")
        >>> zoo.anatomy(model).main.path
        'fc'
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.Flatten(), nn.Linear(2400, 10))
        >>> zoo.swap_head(zoo.adopt(net, example=torch.zeros(1, 1, 24, 24)), 3)[3]
        Linear(in_features=2400, out_features=3, bias=True)
    """
    bare = unwrap(model)
    if family is None and example is None and anatomy is None:
        raise UsageError(
            f"nothing says what this {type(bare).__name__} is",
            expected='family="torchvision" for a model of an installed library, or example= for any module',
            hint="zoo.adopt(model, example=x), with x what forward takes, such as torch.zeros(1, 3, 224, 224)",
        )
    if name is not None and family is None:
        raise UsageError(f"{name!r} of which family?", hint='give it too, such as family="torchvision"')
    card = current_zoo().resolve(f"{family}/{name}")[0] if name is not None else None
    traced = trace(bare, example, head=head, stages=stages) if example is not None and anatomy is None else None
    is_said = head is not None or stages is not None
    result, structure = _anatomy(bare, family, card, traced, anatomy, is_said=is_said), None
    if result is None:
        result, structure = _anatomy_as_built(bare, str(family), card, options)
    if weights is not None and card is None:
        raise UsageError(f"weights {weights!r} of which model?", hint="give its name too, such as name='resnet18'")
    known = _metadata(bare, result, card, weights, options)
    is_declared = anatomy is None and example is None
    sample = example if traced is not None and not traced.is_batched else batch_of(example, 1)
    # verbs that have to run the model move it to where that is
    sample = tree_map(lambda each: each.detach().cpu() if isinstance(each, Tensor) else each, sample)
    known = replace(known, example=sample, family=str(family) if is_declared else "")
    if anatomy is not None and example is not None and anatomy.heads and anatomy.heads[0].role == "main":
        _prove_given_head(bare, known, example)
    attach(bare, known if structure is None else _metadata_of_changed(bare, known, structure))
    return model


def _anatomy(
    model: nn.Module,
    family: str | None,
    card: Card | None,
    traced: Trace | None,
    anatomy: Anatomy | None,
    *,
    is_said: bool,
) -> Anatomy | None:
    """The anatomy of an adopted model: given, traced or read; None where its library builds another classifier."""
    if anatomy is not None:
        _check_paths(model, anatomy)
        return anatomy
    if traced is not None:
        return traced.anatomy if traced.anatomy.heads or is_said else _declared_anatomy(model) or traced.anatomy
    if is_said:
        raise UsageError("head= and stages= are for a module that is traced", hint="give example= as well")
    try:
        read = anatomy_for(current_zoo().member(str(family)), card, model)
    except AnatomyError as error:
        if card is None:
            raise _nameless(str(family), error.summary, error.parts) from error
        return None
    if with_all_layers(model, read) is read:
        return read
    if card is None:
        raise _nameless(str(family), f"the classifier of this {type(model).__name__} has layers of its own", {})
    return None


def _nameless(family: str, summary: str, parts: Mapping[str, Any]) -> AnatomyError:
    hint = f'zoo.adopt(model, family="{family}", name=...) says which model it was before it was changed by hand'
    return AnatomyError(summary, **{**parts, "hint": hint})


def _declared_anatomy(model: nn.Module) -> Anatomy | None:
    """Anatomy that an installed family declares of an adopted model, where tracing proves no head."""
    library = type(model).__module__.partition(".")[0]
    for family, claims in current_zoo().claims.items():
        if len(claims) == 1 and claims[0].family.anatomy is not None and claims[0].family.requires == library:
            with suppress(AnatomyError):
                return current_zoo().member(family).anatomy(model)
    return None


def _anatomy_as_built(
    model: nn.Module, family: str, card: Card | None, options: Mapping[str, object] | None
) -> tuple[Anatomy, Structure]:
    """Anatomy and structure, as zoo would build it, of a module to adopt whose classifier was changed by hand.

    Raises:
        AnatomyError: More than that was changed.
    """
    assert card is not None  # noqa: S101 - as _anatomy sees to
    member = current_zoo().member(family)
    try:
        with torch.device("meta"):
            built = member.builder(card)(**{**card.options, **(options or {})})
        anatomy, structure = anatomy_for(member, card, built, options), structure_of(built)
    except Exception as error:  # what a library's constructor raises can be anything
        raise _changed_beyond(card, type(model).__name__) from error
    before_head = [*anatomy.stem, *(path for stage in anatomy.stages for path in stage.modules)]
    changed = structure_of(model).changed_since(structure)
    if any(under(name, path) for name in changed for path in before_head):
        raise _changed_beyond(card, type(model).__name__)
    return anatomy, structure


def _changed_beyond(card: Card, kind: str) -> AnatomyError:
    """Error of ``zoo.adopt`` for a model that differs from its card in more than its classifier."""
    return AnatomyError(
        f"this {kind} differs from {card.id} in more than its classifier",
        hint="zoo.adopt(model, example=x), with x what forward takes, finds where its parts are",
    )


def _metadata_of_changed(model: nn.Module, known: Metadata, structure: Structure) -> Metadata:
    """The metadata to adopt a model with whose classifier was changed by hand, as if it had been known before.

    Raises:
        AnatomyError: Parts are gone, and what took their place is unclear.
    """
    model.__dict__[ATTRIBUTE] = replace(known, structure=structure)
    try:
        read = metadata_of(model)
    except AnatomyError:
        del model.__dict__[ATTRIBUTE]
        raise
    return replace(read, receipt=replace(known.receipt, notes=read.receipt.notes))


def _check_paths(model: nn.Module, anatomy: Anatomy) -> None:
    """Refuse an anatomy with paths of modules that the adopted model has not."""
    known = dict(model.named_modules())
    paths = [head.path for head in anatomy.heads] + [path for stage in anatomy.stages for path in stage.modules]
    for path in (*paths, *anatomy.stem):
        if path not in known:
            nearest = did_you_mean(close_matches(path, known), "print(model) shows the path of every module")
            raise AnatomyError(f"anatomy: a {type(model).__name__} has no module {path!r}", hint=nearest)


def _prove_given_head(model: nn.Module, known: Metadata, example: Any) -> None:
    """Refuse to adopt a model with an anatomy whose head cannot be swapped, as a copy of it shows.

    Raises:
        AnatomyError: The model does not run then, or its output has not as many classes more.
    """
    twin, head = duplicate(model), known.anatomy.heads[0]
    attach(twin, known)
    try:
        with torch.no_grad(), evaluating(twin), warnings.catch_warnings(action="ignore", category=ZooWarning):
            before = _output_shapes(run_forward(twin, example))
            after = _output_shapes(run_forward(swap_head(twin, head.num_classes + 1, seed=0), example))
        changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
        detects = not {each.role for each in known.anatomy.heads}.isdisjoint({"box", "mask", "level"})
        fits = all(_is_longer(a, b, head.per_class) for a, b in changed) and (changed or detects)
        why = "" if fits else f"its outputs change their shapes so: {changed or 'not at all'}"
    except Exception as error:  # noqa: BLE001 - what forward raises can be anything
        why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    if why:
        raise AnatomyError(
            f"anatomy: {head.path!r} is no head of this {type(model).__name__} that can be swapped",
            cause=f"with one more class there, {why}",
            hint="a forward that takes any number of classes from that layer; without heads=, all other verbs work",
        )


def _output_shapes(output: Any) -> list[tuple[int, ...]]:
    """The shapes of the tensors that the adopted model's forward gives, to see whether its head can be swapped."""
    return [tuple(each.shape) for each in tree_leaves(output) if isinstance(each, Tensor)]


def _is_longer(before: tuple[int, ...], after: tuple[int, ...], more: int) -> bool:
    """Whether one axis of an output of the adopted model, beside the batch, is longer by so many."""
    grown = [b - a for a, b in zip(before[1:], after[1:], strict=False) if a != b]
    return len(before) == len(after) and before[:1] == after[:1] and grown == [more]


def _metadata(
    model: nn.Module,
    anatomy: Anatomy,
    card: Card | None,
    weights: str | None,
    options: Mapping[str, object] | None,
) -> Metadata:
    """The metadata of an adopted model: its anatomy, its card, and a receipt of its tensors."""
    entry = card.find(weights) if card and weights is not None else None
    tensors = dict.fromkeys(model.state_dict(), "loaded")
    receipt = Receipt(card.id if card else type(model).__name__, weights, tensors=cast("Any", tensors))
    own = {**(card.options if card else {}), **(entry.options if entry else {}), **(options or {})}
    return Metadata(anatomy, receipt, card, entry, options=own)

"""The check of building without initial values, which is how zoo builds a model whose file is about to be loaded."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from zoo_core.build.construct import construct
from zoo_core.surgery.load_state_dict import is_packed, load_state
from zoo_core.surgery.metadata import metadata_of
from zoo_core.testing.findings import NonConformance, NotChecked
from zoo_core.testing.outputs import same, scores_of
from zoo_core.testing.under_test import inputs_of, model_under_test, need_values
from zoo_core.utils.random_state import seeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor

    from zoo_core.contract.card import Card


def check_values(card: Card) -> None:
    """Built without initial values and then given those of a file, it is the model that its constructor makes.

    ``zoo.get`` leaves the drawing of values out where a file replaces them. That is wrong for a constructor that
    computes something else from them, and ``Card.needs_values`` has to say so.

    Raises:
        NonConformance: A parameter, a buffer or an output is another one; the message names it.
        NotChecked: The card says that its constructor draws the values, or the model is quantised.
    """
    need_values(card)
    if card.needs_values:
        raise NotChecked(f"{card.id} is always built with its values: {card.needs_values}")
    ordinary = model_under_test(card)
    if is_packed(ordinary):
        raise NotChecked(f"{card.id} is quantised: its layers pack their values while they load them")
    quick = _without_values(card)
    if quick is None:
        return  # it fails without them, and zoo draws them then
    load_state(quick, {name: tensor.clone() for name, tensor in ordinary.state_dict().items()}, assign=True)
    x = inputs_of(card)
    with torch.no_grad():  # first, since a model may keep in its buffers what it has computed for the last image
        right = same(scores_of(quick, *x), scores_of(ordinary, *x))
    _compare(card, "parameter", ordinary, quick, nn.Module.named_parameters)
    _compare(card, "buffer", ordinary, quick, nn.Module.named_buffers)
    frozen = [{name for name, p in model.named_parameters() if not p.requires_grad} for model in (ordinary, quick)]
    _require(card, frozen[0] == frozen[1], f"it has {len(frozen[1])} frozen parameters instead of {len(frozen[0])}")
    _require(card, _ties(ordinary) == _ties(quick), "other parameters are one and the same")
    _require(card, right, "it gives other outputs from the same parameters and buffers")


def _without_values(card: Card) -> nn.Module | None:
    """The model as zoo builds it for a file, in eval mode; None where its constructor fails without values."""
    options = metadata_of(model_under_test(card)).options
    with seeded(0), _visibly_empty():
        model = construct(card, options, values=False)
    if metadata_of(model).receipt.needed_values:  # it may be the number that stands for none that it cannot bear
        model = construct(card, options, values=False)
    return None if metadata_of(model).receipt.needed_values else model.eval()


@contextmanager
def _visibly_empty() -> Iterator[None]:
    """Inside the block, memory without initial values holds NaN, and not what an earlier model left there, say."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _compare(
    card: Card,
    kind: str,
    ordinary: nn.Module,
    quick: nn.Module,
    of: Callable[[nn.Module], Iterable[tuple[str, Tensor]]],
) -> None:
    """Require that a model built without initial values has the same tensors as one that was built with them."""
    theirs, ours = dict(of(ordinary)), dict(of(quick))
    other = [name for name in theirs if name not in ours or not same(ours[name], theirs[name])]
    _require(card, not other, f"the {kind} {', '.join(map(repr, other[:5]))} is another one")


def _ties(model: nn.Module) -> list[set[str]]:
    """The names of each parameter that has several, which building without initial values must not untie."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return [each for each in names.values() if len(each) > 1]


def _require(card: Card, right: bool, finding: str) -> None:  # noqa: FBT001 - as in require
    """Raise a finding about building without initial values unless the condition holds."""
    if right:
        return
    raise NonConformance(
        f"{card.id}: {finding} when it was built without initial values, and then loaded",
        cause="its constructor computes something from the values of parameters that is in no file",
        hint='let the card say what: Card(..., needs_values="its scale is computed from fc.weight")',
    )

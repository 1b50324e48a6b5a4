"""The check of models built without initial values: loaded with those of a file, they are what constructors make."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zoo_core.build.construct import construct
from zoo_core.surgery.load_state_dict import is_packed, load_state
from zoo_core.surgery.metadata import metadata_of
from zoo_core.testing.findings import NonConformance, NotChecked, require
from zoo_core.testing.under_test import (
    inputs_of,
    model_under_test,
    need_values,
    same,
    scores_of,
)
from zoo_core.utils.duplicate import duplicate
from zoo_core.utils.random_state import seeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from zoo_core.contract.card import Card


def check_values(card: Card) -> None:
    """Built without initial values and then loaded with those of a file, it is the model that its constructor makes.

    ``zoo.get`` leaves the drawing of values out where a file replaces them. That is wrong for a constructor that
    computes something else from them, and ``Card.needs_values`` has to say so.

    Raises:
        NonConformance: A parameter, a buffer or an output is another one; the message names it.
        NotChecked: The card says that its constructor draws the values, or the model is quantised.
    """
    need_values(card)
    if not card.needs_values:
        _check_quick(card)
        return
    try:
        needs = not _check_quick(replace(card, needs_values=""))
    except (NonConformance, NotChecked):
        needs = True
    require(
        needs,
        f"{card.id}: needs_values says {card.needs_values!r}, and built without initial values and then loaded it is "
        "the same: leave it out, and it is built in less time",
    )
    raise NotChecked(f"{card.id} is always built with its values: {card.needs_values}")


def _check_quick(card: Card) -> bool:
    """Check that building without initial values and loading make the ordinary model; False if it needs the values."""
    ordinary = model_under_test(card)
    if is_packed(ordinary):
        raise NotChecked(f"{card.id} is quantised: its layers pack their values while they load them")
    quick = _without_values(card)
    if quick is None:
        return False  # it fails without them, and zoo draws them then
    state = ordinary.state_dict()
    load_state(quick, {name: tensor.clone() for name, tensor in state.items()}, assign=True)
    _check_loaded(card, quick, state)
    _check_own_loading(card, quick, state)
    x = inputs_of(card)
    with torch.no_grad():  # first, since a model may keep in its buffers what it has computed for the last image
        right = same(scores_of(quick, *x), scores_of(ordinary, *x))
    _compare(card, "parameter", ordinary, quick, nn.Module.named_parameters)
    _compare(card, "buffer", ordinary, quick, nn.Module.named_buffers)
    frozen = [{name for name, p in model.named_parameters() if not p.requires_grad} for model in (ordinary, quick)]
    _require_loaded(
        card, frozen[0] == frozen[1], f"it has {len(frozen[1])} frozen parameters instead of {len(frozen[0])}"
    )
    _require_loaded(card, _ties(ordinary) == _ties(quick), "other parameters are one and the same")
    _require_loaded(card, right, "it gives other outputs from the same parameters and buffers")
    return True


def _check_loaded(card: Card, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """No module drops or changes a tensor while torch loads it without initial values."""
    loaded = model.state_dict()
    other = [name for name, tensor in state.items() if isinstance(tensor, Tensor) and not same(loaded[name], tensor)]
    if not other:
        return
    owner = type(model.get_submodule(other[0].rpartition(".")[0])).__name__
    raise NonConformance(
        f"{card.id}: loading a state dict drops or changes {', '.join(other[:5])}, without a word",
        cause=f"{owner}._load_from_state_dict, or a hook for loading that was registered with it, does so",
    )


def _check_own_loading(card: Card, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """A ``load_state_dict`` that a library wrote itself takes each tensor, and says which one the file lacks."""
    if type(model).load_state_dict is nn.Module.load_state_dict:
        return
    label = f"{card.id}: load_state_dict of {type(model).__name__}"
    own, twin = {name: tensor.clone() for name, tensor in state.items()}, duplicate(model)
    parameters = dict(twin.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            own[name] = parameter + 1
    twin.load_state_dict(dict(own))
    lost = [name for name, parameter in parameters.items() if not same(parameter, own[name])]
    require(not lost, f"{label} drops {', '.join(lost[:5])} without a word")
    missing = next(iter(parameters))
    del own[missing]
    try:
        twin.load_state_dict(own, strict=True)
    except Exception:  # noqa: BLE001 - however it refuses
        return
    raise NonConformance(f"{label} takes a state dict without {missing}, though it is told strict=True")


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
    """Inside the block, memory to load values into holds NaN, and not what an earlier model left there, say."""
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
    """Require that a model built without values, and then loaded, has the same tensors as one built with them."""
    theirs, ours = dict(of(ordinary)), dict(of(quick))
    other = [name for name in theirs if name not in ours or not same(ours[name], theirs[name])]
    _require_loaded(card, not other, f"the {kind} {', '.join(map(repr, other[:5]))} is another one")


def _ties(model: nn.Module) -> list[set[str]]:
    """The names of each parameter that has several: building without values and loading must not untie them."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return [each for each in names.values() if len(each) > 1]


def _require_loaded(card: Card, right: bool, finding: str) -> None:  # noqa: FBT001 - as in require
    """Raise a finding about loading values into a model built without them unless the condition holds."""
    if right:
        return
    raise NonConformance(
        f"{card.id}: {finding} when it was built without initial values, and then loaded",
        cause="its constructor computes something from the values of parameters that is in no file",
        hint='let the card say what: Card(..., needs_values="its scale is computed from fc.weight")',
    )

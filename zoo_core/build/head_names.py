"""Where a file keeps the head of a model, where that is not the place that the model has for it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo_core.build.file_shape import head_in_file, tensors_at
from zoo_core.contract.anatomy import Head
from zoo_core.errors import ZooWarning
from zoo_core.surgery.metadata import anatomy_of
from zoo_core.weights.checkpoint.names import BUFFERS, fits, under

if TYPE_CHECKING:
    from zoo_core.build.request import ModelRequest
    from zoo_core.weights.checkpoint.choose import Choice

Tensors = Mapping[str, Any]

_MATRIX = 2
_BESIDE = re.compile(r"((?:.+\.)?(?:head|classifier|fc|last_linear|linear|logits|cls|clf|out|output)\.)(?:body\.)?(.+)")
"""The head of a module that has backbone and head, and what is before and after that word."""
_HEADS = re.compile(r"head|classifier|fc|logits", re.IGNORECASE)
"""What the names of several heads have in them."""


def take_head_beside(
    model: nn.Module, choice: Choice, state: dict[str, Any], request: ModelRequest, notes: dict[str, str]
) -> Choice:
    """Put a head that the file has beside the backbone into ``state``; the choice without what is accounted for."""
    site = anatomy_of(model).main
    if site is not None and choice.numbered and not tensors_at(state, site):
        notes.update(head_in_sequence(state, site, model.state_dict()))
    if site is None or not choice.prefix:
        return choice
    names = head_beside(choice.beside, choice.prefix, site, model.state_dict(), request.head)
    if not tensors_at(state, site):
        state.update({name: choice.beside[there] for name, there in names.items()})
    elif after := head_after(state, choice.beside, site):
        names = after
        text = (
            f"the head in the file is given the scores of the model: it is loaded after the layer at {site.path!r}, "
            "with nothing between them. head= with a module of your own says another"
        )
        warnings.warn(text, ZooWarning, stacklevel=2)
    notes.update({name: f"{there!r} in the file" for name, there in names.items() if name in state})
    same = {there for name, there in names.items() if name in state and _is_same(state[name], choice.beside[there])}
    return replace(choice, left=tuple(name for name in choice.left if name not in same))


def take_renamed_head(
    model: nn.Module, state: dict[str, Any], request: ModelRequest, source: str, notes: dict[str, str]
) -> None:
    """Give a head that the file has under another name, with all before it as here, the name that it has here."""
    site = anatomy_of(model).main
    names = head_elsewhere(state, site, model.state_dict(), request.head) if site else {}
    if site is None or not names:
        return
    there = next(iter(names.values()))
    state.update({name: state.pop(old) for name, old in names.items()})
    notes.update({name: f"{old!r} in the file" for name, old in names.items()})
    text = (
        f"{source} has its head under other names, such as {there!r}, and it is loaded at {site.path!r}: the forward "
        f"of this {type(model).__name__} is taken, and yours may pool or activate in another way before the head"
    )
    warnings.warn(text, ZooWarning, stacklevel=2)


def _is_same(one: Any, other: Any) -> bool:
    return one is other or (isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other))


def head_beside(beside: Tensors, prefix: str, site: Head, own: Tensors, head: object = None) -> dict[str, str]:
    """Where the tensors of a head are that a user's module keeps beside the backbone, as ``zoo.split`` makes two.

    Args:
        beside: What the file has outside the backbone.
        prefix: Of the backbone in the file.
        site: Where the head goes.
        own: Tensors of the model, by name.
        head: What is requested there: a module finds its own tensors.

    Returns:
        Name at the model to the name in ``beside``; empty where there is no such head.

    Example:
        >>> import torch
        >>> from zoo_core.plugin import Head
        >>> site = Head("fc", in_features=512, num_classes=1000)
        >>> head_beside({"head.weight": torch.zeros(9, 512)}, "backbone.", site, {})
        {'fc.weight': 'head.weight'}
        >>> head_beside({f"heads.{each}.weight": torch.zeros(9, 512) for each in ("age", "kind")}, "net.", site, {})
        {'fc.age.weight': 'heads.age.weight', 'fc.kind.weight': 'heads.kind.weight'}
    """
    if isinstance(head, nn.Module):
        needed = {*head.state_dict()}
        found = [fit.prefix for fit in fits(beside, needed) if fit.count == len(needed)]
        return {f"{site.path}.{name}": f"{found[0]}{name}" for name in needed} if found else {}
    parent = prefix.rstrip(".").rpartition(".")[0]
    after = f"{parent}.1." if parent else "1."
    if prefix.endswith("0.") and beside and all(name.startswith(after) for name in beside):  # nn.Sequential(body, head)
        result = [(after, name.removeprefix(after), name) for name in beside]
    else:
        result = [(match[1], match[2], name) for name in beside if (match := _BESIDE.fullmatch(name))]
    names = {inner if inner in own else f"{site.path}.{inner}": name for _, inner, name in result}
    if len({before for before, *_ in result}) == 1 and _first_width(beside, names.values()) == site.in_features:
        return names
    return _several_beside(beside, f"{parent}." if parent else "", site)


def head_elsewhere(state: Tensors, site: Head, own: Tensors, head: object = None) -> dict[str, str]:
    """Where the tensors of a head are that the file has under another name, beside all that is before the head.

    Args:
        state: Tensors of the file, by the names of the model.
        site: Where the head goes.
        own: Tensors of the model, by name.
        head: What is requested there: a module finds its own tensors.

    Returns:
        Name at the model to the name in ``state``; empty where there is no such head.

    Example:
        >>> import torch
        >>> from zoo_core.plugin import Head
        >>> site = Head("fc", in_features=512, num_classes=1000)
        >>> state = {"conv1.weight": torch.zeros(64, 3, 7, 7), "last_linear.weight": torch.zeros(9, 512)}
        >>> own = {"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.weight": torch.zeros(1000, 512)}
        >>> head_elsewhere(state, site, own)
        {'fc.weight': 'last_linear.weight'}
    """
    parent = f"{site.path.rpartition('.')[0] or site.path}."
    has_other = any(name.startswith(parent) and name not in own for name in state)  # in the place of the model's
    before = (name for name in own if not name.startswith(f"{site.path}.") and not name.endswith(BUFFERS[-1:]))
    if has_other or tensors_at(state, site) or not all(name in state for name in before):
        return {}
    return head_beside({name: state[name] for name in state if name not in own}, "", site, own, head)


def head_after(state: dict[str, Any], beside: Tensors, site: Head) -> dict[str, str]:
    """Put the layer of a head that is given the scores of the model after its last layer, both numbered in ``state``.

    Args:
        state: Changed, where there is such a head.
        beside: What the file has outside the backbone.
        site: Where the head goes.

    Returns:
        Name at the model to the name in ``beside``; empty where there is no such head.
    """
    last = tensors_at(state, site)
    homes = {name.rpartition(".")[0] for name in beside if _BESIDE.fullmatch(name)}
    home = homes.pop() if len(homes) == 1 else ""
    after = under(beside, f"{home}.")
    are_layers = all({"weight"} <= each.keys() <= {"weight", "bias"} for each in (last, after))
    if not are_layers or [each["weight"].dim() for each in (last, after)] != [_MATRIX] * 2:
        return {}
    if after["weight"].shape[1] != last["weight"].shape[0] or last["weight"].shape[1] != site.in_features:
        return {}
    for name in last:
        state[f"{site.path}.0.{name}"] = state.pop(f"{site.path}.{name}")
    state.update({f"{site.path}.1.{name}": tensor for name, tensor in after.items()})
    return {f"{site.path}.1.{name}": f"{home}.{name}" for name in after}


def head_in_sequence(state: dict[str, Any], site: Head, own: Tensors) -> dict[str, str]:
    """Give the layers that follow the children of the model in an ``nn.Sequential`` the names of the head.

    One of them may be the whole classifier, with the hidden layers before the head.

    Args:
        state: Tensors by the names of the model, or by number where the layer is none of its children; changed.
        site: Where the head goes.
        own: Tensors of the model, by name.

    Returns:
        Name at the model to a note of its number in the file.
    """
    after = {name: name.partition(".") for name in state if name.partition(".")[0].isdecimal()}
    first = min((int(number) for number, *_ in after.values()), default=0)
    is_one = len({number for number, *_ in after.values()}) == 1
    parent = site.path.rpartition(".")[0]
    is_whole = {rest for *_, rest in after.values()} == {*under(own, f"{parent}.")}
    is_wider = _first_width(state, after) not in (None, site.in_features)
    path = parent if parent and is_one and (is_whole or is_wider) else site.path
    notes = {}
    for name, (number, _, rest) in after.items():
        new = f"{path}.{rest}" if is_one else f"{path}.{int(number) - first}.{rest}"
        state[new], notes[new] = state.pop(name), f"{name!r} in the file"
    return notes


def _first_width(tensors: Tensors, names: Iterable[str]) -> int | None:
    """How many values the first layer among tensors of these names is given."""
    matrices = (tensors[name] for name in names if getattr(tensors[name], "dim", int)() >= _MATRIX)
    return next((int(matrix.shape[1]) for matrix in matrices), None)


def _several_beside(beside: Tensors, parent: str, site: Head) -> dict[str, str]:
    """Where the tensors of several heads are, in a container beside the backbone or with names of their own there."""
    inside = under(beside, parent)
    owners = {name: name.partition(".")[0] for name in inside}
    containers = {owner for owner in owners.values() if _HEADS.search(owner)}
    if len(containers) == 1:
        parent = f"{parent}{containers.pop()}."
        inside = under(beside, parent)
    else:
        inside = {name: tensor for name, tensor in inside.items() if owners[name] in containers}
    are_several = isinstance(head_in_file(inside, site), dict)
    return {f"{site.path}.{name}": f"{parent}{name}" for name in inside} if are_several else {}

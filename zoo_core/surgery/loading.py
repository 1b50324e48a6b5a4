"""Putting a state dict into a model, with an account of every tensor."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from zoo_core.errors import LoadMismatch

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor, nn

    from zoo_core.surgery.receipt import Outcome

_COUNTER = "num_batches_tracked"
"""Files from before torch 0.4.1 lack this counter of batch norm; torch fills it in."""


def load_state(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    ignore: Collection[str] = (),
    replaceable: Collection[str] = (),
    source: str = "the file",
) -> dict[str, Outcome]:
    """Load every tensor of ``state`` into ``model``, or say exactly which ones do not fit.

    Args:
        model: What to load into.
        state: Tensor name to tensor.
        ignore: Glob patterns of names that may be in the file without being in the model.
        replaceable: Paths of modules that will get new parameters anyway, so that theirs may differ or be missing.
        source: What to call the file in an error.

    Returns:
        Tensor name to what happened to it.

    Raises:
        LoadMismatch: A tensor outside ``replaceable`` is missing, unexpected or of another shape. Nothing was loaded.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1)
        >>> load_state(layer, {"weight": torch.ones(1, 2), "bias": torch.ones(1)})
        {'weight': 'loaded', 'bias': 'loaded'}
    """
    own = model.state_dict()
    given = dict(state)
    outcomes: dict[str, Outcome] = {}
    for name in [name for name in given if name not in own and _matches(name, ignore)]:
        del given[name]
        outcomes[name] = "ignored"
    misshaped = {name for name, tensor in given.items() if name in own and own[name].shape != tensor.shape}
    for name in [name for name in misshaped if _under(name, replaceable)]:
        del given[name]
        misshaped.discard(name)
    problems = {name: (tuple(own[name].shape), tuple(given[name].shape)) for name in sorted(misshaped)}
    missing, unexpected = _load(model, {name: tensor for name, tensor in given.items() if name not in problems})
    missing = [name for name in missing if name not in problems and not _under(name, replaceable)]
    unexpected = [name for name in unexpected if not _under(name, replaceable)]
    if missing or unexpected or problems:
        raise _mismatch(model, source, missing, unexpected, problems)
    return {**{name: _outcome(name, given, replaceable) for name in own}, **outcomes}


def _load(model: nn.Module, given: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    result = model.load_state_dict(given, strict=False)
    return list(result.missing_keys), list(result.unexpected_keys)


def _outcome(name: str, given: Mapping[str, Tensor], replaceable: Collection[str]) -> Outcome:
    if name in given:
        return "loaded"
    if _under(name, replaceable):
        return "initialised"
    # what is neither given nor missing was made by the module itself from an older spelling of its tensors
    return "defaulted" if name.endswith(_COUNTER) else "adapted"


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _under(name: str, paths: Collection[str]) -> bool:
    return any(name == path or name.startswith(f"{path}.") for path in paths)


def _mismatch(
    model: nn.Module,
    source: str,
    missing: list[str],
    unexpected: list[str],
    misshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]],
) -> LoadMismatch:
    parts = []
    if missing:
        parts.append(f"{len(missing)} missing ({_few(missing)})")
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected ({_few(unexpected)})")
    if misshaped:
        shown = [f"{name} {list(got)} instead of {list(want)}" for name, (want, got) in misshaped.items()]
        parts.append(f"{len(misshaped)} of another shape ({_few(shown)})")
    return LoadMismatch(
        f"{source} does not fit this {type(model).__name__}",
        expected="every tensor of the model, and no other; only those of a replaced head may differ",
        got="; ".join(parts),
        cause="the file belongs to another architecture, or to another version of this one",
        hint="zoo info NAME shows which weights belong to a model",
        missing=tuple(missing),
        unexpected=tuple(unexpected),
        misshaped=misshaped,
    )


def _few(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")

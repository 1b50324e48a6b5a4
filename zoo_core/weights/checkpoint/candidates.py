"""The state dicts in a checkpoint: found in whatever wrapping, and which of them are the averaged ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from zoo_core.errors import Unreadable
from zoo_core.weights.checkpoint.names import PARALLEL, common_prefix, under, without_wrappers
from zoo_core.weights.checkpoint.odd import refuse_odd_tensors
from zoo_core.weights.formats.plain_pickle import Foreign
from zoo_core.weights.formats.rebuild import OddTensor

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

WRAPPERS = ("state_dict", "model", "model_state_dict", "model_state", "module", "net", "params")
"""Keys under which training scripts keep the state dict among other things, the likeliest first."""
_AVERAGED = re.compile(r"(?:^|[_.])(?:ema|swa|avg|averaged?|teacher)(?:[_.]|$)", re.IGNORECASE)
_TRAINING = re.compile(
    r"optim|sched|scaler|loss|criterion|callback|loops|rng|random|history|metric|config|hyper|amp$|^args$|sampler"
)
"""Keys of what only training needs."""
_DEEPEST = 4
_COUNTER = "n_averaged"
"""What ``torch.optim.swa_utils.AveragedModel`` has beside its ``module``."""
_RAW = "current_model_state"
"""Where Lightning's weight averaging keeps the weights that are not averaged; its ``state_dict`` is."""


@dataclass(frozen=True)
class Candidate:
    """One state dict in a checkpoint.

    Attributes:
        keys: The keys that lead to it; none where the file is a state dict itself.
        tensors: Name to tensor, or to what came of one that could not be read.
        averaged: Whether it holds averaged weights.
    """

    keys: tuple[str, ...]
    tensors: Mapping[str, Any]
    averaged: bool = False

    @property
    def label(self) -> str:
        """The keys in one word, such as ``"ema.module"``."""
        return ".".join(self.keys)


def is_averaged(words: str) -> bool:
    """Whether a key or a prefix says that what is under it was averaged over training.

    Example:
        >>> [is_averaged(key) for key in ("state_dict_ema", "ema.module", "schema", "teacher.")]
        [True, True, False, True]
    """
    return _AVERAGED.search(words) is not None


def is_training(key: str) -> bool:
    """Whether what is under a key is only for training, as an optimizer's state is."""
    return _TRAINING.search(key.lower()) is not None and not is_averaged(key)


def candidates(content: object) -> list[Candidate]:
    """Every state dict in what was read, those in the usual places first.

    Args:
        content: What a file held.

    Example:
        >>> import torch
        >>> found = candidates({"model": {"a": torch.ones(1)}, "ema": {"module": {"a": torch.ones(1)}}, "epoch": 3})
        >>> [(each.label, each.averaged) for each in found]
        [('model', False), ('ema.module', True)]
    """
    found = list(_within(content, (), set()))
    if any(each.keys[:1] == (_RAW,) for each in found):
        found = [replace(each, averaged=each.keys[:1] != (_RAW,)) for each in found]
    return sorted(found, key=_rank)


def _within(content: object, keys: tuple[str, ...], seen: set[int]) -> Iterator[Candidate]:
    if len(keys) > _DEEPEST or id(content) in seen:
        return
    seen.add(id(content))
    if isinstance(content, Foreign):
        state = module_state(content)
        if state:
            yield _candidate(keys, state)
        else:
            yield from (each for part in content.parts() for each in _within(part, keys, seen))
        return
    if not isinstance(content, Mapping):
        return
    direct = {key: value for key, value in content.items() if isinstance(key, str) and _belongs(value)}
    if direct and (len(direct) == len(content) or _mostly_tensors(content)):
        yield _candidate(keys, direct)
    for key, value in content.items():
        if isinstance(key, str) and not is_training(key):
            yield from _within(value, (*keys, key), seen)


def _belongs(value: object) -> bool:
    """Whether it is a tensor, or stands where one was."""
    return isinstance(value, Tensor | OddTensor) or (isinstance(value, Foreign) and not module_state(value))


def _mostly_tensors(content: Mapping[Any, object]) -> bool:
    """Whether a mapping is a state dict with some notes in it, and not a wrapper with a tensor or two."""
    tensors = sum(isinstance(value, Tensor | OddTensor) for value in content.values())
    return 2 * tensors > len(content) and not any(isinstance(value, Mapping) and value for value in content.values())


def _candidate(keys: tuple[str, ...], tensors: Mapping[str, Any]) -> Candidate:
    counted = _COUNTER in tensors
    state = without_wrappers({name: value for name, value in tensors.items() if name != _COUNTER})
    return Candidate(keys, state, averaged=counted or is_averaged(".".join(keys)))


def _rank(each: Candidate) -> tuple[int, int, int]:
    place = WRAPPERS.index(each.keys[0]) if each.keys and each.keys[0] in WRAPPERS else len(WRAPPERS)
    return len(each.keys), place if each.keys else -1, -len(each.tensors)


def module_state(module: Foreign) -> dict[str, Any]:
    """The state dict of a whole module that was pickled, from what it would have had in its attributes.

    Example:
        >>> module_state(Foreign("acme.Net"))
        {}
    """
    state = module.state if isinstance(module.state, dict) else {}
    if not isinstance(state.get("_modules"), Mapping) or not isinstance(state.get("_parameters"), Mapping):
        return {}
    found: dict[str, Any] = {}
    left_out = state.get("_non_persistent_buffers_set", ())
    for name, value in [*state["_parameters"].items(), *(state.get("_buffers") or {}).items()]:
        if value is not None and not (isinstance(left_out, set | frozenset | list) and name in left_out):
            found[str(name)] = value
    for name, child in state["_modules"].items():
        if isinstance(child, Foreign):
            found.update({f"{name}.{inner}": value for inner, value in module_state(child).items()})
    return found


def one_state_dict(content: object, source: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state dict that a checkpoint is about when nothing is known of the model: the averaged one, or the likeliest.

    Args:
        content: What was in the file.
        source: What to call it in an error.

    Raises:
        Unreadable: There is none, or a tensor in it is none of plain numbers.
    """
    found = candidates(content)
    if not found:
        raise no_state_dict(content, source)
    best = next((each for each in found if each.averaged), found[0])
    refuse_odd_tensors(best.tensors, source)
    state = dict(best.tensors)
    prefix = common_prefix(state)
    return under(state, f"{PARALLEL}.") if prefix.startswith(f"{PARALLEL}.") else state


def no_state_dict(content: object, source: str | os.PathLike[str]) -> Unreadable:
    """The error for what holds no tensors by name."""
    return Unreadable(
        f"{source} holds no state dict",
        expected=f"tensors by name, alone or under one of {', '.join(WRAPPERS)}",
        got=_outline(content),
        done="nothing in it was run",
        path=source,
    )


def _outline(content: object) -> str:
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    shown = ", ".join(f"{key!r:.60}: {type(value).__name__}" for key, value in list(content.items())[:6])
    return f"a dict of {len(content)}: {shown}"

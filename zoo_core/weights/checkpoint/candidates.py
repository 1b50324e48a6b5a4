"""The candidates in a checkpoint: its state dicts, found in whatever wrapping, and which of them are averaged."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from zoo_core.errors import ZooWarning
from zoo_core.weights.checkpoint.names import BUFFERS, PARALLEL, TRANSPARENT, under, without_wrappers
from zoo_core.weights.formats.outline import OddTensor, Outline, is_tensor
from zoo_core.weights.formats.plain_pickle import Foreign

WRAPPERS = ("state_dict", "model", "model_state_dict", "model_state", "module", "net", "params")
"""Keys under which training scripts keep the state dict among other things, the likeliest first."""
_AVERAGED = re.compile(r"(?:^|[_.])(?:ema|swa|(?<!exp_)avg|averaged?|polyak|shadow|teacher)(?:[_.]|$)", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_TRAINING = re.compile(
    r"optim|^opt$|sched|scaler|loss|criterion|loops|rng|random|history|metric|config|hyper|amp$|^args$|sampler"
)
"""Keys of what only training needs."""
_CALLBACKS = re.compile(r"callback", re.IGNORECASE)
"""Keys of what only training needs, but for the averages that a callback keeps."""
_EMA = "ema"
"""What NeMo calls the averages that it keeps with the state of its optimizer."""
_AROUND = {*TRANSPARENT, PARALLEL}
"""What a module that wraps another calls it."""
_DEEPEST = 8
_LONGEST = 16
"""Members of a list that are looked into: of several models, or of a state dict beside an epoch."""
_COUNTER = "n_averaged"
"""What ``torch.optim.swa_utils.AveragedModel`` has beside its ``module``."""
_OTHER_COUNTERS = {"steps", "step", "initted"}
"""What MMEngine's averages have beside their ``module``, and those of ema_pytorch beside their models."""
_AVERAGING = {PARALLEL, "ema_model", "online_model"}
_PROFILED = ("total_ops", "total_params")
"""What the profiler thop leaves in every layer that it has counted."""
OPTIMIZER = {"state", "param_groups"}
_BACKUP = "ema_"
"""What MMCV's EMAHook puts before the names of the weights that it has swapped with their averages."""
_RAW = "current_model_state"
"""Where Lightning's weight averaging keeps the weights that are not averaged; its ``state_dict`` is."""


@dataclass(frozen=True)
class Candidate:
    """One state dict in a checkpoint: a candidate for the weights of a model.

    Attributes:
        keys: The keys that lead to it; none where the file is a state dict itself.
        tensors: Name to tensor, or to what came of one that could not be read.
        averaged: Whether it holds averaged weights.
        numbered: Whether it is a list, whose names are places in it.
        module: The whole module that it is of, where one was pickled: inert, with the settings of every layer.
    """

    keys: tuple[str, ...]
    tensors: Mapping[str, Any]
    averaged: bool = False
    numbered: bool = False
    module: Foreign | None = None

    @property
    def label(self) -> str:
        """The keys in one word, such as ``"ema.module"``."""
        return ".".join(self.keys)


def is_averaged(words: str) -> bool:
    """Whether a candidate was averaged over training, by the key or the prefix that it is under.

    Example:
        >>> [is_averaged(key) for key in ("state_dict_ema", "EMACallback", "schema", "teacher.", "exp_avg")]
        [True, True, False, True, False]
    """
    return _AVERAGED.search(_CAMEL.sub("_", words)) is not None


def is_teacher(words: str) -> bool:
    """Whether a candidate is a teacher's state dict, by the key or prefix it is found under, and no more than that.

    Such are averages of the student in DINO, and another model in distillation.
    """
    found = {match[0].strip("_.").lower() for match in _AVERAGED.finditer(_CAMEL.sub("_", words))}
    return found == {"teacher"}


def is_training(key: str) -> bool:
    """Whether what is under a key is no candidate but only for training, as an optimizer's state is."""
    return _TRAINING.search(key.lower()) is not None and not is_averaged(key)


def candidates(content: object) -> list[Candidate]:
    """Every candidate in a checkpoint: the state dicts in what was read, those in the usual places first.

    Warns:
        ZooWarning: Averaged weights are a list without names, and no state dict in the file says what these are.

    Example:
        >>> import torch
        >>> found = candidates({"model": {"a": torch.ones(1)}, "ema": {"module": {"a": torch.ones(1)}}, "epoch": 3})
        >>> [(each.label, each.averaged) for each in found]
        [('model', False), ('ema.module', True)]
    """
    result = list(_within(content, (), set()))
    if any(each.keys[:1] == (_RAW,) for each in result):
        result = [replace(each, averaged=each.keys[:1] != (_RAW,)) for each in result]
    result = [one for each in result for one in _with_shadows(each)]
    lists = [each for each in result if each.numbered]
    result = [each for each in result if not each.numbered]
    return sorted([*result, *(named for each in lists if (named := _named(each, result)))], key=_rank)


def _within(content: object, keys: tuple[str, ...], seen: set[int]) -> Iterator[Candidate]:
    """The candidates within some part of a checkpoint: state dicts, whatever wrapping they are in."""
    if len(keys) > _DEEPEST or id(content) in seen:
        return
    seen.add(id(content))
    if isinstance(content, Foreign):
        state = _module_state(content)
        if state:
            yield replace(_candidate(keys, state), module=content)
        else:
            yield from (each for part in _parts(content) for each in _within(part, keys, seen))
        return
    if isinstance(content, list | tuple):
        yield from _listed(content, keys, seen)
        return
    if not isinstance(content, Mapping) or content.keys() >= OPTIMIZER:
        return
    direct = {key: value for key, value in content.items() if isinstance(key, str) and _belongs(value)}
    direct |= _numbers_beside(direct, content)
    if direct and (len(direct) == len(content) or _mostly_tensors(content)):
        yield _candidate(keys, direct)
    for key, value in content.items():
        if is_tensor(value) or not isinstance(key, str | int):
            continue
        inner = _within(value, (*keys, str(key)), seen)
        if is_training(str(key)):
            yield from (each for each in inner if each.averaged and _EMA in each.keys[len(keys) + 1 :])
        else:
            yield from inner if not _CALLBACKS.search(str(key)) else (each for each in inner if each.averaged)


def _parts(module: Foreign) -> Iterator[object]:
    """Values in a checkpoint's pickled object, no module, that may be candidates: what it holds, and its lists."""
    for part in module.parts():
        yield from part if isinstance(part, list | tuple) else (part,)


def _listed(content: list[object] | tuple[object, ...], keys: tuple[str, ...], seen: set[int]) -> Iterator[Candidate]:
    """Candidates in a list of a checkpoint: state dicts, or averages, as torch_ema and diffusers have them."""
    if pairs := _pairs(content):
        yield _candidate(keys, pairs)
    elif len(content) > 1 and all(is_tensor(each) for each in content):
        if is_averaged(".".join(keys)):
            yield Candidate(keys, {str(at): each for at, each in enumerate(content)}, averaged=True, numbered=True)
    elif len(content) <= _LONGEST:
        yield from (each for at, part in enumerate(content) for each in _within(part, (*keys, str(at)), seen))


def _pairs(content: list[object] | tuple[object, ...]) -> dict[str, Any]:
    """The candidate in a list of pairs, as ``list(model.named_parameters())`` has them; empty for any other list."""
    pairs = [each for each in content if isinstance(each, tuple) and len(each) == 2]  # noqa: PLR2004 - name, tensor
    named = {name: value for name, value in pairs if isinstance(name, str) and _belongs(value)}
    return named if len(named) == len(content) else {}


def _named(averages: Candidate, others: list[Candidate]) -> Candidate | None:
    """The candidate for averages in a list, under the names of parameters beside them in the same order."""
    values = [*averages.tensors.values()]
    for each in others:
        names = [
            name
            for name, tensor in each.tensors.items()
            if is_tensor(tensor) and tensor.is_floating_point() and not name.endswith(BUFFERS)
        ]
        if [each.tensors[name].shape for name in names] == [value.shape for value in values]:
            return replace(averages, tensors=dict(zip(names, values, strict=True)), numbered=False)
    warnings.warn(
        f"the averaged weights under {averages.label!r} are not taken: they are a list of {len(values)} tensors "
        f"without names, and no state dict in the file has as many parameters of these shapes. Save the state dict of "
        f"a model that they were copied to",
        ZooWarning,
        stacklevel=2,
    )
    return None


def _with_shadows(each: Candidate) -> list[Candidate]:
    """A candidate without, and apart from it, the averages in it whose names have lost their dots.

    So latent diffusion's LitEma keeps them: ``model_ema.conv1weight`` beside ``model.conv1.weight``. MMCV's EMAHook has
    swapped the weights with the averages when a file is written: what is called ``ema_conv1_weight`` then is not
    averaged. The hook keeps a copy of every parameter, so most weights have one; a model may have a few tensors
    ``ema_embed`` of its own.
    """
    backups = {f"{_BACKUP}{name.replace('.', '_')}": name for name in each.tensors}
    kept = {backups[name]: tensor for name, tensor in each.tensors.items() if name in backups}
    rest = {name: tensor for name, tensor in each.tensors.items() if name not in backups}
    weights = {name for name in rest if name.endswith((".weight", ".bias"))}
    if 2 * len(weights & {*kept}) > len(weights):
        return [replace(each, tensors=rest), Candidate((*each.keys, _BACKUP.rstrip("_")), kept)]
    starts = [name.removesuffix("num_updates") for name in each.tensors if name.endswith(".num_updates")]
    start = next((start for start in starts if f"{start}decay" in each.tensors and is_averaged(start)), None)
    if start is None:
        return [each]
    shadows = under(each.tensors, start)
    rest = {name: tensor for name, tensor in each.tensors.items() if not name.startswith(start)}
    averages = {name: shadows[short] for name in rest if (short := _shadow_of(name, shadows))}
    if len(averages) != len(shadows) - 2:  # the decay and the number of updates are no weights
        return [each]
    return [replace(each, tensors=rest), Candidate((*each.keys, start.rstrip(".")), averages, averaged=True)]


def _shadow_of(name: str, shadows: Mapping[str, Any]) -> str | None:
    """The name without dots under which a candidate holds the average of a tensor, as LitEma names it."""
    parts = name.split(".")
    return next((short for at in range(len(parts)) if (short := "".join(parts[at:])) in shadows), None)


def _belongs(value: object) -> bool:
    """Whether a value belongs to a candidate state dict: it is a tensor, or stands where one was."""
    return is_tensor(value) or isinstance(value, OddTensor) or (isinstance(value, Foreign) and not _module_state(value))


def _numbers_beside(tensors: Mapping[str, Any], content: Mapping[Any, object]) -> dict[str, Any]:
    """Numbers of Python that belong to a candidate: beside another tensor of the same layer."""
    if len(tensors) == len(content):
        return {}
    layers = {name.rpartition(".")[0] for name in tensors if "." in name}
    return {
        key: _as_tensor(key, value, next(iter(tensors.values())))
        for key, value in content.items()
        if isinstance(key, str) and key.rpartition(".")[0] in layers and _is_number(value)
    }


def _is_number(value: object) -> bool:
    """Whether a value is a number or a row of them, which may stand for a tensor of a candidate."""
    values = value if isinstance(value, list | tuple) else [value]
    return bool(values) and all(isinstance(each, int | float) and not isinstance(each, bool) for each in values)


def _as_tensor(name: str, value: Any, beside: object) -> Any:
    """The tensor of a candidate that was saved as a number of Python or a row of them."""
    row = [*value] if isinstance(value, list | tuple) else [value]
    shape = () if row != value and name.endswith(BUFFERS[-1:]) else (len(row),)
    dtype = "float32" if any(isinstance(each, float) for each in row) else "int64"
    if isinstance(beside, Outline):
        return Outline(shape, dtype)
    import torch

    return torch.tensor(row, dtype=getattr(torch, dtype), device="cpu").reshape(shape)


def _mostly_tensors(content: Mapping[Any, object]) -> bool:
    """Whether a mapping is a candidate, a state dict with some notes, and not a wrapper with a tensor or two.

    Beside the parameters of a layer, numbers and words are notes, however many, and so is what only training needs.
    """
    tensors = [key for key, value in content.items() if is_tensor(value) or isinstance(value, OddTensor)]
    words = [str(key) for key in tensors if not is_training(str(key))]
    if any("." in word or word in {"weight", "bias"} for word in words):
        content = {key: value for key, value in content.items() if not (_is_note(value) or _is_of_training(key, value))}
    # Paddle has a mapping of plain names beside its tensors
    inside = [each for value in content.values() if isinstance(value, Mapping) for each in value.values()]
    may_hold_tensors = any(_belongs(each) or isinstance(each, Mapping | Foreign | list | tuple) for each in inside)
    return 2 * len(tensors) > len(content) and not may_hold_tensors


def _is_note(value: object) -> bool:
    """Whether a value beside the tensors of a candidate is a number, a word, or a row of such."""
    values = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(each, bool | int | float | complex | str | bytes | None) for each in values)


def _is_of_training(key: object, value: object) -> bool:
    """Whether a mapping beside the tensors of a candidate is the state of an optimizer, or settings."""
    return isinstance(value, Mapping) and (is_training(str(key)) or value.keys() >= OPTIMIZER)


def _candidate(keys: tuple[str, ...], tensors: Mapping[str, Any]) -> Candidate:
    """The candidate for a state dict under some keys, without counters and the names that wrappers add."""
    parts = {name.partition(".")[0] for name in tensors} - _OTHER_COUNTERS
    is_wrapper = parts <= _AVERAGING and (parts != {PARALLEL} or is_averaged(".".join(keys)))
    own = _OTHER_COUNTERS & {*tensors} if is_wrapper else set()
    counted = _COUNTER in tensors
    state = {
        name: value
        for name, value in tensors.items()
        if name not in own and name.rpartition(".")[2] not in (_COUNTER, *_PROFILED)
    }
    state = without_wrappers(state)
    return Candidate(keys, state, averaged=counted or is_averaged(".".join(keys)))


def _rank(each: Candidate) -> tuple[int, int, int]:
    """Rank of a candidate among those in a checkpoint: under few keys, and under the usual ones, comes first."""
    place = WRAPPERS.index(each.keys[0]) if each.keys and each.keys[0] in WRAPPERS else len(WRAPPERS)
    return len(each.keys), place if each.keys else -1, -len(each.tensors)


def _module_state(module: Foreign) -> dict[str, Any]:
    """The candidate in a whole module that a checkpoint has pickled: the state dict that its attributes make.

    Example:
        >>> _module_state(Foreign("acme.Net"))
        {}
    """
    state = module.state if isinstance(module.state, dict) else {}
    if not isinstance(state.get("_modules"), Mapping) or not isinstance(state.get("_parameters"), Mapping):
        return {}
    result: dict[str, Any] = {}
    left_out = state.get("_non_persistent_buffers_set", ())
    buffers = state.get("_buffers")
    buffers = buffers if isinstance(buffers, Mapping) else {}
    for name, value in [*state["_parameters"].items(), *buffers.items()]:
        if (is_tensor(value) or isinstance(value, OddTensor | Foreign)) and not (
            isinstance(left_out, set | frozenset | list) and name in left_out
        ):
            result[str(name)] = value
    for name, child in state["_modules"].items():
        if isinstance(child, Foreign):
            result.update({f"{name}.{inner}": value for inner, value in _module_state(child).items()})
    return result


def module_at(module: Foreign, prefix: str) -> Foreign | None:
    """The module that a candidate is the state of, in a checkpoint with a whole module: the one under its prefix."""
    result = unwrapped(module)
    for part in prefix.split("."):
        if part and part not in _AROUND:
            inner = children_of(result).get(part)
            if inner is None:
                return None
            result = inner
    return result


def with_names(module: Foreign, names: Mapping[str, str]) -> Foreign:
    """The whole ``nn.Sequential`` of a candidate, with the names of its children in place of their numbers."""
    held = module.state.get("_modules") if isinstance(module.state, dict) else None
    if not isinstance(held, Mapping):
        return module
    named = {names.get(str(key), key): child for key, child in held.items()}
    result = copy.copy(module)
    result.state = {**module.state, "_modules": named}
    return result


def children_of(module: Foreign) -> dict[str, Foreign | None]:
    """The children, by name, of a whole module that is a candidate, out of their wrappers; None where there is none.

    Example:
        >>> children_of(Foreign("acme.Net"))
        {}
    """
    held = module.state.get("_modules") if isinstance(module.state, dict) else None
    every = held.items() if isinstance(held, Mapping) else ()
    return {str(name): unwrapped(each) if each else None for name, each in every if isinstance(each, Foreign | None)}


def unwrapped(module: Foreign) -> Foreign:
    """Pickled module of a candidate, without wrappers of data-parallel training and ``torch.compile``."""
    held = module.state.get("_modules") if isinstance(module.state, dict) else None
    while isinstance(held, Mapping) and len(held) == 1 and {*held} <= _AROUND:
        inner = next(iter(held.values()))
        if not isinstance(inner, Foreign):
            break
        module = inner
        held = module.state.get("_modules") if isinstance(module.state, dict) else None
    return module

"""Why a file does not fit a model, computed from the names and shapes on both sides."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.contract.anatomy import Head
from zoo_core.errors import LoadMismatch
from zoo_core.registry.zoo import current_zoo
from zoo_core.surgery.layers import is_bias
from zoo_core.surgery.metadata import anatomy_of, metadata_of
from zoo_core.surgery.structure import under
from zoo_core.weights.checkpoint.names import BUFFERS, fits

if TYPE_CHECKING:
    from torch import nn

    from zoo_core.weights.checkpoint.choose import Choice
    from zoo_core.weights.checkpoint.read import Checkpoint

_SHARD = re.compile(r"-(\d+)-of-(\d+)\b")
_AGAIN = "load it with the code that wrote it, call {} for each such layer, and save the state dict again"
_MARKS = (
    ("_flat_param", "FSDP has flattened the parameters", "save it with StateDictOptions(full_state_dict=True)"),
    (
        "lora_A.",
        "the file has LoRA adapters of PEFT, and does not say their scale",
        "zoo.save(model.merge_and_unload(), folder), or peft.PeftModel.from_pretrained(model, folder) of a zoo model",
    ),
    (
        ".parametrizations.",
        "layers are parametrized, as by weight_norm",
        _AGAIN.format("torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')"),
    ),
    (
        "fc_norm.weight",
        "it was trained with the average of all tokens, whose norm is after the pool",
        'options={"global_pool": "avg"} builds it so',
    ),
    ("weight_mask", "layers are pruned", _AGAIN.format("torch.nn.utils.prune.remove(layer, 'weight')")),
    ("weight_u", "layers have a spectral norm", _AGAIN.format("torch.nn.utils.remove_spectral_norm(layer)")),
    ("weight_g", "layers have a weight norm", _AGAIN.format("torch.nn.utils.remove_weight_norm(layer)")),
    ("fake_quant", "it was trained to be quantized", "save the state dict of the model before torch.ao prepared it"),
    ("zero_point", "layers are quantized", "save the state dict of the model before torch.ao quantized it"),
)
"""What the names of tensors show: part of a name, the cause, and the next step."""


def explained(error: LoadMismatch, model: nn.Module, choice: Choice, checkpoint: Checkpoint) -> LoadMismatch:
    """The error for a misfit with the cause that the file itself shows, and the step that follows from it."""
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if hasattr(tensor, "shape")}
    cause, hint = _cause(own, model, choice, checkpoint)
    return LoadMismatch(
        error.summary,
        expected=f"every tensor of {type(model).__name__}, and no other",
        got=error.parts["got"],
        done="nothing was loaded",
        cause=cause,
        hint=hint,
        missing=error.missing,  # type: ignore[attr-defined]  # as the class says
        unexpected=error.unexpected,  # type: ignore[attr-defined]
        misshaped=error.misshaped,  # type: ignore[attr-defined]
    )


def _cause(
    own: Mapping[str, tuple[int, ...]], model: nn.Module, choice: Choice, checkpoint: Checkpoint
) -> tuple[str, str]:
    """Why a file does not fit the model, and what to do about it."""
    inspect = f"zoo inspect {checkpoint.path.name} says what the file is, and which models it fits"
    names = len(choice.state)
    near = bool(choice.fitting) and choice.fitting >= names // 2
    named = (
        _shown(choice.state, own, checkpoint.path)
        or (_own_head(own, model, choice) if near else None)
        or _part(own, choice, checkpoint)
        or (_head_cause(model, choice) if near else None)
        or _only_head(model, choice.state)
        or _without_norms(own, choice.state)
        or _of_another_size(own, model, choice.state)
        or _edited(own, choice.state)
    )
    if named:
        return named
    if choice.prefix or choice.fitting:
        without = f" without the prefix {choice.prefix!r}" if choice.prefix else ""
        return f"{choice.fitting} of {names} names and shapes fit{without}", inspect
    return "no name in the file is one of this model: it is of another architecture, or of another library", inspect


def _shown(state: Mapping[str, Any], own: Mapping[str, object], path: Path) -> tuple[str, str] | None:
    """Why a file does not fit, as far as its own name, or those of its tensors, show it."""
    if shard := _SHARD.search(path.name):
        return f"the file is one of {int(shard[2])} shards", f"give the folder that they are in: {path.parent}"
    if marked := next((said for mark, *said in _MARKS if any(mark in name for name in state if name not in own)), None):
        return marked[0], marked[1]
    if state and all(not math.prod(tensor.shape) for tensor in state.values() if hasattr(tensor, "shape")):
        return (
            "its tensors are empty: stage 3 of DeepSpeed's ZeRO keeps the numbers in the files of the optimizer",
            "DeepSpeed's zero_to_fp32.py, which is in the folder, puts them together",
        )
    return None


def _only_head(model: nn.Module, state: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why a file that holds the head and nothing else does not fit."""
    site = anatomy_of(model).main
    if site is None or not state or not all(under(name, site.path) for name in state):
        return None
    cause = f"the file holds the head at {site.path!r} alone"
    return cause, "zoo.load_partial(model, path) loads it into a whole model"


def _without_norms(own: Mapping[str, tuple[int, ...]], state: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why a file without the statistics of batch norms, or without the norms, does not fit."""
    norms = {name.rpartition(".")[0] for name in own if name.endswith("running_var")}
    if not norms or any(name.endswith("running_var") for name in state):
        return None
    others = {name for name in own if name.rpartition(".")[0] not in norms}
    if others <= {*state} and any(is_bias(name) for name in {*state} - {*own}):
        step = "save the state dict before they are fused, or zoo.adopt(model) takes the module that they were fused in"
        return "it has no batch norm: they were fused into the layers before them", step
    if {name for name in own if not name.endswith(BUFFERS)} <= {*state}:
        step = "zoo.load_partial(model, path), then torch.optim.swa_utils.update_bn(batches, model) computes them"
        return (
            "it has the parameters alone, without the statistics of batch norms",
            f"save model.state_dict(); or {step}",
        )
    return None


def _part(own: Mapping[str, tuple[int, ...]], choice: Choice, checkpoint: Checkpoint) -> tuple[str, str] | None:
    """Why a file whose names are those of a part of the model does not fit."""
    whole = next((each.tensors for each in checkpoint.candidates if each.keys == choice.keys), choice.state)
    reverse = [fit for fit in fits(own, {*whole}) if fit.prefix]
    if not reverse or reverse[0].count <= max(choice.fitting, len(whole) // 2):
        return None
    part = reverse[0].prefix.rstrip(".")
    return (
        f"the file is of a part of the model: {reverse[0].count} of {len(whole)} names fit under {part!r}",
        f"zoo.load_partial(model.get_submodule({part!r}), path) loads that part",
    )


def _edited(own: Mapping[str, tuple[int, ...]], state: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why a file with all names of a model, some of them in other shapes, does not fit."""
    shapes = {name: tuple(getattr(tensor, "shape", ())) for name, tensor in state.items()}
    odd = [name for name in own if name in shapes and shapes[name] != own[name]]
    if not odd or shapes.keys() != own.keys() or len(odd) > len(own) // 2:
        return None
    first = f"{odd[0]} is {[*shapes[odd[0]]]} in the file, and {[*own[odd[0]]]} here"
    return (
        f"the model was changed before it was trained: {first}",
        "load it into that model with its own code: zoo.adopt(model) takes it from there",
    )


def _of_another_size(
    own: Mapping[str, tuple[int, ...]], model: nn.Module, state: Mapping[str, Any]
) -> tuple[str, str] | None:
    """Why a file with position tables for images of a size that cannot be computed does not fit."""
    card = metadata_of(model).card
    option = current_zoo().member(card.family).family.image_size if card else None
    odd = [name for name in own if name in state and tuple(state[name].shape) != own[name]]
    if not option or not odd or len(odd) > len(own) // 2 or not all("pos" in name for name in odd):
        return None
    shapes = f"{odd[0]} is {[*state[odd[0]].shape]} in the file, and {[*own[odd[0]]]} here"
    if option in metadata_of(model).options:
        cause = f"the table of positions is of images of another size than {option!r} says: {shapes}"
        return cause, f"leave {option!r} out of options: the model is then built for the images of the file"
    cause = f"the table of positions is of images of another size, which are not square: {shapes}"
    return cause, f'options={{"{option}": (HEIGHT, WIDTH)}} builds the model for them'


def _own_head(own: Mapping[str, object], model: nn.Module, choice: Choice) -> tuple[str, str] | None:
    """Why a head at the place of the model's does not fit, when that is all that does not."""
    site = anatomy_of(model).main
    odd = {*own} ^ {*choice.state}
    inside = [name for name in choice.state if site and under(name, site.path)]
    if site is None or not inside or not odd or not all(under(name, site.path) for name in odd):
        return None
    return (
        f"the head in the file is another: {', '.join(inside[:4])}",
        "give the module that it is as head=, and the file fills it; or num_classes=N for a new one",
    )


def _head_cause(model: nn.Module, choice: Choice) -> tuple[str, str] | None:
    """Why a file does not fit that has all before the head: it has no head, or more than the model."""
    site = anatomy_of(model).main
    if site is None:
        return None
    missing, extra = {*model.state_dict()} - {*choice.state}, {*choice.state} - {*model.state_dict()}
    before = sorted(each for each in missing if not under(each, site.path))
    if (
        extra
        and not before
        and not {name.partition(".")[0] for name in extra} & {name for name, _ in model.named_children()}
    ):
        return _more(model, extra, len(choice.state) - len(extra))
    inside = [name for name in choice.state if under(name, site.path)]
    return None if inside else _headless(model, site, before, choice)


def _whole_and_front(model: nn.Module) -> tuple[str, str]:
    """How a model without weights is made, as a whole and as an encoder, in code."""
    card = metadata_of(model).card
    name = f'"{card.id}"' if card else "name"
    whole, front = (f"zoo.{verb}({name}, weights=None)" for verb in ("get", "encoder"))
    return whole, front


def _more(model: nn.Module, extra: Collection[str], shared: int) -> tuple[str, str]:
    """Why a file with a model and other parts, such as the decoder of an autoencoder, does not fit."""
    parts = ", ".join(sorted({name.partition(".")[0] for name in extra})[:6])
    whole, _ = _whole_and_front(model)
    return (
        f"beside {shared} tensors of this model the file has {len(extra)} of other parts: {parts}",
        f"zoo.load_partial(model, path) loads those of model = {whole}, where num_classes=N may be given too",
    )


def _headless(model: nn.Module, site: Head, before: list[str], choice: Choice) -> tuple[str, str]:
    """Why a file without a head, such as that of an encoder, does not fit."""
    whole, front = _whole_and_front(model)
    if before:
        cause = f"the file ends before the head, as that of an encoder does: it has no {before[0]}"
        return cause, f"zoo.load_partial(model, path) loads what there is into model = {front} or {whole}"
    hint = f"zoo.load_partial(model, path) loads it into model = {front}"
    beside = {name: tensor for name, tensor in choice.beside.items() if name in choice.left}
    layers = {name: [*tensor.shape] for name, tensor in beside.items() if getattr(tensor, "ndim", 0) > 1}
    if not layers or not choice.prefix:
        return f"the file has no head at {site.path!r}", f"num_classes=N puts a new one there; {hint}"
    shown = ", ".join(f"{name} {shape}" for name, shape in [*layers.items()][:4])
    is_twice = next(iter(layers.values()))[1] == 2 * site.in_features
    pooled = f", twice the {site.in_features} here: average and maximum are pooled" if is_twice else ""
    return (
        f"the file has a head of its own beside {choice.prefix!r}: {shown}{pooled}",
        f"num_classes=N puts a new one at {site.path!r}; head=MODULE is filled by the names of the file; {hint}",
    )

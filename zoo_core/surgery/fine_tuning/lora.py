"""Low-rank adapters on the layers of a backbone, through PEFT: put in, described for recipes, and merged."""

from __future__ import annotations

import math
import re
import warnings
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional

from zoo_core.errors import NotSupported, UsageError, ZooError
from zoo_core.surgery.adapters import active_copy, is_adapted, lora_layers, plain_name, wrapped_modules
from zoo_core.surgery.editing import editing
from zoo_core.surgery.features.twin import replaced
from zoo_core.surgery.fine_tuning.freeze import freeze
from zoo_core.surgery.inputs import example_input
from zoo_core.surgery.metadata import Edit, anatomy_of, metadata_of, unwrap
from zoo_core.surgery.select import select
from zoo_core.surgery.structure import under
from zoo_core.utils.arguments import check_count, strict_arguments
from zoo_core.utils.eval_mode import evaluating
from zoo_core.utils.hooks import removing
from zoo_core.utils.only_errors import PYTREE, only_errors
from zoo_core.utils.random_state import seeded

Model = TypeVar("Model", bound=nn.Module)

_NAME = "default"
"""PEFT's name for an adapter that has none."""
_LARGEST = 1 << 12
"""No rank comes near it; a recipe that had more would fill the memory."""


@strict_arguments
def add_lora(
    model: Model,
    *,
    at: str | Sequence[str] | None = None,
    rank: int = 8,
    alpha: float | None = None,
    dropout: float = 0.0,
    dora: bool = False,
    seed: int | None = None,
) -> Model:
    """Freeze the backbone of ``model``, and train low-rank adapters of its layers instead (``zoo-core[lora]``).

    Each adapted layer computes what it did, and adds ``alpha / rank`` times a product of two small matrices, which
    begins as zero. Batch norms are held as :func:`zoo_core.freeze` does, and the head trains if it did before. The
    layers are PEFT's own, inside the model, which keeps its class. :func:`zoo_core.save` writes little more than the
    adapters where the rest is as published weights have it, and :func:`merge_lora` adds them to the weights for good.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``; changed in place.
        at: Which layers, in the words of :func:`zoo_core.freeze`; None for all of the backbone but the stem. Layers
            are linear ones and convolutions of one group; those that other code computes with directly, such as
            inside ``nn.MultiheadAttention``, are left out.
        rank: Inner size of the adapters.
        alpha: Numerator of their scale; None for ``rank``, which is a scale of 1.
        dropout: Share of an adapter's inputs that is zeroed in training.
        dora: Train the lengths of the weights as well, as DoRA does.
        seed: Makes the new parameters reproducible without touching the global random state.

    Returns:
        The same model.

    Raises:
        UnknownPart: A name matches nothing.
        UsageError: No layer is meant that can have an adapter, or one has an adapter already, or a number is
            impossible.
        NotAZooModel: zoo knows nothing about the model.
        ZooError: PEFT is not installed.

    Example:
        >>> import zoo_core as zoo
        >>> model = zoo.add_lora(zoo.get("tiny/glyphnet", num_classes=9), rank=4)  # doctest: +SKIP
        >>> sum(p.numel() for p in model.parameters() if p.requires_grad)  # doctest: +SKIP
        8273
    """
    check_count("rank", rank)
    if rank > _LARGEST or not 0 <= dropout < 1 or not (alpha is None or (math.isfinite(alpha) and alpha > 0)):
        raise UsageError(
            f"no adapter can have rank={rank}, alpha={alpha} and dropout={dropout}",
            expected=f"a rank of at most {_LARGEST}, a positive alpha, and a dropout from 0 up to 1",
        )
    peft = _peft()
    paths = _targets(model, at)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,
        lora_dropout=dropout,
        use_dora=dora,
        target_modules="|".join(re.escape(path) for path in paths),
    )
    trains = {name for name in _head_names(model) if unwrap(model).get_parameter(name).requires_grad}
    freeze(model, "backbone")
    with editing(model, "add_lora") as edit:
        before = dict(metadata_of(edit.model).receipt.tensors)
        edit.model.__dict__.pop("peft_config", None)  # PEFT would take another set of layers for another adapter
        with seeded(seed, edit.model), warnings.catch_warnings(action="ignore"):
            peft.inject_adapter_in_model(config, edit.model)
        adapted = [f"{path}." for path in paths]
        for name, parameter in edit.model.named_parameters():
            parameter.requires_grad_(name in trains or ".lora_" in name)
        inside = [name for name in edit.model.state_dict() if name.startswith(tuple(adapted))]
        moved = {name: plain_name(name) for name in inside}
        edit.outcomes |= {name: before[plain] for name, plain in moved.items() if name != plain and plain in before}
    return model


@strict_arguments
def merge_lora(model: Model) -> Model:
    """Add LoRA adapters to the weights of their layers, and take them out: a plain model again, of the same outputs.

    Args:
        model: A model after :func:`add_lora`, or a ``PeftModel`` around one; changed in place.

    Returns:
        The same model.

    Raises:
        UsageError: It has no LoRA adapters.
        NotAZooModel: zoo knows nothing about the model.

    Example:
        >>> import zoo_core as zoo
        >>> model = zoo.merge_lora(zoo.load("flowers-lora/"))  # doctest: +SKIP
    """
    bare = unwrap(model)
    layers = lora_layers(bare)
    if not layers:
        metadata_of(model)
        raise UsageError(f"this {type(bare).__name__} has no LoRA adapters", hint="zoo.add_lora(model) puts some in")
    with editing(model, "merge_lora") as edit:
        before = dict(metadata_of(edit.model).receipt.tensors)
        for path, layer in layers.items():
            if not layer.merged:
                layer.merge()
            plain = layer.get_base_layer()
            edit.model.set_submodule(path, plain)
            edit.outcomes |= {
                f"{path}.{name}": before.get(f"{path}.base_layer.{name}", "initialized") for name in plain.state_dict()
            }
            edit.outcomes[f"{path}.weight"] = "adapted"
            edit.notes[f"{path}.weight"] = "a LoRA adapter was added to it"
        for path, wrapper in wrapped_modules(edit.model).items():
            edit.model.set_submodule(path, active_copy(wrapper))
        edit.model.__dict__.pop("peft_config", None)
    return model


def lora_edits(model: nn.Module) -> list[Edit]:
    """LoRA in ``model`` as calls of :func:`add_lora`: one for all the layers of one rank, alpha, dropout and kind.

    Raises:
        NotSupported: Several adapters are on a layer, or they are switched off or merged, or are none of LoRA's.
    """
    groups: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for path, layer in lora_layers(model).items():
        _refuse_other_lora(path, layer)
        rank, dropout = layer.r[_NAME], getattr(layer.lora_dropout[_NAME], "p", 0.0)
        groups[rank, float(layer.scaling[_NAME] * rank), float(dropout), bool(layer.use_dora[_NAME])].append(path)
    names = ("rank", "alpha", "dropout", "dora")
    return [
        Edit("add_lora", {"at": tuple(paths), **dict(zip(names, setting, strict=True))})
        for setting, paths in groups.items()
    ]


def _refuse_other_lora(path: str, layer: Any) -> None:
    """Refuse to save LoRA that :func:`add_lora` did not make, or that is merged for a time or switched off."""
    cause = None
    if layer.merged:
        cause, hint = "it is merged into the weights for a time", "model.unmerge_adapter(), or zoo.merge_lora(model)"
    elif layer.disable_adapters:
        cause, hint = "it is switched off", "model.enable_adapter_layers(), or model.unload() for the model without it"
    elif list(layer.lora_A) != [_NAME]:
        cause, hint = f"a layer has the adapters {', '.join(layer.lora_A) or 'of an embedding'}", _PLAIN
    if cause:
        raise NotSupported(f"the adapter at {path!r} cannot be saved", cause=cause, hint=hint)


_PLAIN = "zoo.merge_lora(model) makes a plain model of it; model.save_pretrained(folder) writes PEFT's own files"


def without_copies(model: nn.Module) -> nn.Module:
    """A model with LoRA as it is saved: a twin with only the trained copies where PEFT keeps two, or itself.

    Raises:
        NotSupported: It has adapters of PEFT that are none of LoRA's.
    """
    wrappers = wrapped_modules(model)
    twin = replaced(model, {path: active_copy(each) for path, each in wrappers.items()}) if wrappers else model
    if is_adapted(twin) and not lora_layers(twin):
        raise NotSupported(
            f"this {type(model).__name__} has adapters of PEFT that are none of LoRA's",
            hint="model.merge_and_unload() makes a plain model of it, which zoo.save takes",
        )
    return twin


def _peft() -> Any:
    """PEFT, which LoRA adapters are made with; an error that says how to install it where it is missing."""
    try:
        with only_errors(PYTREE):  # of torchao, which PEFT imports where it is installed
            import peft
    except ImportError as error:
        raise ZooError("adapters need PEFT", hint="pip install 'zoo-core[lora]'") from error
    return peft


def _head_names(model: nn.Module) -> set[str]:
    """Names of the parameters of the head sites, which train whole beside LoRA adapters."""
    heads = [site.path for site in anatomy_of(model).heads]
    return {name for name, _ in unwrap(model).named_parameters() if any(under(name, path) for path in heads)}


def _targets(model: nn.Module, at: str | Sequence[str] | None) -> list[str]:
    """Paths of the layers that get a LoRA adapter.

    Raises:
        UsageError: There are none, or one of them has an adapter already.
    """
    bare = unwrap(model)
    meant = (at,) if isinstance(at, str) else tuple(at) if at is not None else ("backbone",)
    names = select(model, meant)
    if at is None:
        stem = anatomy_of(model).stem
        names = {name for name in names if not any(under(name, path) for path in stem)}
    done = {f"{path}." for path in lora_layers(bare)}
    layers = {path: each for path, each in bare.named_modules() if _is_layer(each) and f"{path}.weight" in names}
    inside = [path for path in layers if path.startswith(tuple(done))] if done else []
    if inside:
        raise UsageError(
            f"{inside[0].removesuffix('.base_layer')!r} has an adapter already",
            done="nothing was changed",
            hint="zoo.merge_lora(model) adds it to the weights; at=[...] names other layers",
        )
    result = layers if set(meant) <= layers.keys() else _plain(model, layers)
    if not result:
        raise UsageError(
            f"no layer of this {type(bare).__name__} that is meant can have an adapter",
            expected="linear layers, and torch's own convolutions of one group",
            got=f"at={at!r}",
            cause=_other_convolutions(bare),
            hint="zoo.add_lora(model) takes all of the backbone that can"
            if at is not None
            else "zoo.freeze(model, stages=3) trains the last stages instead of adapters",
        )
    return list(result)


def _other_convolutions(model: nn.Module) -> str | None:
    """Why the convolutions of a model get no LoRA adapter, where their class is not torch's own."""
    kinds = {type(each).__name__ for each in model.modules() if isinstance(each, nn.Conv2d)} - {"Conv2d"}
    return f"its convolutions are of the class {min(kinds)}, which PEFT cannot adapt" if kinds else None


def _is_layer(module: nn.Module) -> bool:
    """Whether a layer is of a kind that LoRA adapters are made for: linear, or a plain ungrouped convolution."""
    # PEFT builds the convolutions of an adapter with the class of the one beside them, and the arguments of torch's
    is_plain = type(module) is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros"
    return is_plain or isinstance(module, nn.Linear)


def _plain(model: nn.Module, layers: dict[str, nn.Module]) -> list[str]:
    """Those layers that LoRA can adapt: they run and compute what their class says, as one image shows.

    Libraries standardize weights, pad as TensorFlow does, or read the weight of a layer without calling it; an adapter
    beside such a layer would be another function than that of its merged weight, or none at all.
    """
    seen: dict[str, bool] = {}

    def hook(path: str) -> Any:
        def compare(module: Any, inputs: Any, output: Any) -> None:
            same = bool(inputs) and torch.equal(_computed(module, inputs[0]), output)
            seen[path] = seen.get(path, True) and same

        return compare

    bare = unwrap(model)
    handles = (module.register_forward_hook(hook(path)) for path, module in layers.items())
    try:
        with removing(handles), evaluating(bare), torch.no_grad():
            bare(example_input(model))
    except Exception:  # noqa: BLE001 - what forward takes is not an image: plain classes are taken as they are
        return [path for path, module in layers.items() if type(module) in (nn.Linear, nn.Conv2d)]
    return [path for path in layers if seen.get(path)]


def _computed(module: Any, x: torch.Tensor) -> Any:
    """The output of a layer that LoRA is to adapt, by the code of its class and its own weight and bias."""
    if isinstance(module, nn.Linear):
        return functional.linear(x, module.weight, module.bias)
    return nn.Conv2d._conv_forward(module, x, module.weight, module.bias)  # noqa: SLF001 - what the class itself does

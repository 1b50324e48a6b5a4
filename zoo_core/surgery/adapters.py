"""Adapter layers that PEFT put into a model, read without importing PEFT."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

_INNER = re.compile(r"\.(?:base_layer|original_module)(?=\.|$)")
"""What PEFT puts between the path of a layer and the names of its own tensors."""


def lora_layers(model: nn.Module) -> dict[str, Any]:
    """The LoRA layers among the adapters that PEFT put into ``model``, by path.

    Example:
        >>> from torch import nn
        >>> lora_layers(nn.Sequential(nn.Linear(2, 2)))
        {}
    """
    return _instances(model, "peft.tuners.lora.layer", "LoraLayer")


def wrapped_modules(model: nn.Module) -> dict[str, Any]:
    """PEFT's wrappers of modules that it trains a copy of beside its adapters (``modules_to_save``), by path."""
    return _instances(model, "peft.utils.other", "ModulesToSaveWrapper")


def is_adapted(model: nn.Module) -> bool:
    """Whether PEFT has put adapters of any kind into ``model``."""
    return bool(_instances(model, "peft.tuners.tuners_utils", "BaseTunerLayer") or wrapped_modules(model))


def _instances(model: nn.Module, module: str, name: str) -> dict[str, Any]:
    """The adapter layers of one class of PEFT in a model, by path; PEFT is not imported for it."""
    # a model can only hold what was imported already
    kind = getattr(sys.modules.get(module), name, None)
    return {path: each for path, each in model.named_modules() if isinstance(each, kind)} if kind else {}


def active_copy(wrapper: Any) -> nn.Module:
    """The module that PEFT's wrapper runs, the original or a copy, as its active adapters say."""
    active = [name for name in wrapper.active_adapters if name in wrapper.modules_to_save]
    off = wrapper.disable_adapters or not active
    result: nn.Module = wrapper.original_module if off else wrapper.modules_to_save[active[0]]
    return result


def plain_layer(module: nn.Module) -> nn.Module:
    """The library's own layer inside the adapters that PEFT put around it; the module itself where there are none.

    Example:
        >>> from torch import nn
        >>> plain_layer(nn.Linear(2, 2))
        Linear(in_features=2, out_features=2, bias=True)
    """
    if "" in wrapped_modules(module):
        return plain_layer(active_copy(module))
    inside: Any = _instances(module, "peft.tuners.tuners_utils", "BaseTunerLayer").get("")
    result: nn.Module = inside.get_base_layer() if inside is not None else module
    return result


def plain_name(name: str) -> str:
    """The name that a tensor had before PEFT put an adapter around its layer.

    Example:
        >>> plain_name("layer1.0.conv1.base_layer.weight"), plain_name("fc.original_module.bias")
        ('layer1.0.conv1.weight', 'fc.bias')
    """
    return _INNER.sub("", name)


def plain_names(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Those of ``names`` that adapters of PEFT have changed, each with its plain name; empty for other models."""
    if not is_adapted(model):
        return {}
    return {name: plain for name in names if (plain := plain_name(name)) != name}


def kept_aside(model: nn.Module) -> set[str]:
    """The names of originals that PEFT keeps beside copies trained with its adapters: nothing runs through them."""
    wrappers = wrapped_modules(model).items()
    return {
        f"{path}.original_module.{name}"
        for path, wrapper in wrappers
        if active_copy(wrapper) is not wrapper.original_module
        for name in wrapper.original_module.state_dict()
    }

"""Building a model of the library from its class and configuration, and reading the names in the hub's files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import transformers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn


def build(kind: str, **config: object) -> nn.Module:
    """A model of the library with random values, made from its configuration without network.

    Args:
        kind: Name of its class.
        config: What its configuration says otherwise than by default.

    Example:
        >>> build("ConvNextForImageClassification", depths=[1, 1, 1, 1], num_labels=10).classifier
        Linear(in_features=768, out_features=10, bias=True)
    """
    library: Any = getattr(transformers, kind)
    model: nn.Module = library(library.config_class(**config))
    return model


def convert(state: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The tensors of a file under the names that the model uses now, by the library's own loader.

    Args:
        state: As the file has it.
        model: What they are for.
    """
    load = type(model).from_pretrained
    settings = {"ignore_mismatched_sizes": True, "output_loading_info": True}
    loaded, info = load(None, config=model.config, state_dict=dict(state), **settings)
    others = {name for name, *_ in info["mismatched_keys"]}
    own = {name: tensor for name, tensor in loaded.state_dict().items() if name not in others | {*info["missing_keys"]}}
    return own | {name: state[name] for name in others | {*info["unexpected_keys"]} if name in state}

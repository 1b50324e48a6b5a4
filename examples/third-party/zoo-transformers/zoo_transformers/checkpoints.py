"""The names that tensors have in the hub's files, which are older than those of the library's modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

_NEW_FOR_OLD = (
    (".encoder.layer.", ".layers."),
    (".attention.attention.", ".attention."),
    (".attention.self.relative_position_bias_table", ".attention.relative_position_bias.relative_position_bias_table"),
    (".attention.self.", ".attention."),
    (".query.", ".q_proj."),
    (".key.", ".k_proj."),
    (".value.", ".v_proj."),
    (".attention.output.dense.", ".attention.o_proj."),
    (".intermediate.dense.", ".mlp.fc1."),
    (".output.dense.", ".mlp.fc2."),
)
"""In this order: the output of the attention goes before that of the block."""


def convert(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:  # noqa: ARG001 - what zoo calls it with
    """The tensors of a file under the names that the model uses now.

    Args:
        state: As the file has it.
        model: What they are for.

    Example:
        >>> [*convert({"vit.encoder.layer.0.attention.attention.query.bias": None}, None)]
        ['vit.layers.0.attention.q_proj.bias']
    """
    return {_renamed(name): tensor for name, tensor in state.items()}


def _renamed(name: str) -> str:
    for old, new in _NEW_FOR_OLD:
        name = name.replace(old, new)
    return name

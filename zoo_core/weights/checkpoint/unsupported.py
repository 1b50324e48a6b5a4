"""What is unsupported of checkpoints: folders without one file, files without a state dict, tensors of other kinds."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.errors import Unreadable
from zoo_core.utils.paths import is_folder
from zoo_core.weights.checkpoint.candidates import OPTIMIZER, WRAPPERS
from zoo_core.weights.formats.outline import OddTensor, Outline, is_tensor
from zoo_core.weights.formats.plain_pickle import Foreign

if TYPE_CHECKING:
    from torch import Tensor


_NEXT_STEPS = {
    "sparse": "save it as a dense tensor: tensor.to_dense()",
    "quantised": "save it as plain numbers: tensor.dequantize()",
    "meta": "save the state dict of a model whose values are there",
    "DTensor": "gather the shards before saving: torch.distributed.checkpoint.state_dict.get_model_state_dict(model, "
    "options=StateDictOptions(full_state_dict=True))",
    "nested": "save it as a padded tensor: tensor.to_padded_tensor(0)",
}


def unsupported_kind(value: object) -> str:
    """What kind of unsupported tensor it is, as sparse or quantised; ``""`` for a dense one of numbers.

    Example:
        >>> import torch
        >>> unsupported_kind(torch.zeros(2).to_sparse()), unsupported_kind(torch.zeros(2))
        ('sparse tensor', '')
    """
    if isinstance(value, OddTensor):
        return value.kind
    if isinstance(value, Foreign):
        return f"call of {value.name:.80}, which is not run"
    return _unsupported_kind_in_torch(value) if is_tensor(value) and not isinstance(value, Outline) else ""


def _unsupported_kind_in_torch(tensor: Any) -> str:
    """Which kind of unsupported tensor one of torch is: sparse, nested, quantised, meta or a shard; else ``""``."""
    import torch

    # for sizes beyond all memory torch has no strides, though there are no numbers
    is_empty = not tensor.is_nested and not tensor.numel()
    is_huge = is_empty and math.prod(max(each, 1) for each in tensor.shape) >= 1 << 63
    kinds = {
        "DTensor, one process's shard of a tensor": type(tensor).__name__ == "DTensor",
        "quantised tensor": tensor.is_quantized,
        "nested tensor": tensor.is_nested,
        "sparse tensor": tensor.layout is not torch.strided,
        "meta tensor, which has a shape and no numbers": tensor.is_meta,
        "tensor of no numbers, and of a shape beyond all memory": is_huge,
    }
    return next((kind for kind, holds in kinds.items() if holds), "")


def refuse_odd_tensors(state: Mapping[str, object], source: str | os.PathLike[str]) -> None:
    """Refuse a state dict with an unsupported tensor; the error names it and says what to do.

    Raises:
        Unreadable: One is; the message names it, and says what to do.
    """
    odd = {name: kind for name, value in state.items() if (kind := unsupported_kind(value))}
    if not odd:
        return
    name, kind = next(iter(odd.items()))
    more = f", and {len(odd) - 1} more are odd too" if len(odd) > 1 else ""
    raise Unreadable(
        f"{name!r} in {source} is a {kind}{more}",
        expected="dense tensors of plain numbers",
        done="nothing in it was run" if "not run" in kind else None,
        hint=next((step for word, step in _NEXT_STEPS.items() if word in kind), "save a state dict without it"),
        path=source,
        names=tuple(odd),
    )


def loss_of_values(own: Tensor, other: Tensor) -> str:
    """Why a tensor is unsupported by a model, which cannot hold its values; empty where it can.

    Example:
        >>> import torch
        >>> loss_of_values(torch.zeros(2), torch.zeros(2, dtype=torch.int8))
        'integers (torch.int8), which are codes and no values,'
    """
    import torch

    if other.is_meta:
        return "without values"
    if other.is_quantized or other.layout != torch.strided:
        return "quantized" if other.is_quantized else f"sparse ({other.layout})"
    if other.is_complex() and not own.is_complex():
        return "complex"
    kinds = (own.is_floating_point() or own.is_complex(), other.is_floating_point() or other.is_complex())
    if kinds == (True, False):
        return f"integers ({other.dtype}), which are codes and no values,"
    if kinds == (False, True) and bool((other != other.round()).any()):
        return "fractions, where the model has integers,"
    return ""


def no_single_file(
    folder: Path,
    inside: Sequence[Path],
    files: Sequence[Path],
    *,
    shards: Sequence[tuple[Path, re.Match[str]]],
    usual: Sequence[str],
) -> Unreadable:
    """The error for an unsupported folder: one without a file of weights, or with several of which none is usual.

    Args:
        folder: The folder.
        inside: All that is in it.
        files: Those of them that have weights.
        shards: Those whose names number them as shards.
        usual: Names of the files that would be read.
    """
    missing = f"{len(shards)} of {int(shards[0][1][3])} shards are there, and no index of them" if shards else None
    is_zero = (folder / "zero_to_fp32.py").exists() or any(folder.glob("*zero_pp_rank*"))
    return Unreadable(
        f"{folder} is a folder with {'several files' if files else 'no file'} of weights",
        expected=f"one file, or one of {', '.join(usual)}",
        got=", ".join(each.name for each in files[:6]) or None,
        cause="DeepSpeed's zero_to_fp32.py has not put its shards together yet" if is_zero else missing,
        hint="give the path of one of them" if files else _other_folder(folder, inside),
        path=folder,
    )


def _other_folder(folder: Path, inside: Sequence[Path]) -> str:
    """What to read instead of an unsupported folder, in which no file has weights."""
    if (folder / "saved_model.pb").exists():
        return "it is of TensorFlow: read it there, and save its arrays with numpy.savez"
    folders = [each.name for each in inside if is_folder(each) and not each.name.startswith(".")]
    return f"give the path of one of its folders: {', '.join(folders[-4:])}" if folders else "give the path of the file"


def no_candidate(content: object, source: str | os.PathLike[str]) -> Unreadable:
    """The error for an unsupported checkpoint: one that holds no state dict, in whatever wrapping."""
    parts = [content, *content.values()] if isinstance(content, Mapping) else []
    return Unreadable(
        f"{source} holds no state dict",
        expected=f"tensors by name, alone or under one of {', '.join(WRAPPERS)}",
        got=_content_in_words(content),
        done="nothing in it was run",
        cause="it is the state of an optimizer: the model's is in another file of the same step"
        if any(isinstance(part, Mapping) and part.keys() >= OPTIMIZER for part in parts)
        else None,
        path=source,
    )


def _content_in_words(content: object) -> str:
    """What an unsupported checkpoint holds in place of a state dict, in words for the error."""
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    shown = ", ".join(f"{key!r:.60}: {type(value).__name__}" for key, value in list(content.items())[:6])
    return f"a dict of {len(content)}: {shown}"

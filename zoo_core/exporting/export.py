"""``zoo.export``: a model for another runtime, compared with itself before the file is there."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoo_core.contract.card_file import preprocessing_to_record
from zoo_core.errors import NotSupported, UsageError, ZooError
from zoo_core.exporting.formats import FORMATS
from zoo_core.exporting.named_outputs import NamedOutputs, by_name
from zoo_core.images.numbers import numbers_of, resized
from zoo_core.recipe.opened import open_model
from zoo_core.surgery.example import example_input
from zoo_core.surgery.head.read import Outputs
from zoo_core.surgery.head.sites import class_names, evaluating
from zoo_core.surgery.metadata import knowledge_of, unwrap
from zoo_core.utils.arguments import strict_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from zoo_core.exporting.formats import Format, Run

_LISTS = {"detection": "it takes a list of images", "keypoints": "it takes a list of images"}
_REFUSED = {**_LISTS, "optical_flow": "it takes two images"}
_ALLOWED = 1e-3
"""How far outputs may be apart, as a share of the largest: runtimes fuse and reorder what they compute."""


@dataclass(frozen=True)
class Exported:
    """A model that was exported.

    Attributes:
        path: The file.
        difference: The largest difference between its outputs and the model's, over batches of 2, 3 and 1.
        largest: The largest output, in magnitude, to compare with.
        outputs: Their names.
    """

    path: Path
    difference: float
    largest: float
    outputs: tuple[str, ...]


@strict_arguments
def export(
    model: nn.Module | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    to: str = "onnx",
    size: int | Sequence[int] | None = None,
    softmax: bool = False,
    dynamic: bool = True,
    weights: str | os.PathLike[str] | None = "default",
) -> Exported:
    """Write a model for another runtime, with its class names and preprocessing in the metadata of the file.

    The file is read again and run, on batches of two, three and one. It is there only when its outputs are the model's.

    Args:
        model: A model that takes a batch of images, its name, or the folder of a save.
        path: The file to write.
        to: ``"onnx"`` (``zoo-core[export]``), ``"pt2"`` for ``torch.export``, or ``"torchscript"``.
        size: Height and width of the images, instead of those of its weights.
        softmax: Whether the graph ends in probabilities.
        dynamic: Whether the file takes a batch of any length; otherwise of two.
        weights: As for :func:`zoo_core.get`, where ``model`` is a name.

    Returns:
        The path, the names of the outputs, and the largest difference that was found.

    Raises:
        NotSupported: The model cannot be exported so; the message has the exporter's reason.
        UsageError: An argument is impossible, or the file cannot be written.
        ZooError: The outputs are not the model's, or a library is missing.

    Example:
        >>> import tempfile, zoo_core as zoo
        >>> found = zoo.export("tiny/glyphnet", tempfile.mkdtemp() + "/glyphnet.pt2", to="pt2")
        >>> found.outputs, found.difference < 1e-4
        (('scores',), True)
    """
    if to not in FORMATS:
        raise UsageError(f"to cannot be {to!r}", expected=f"one of {', '.join(FORMATS)}")
    opened, target = open_model(model, weights=weights), Path(path)
    card = knowledge_of(opened).card
    if card is not None and card.task in _REFUSED:
        raise NotSupported(
            f"a model for {card.task} is not exported", cause=f"{_REFUSED[card.task]}, and not a batch of one shape"
        )
    x = _example(opened, size)
    bare = unwrap(opened)
    with evaluating(bare), torch.no_grad():
        names = tuple(by_name(Outputs.of(opened), opened(x)))
        wrapped = NamedOutputs(opened, names, softmax=softmax).eval()
        partial = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix or '.' + to}")
        try:
            partial.touch()  # where nothing can be written is known before a minute of tracing
            _write(
                FORMATS[to], wrapped, x, partial, _metadata(opened, x, names, size, softmax=softmax), dynamic=dynamic
            )
            difference, largest = _compare(FORMATS[to], wrapped, x, partial, dynamic=dynamic)
            if not math.isfinite(largest):
                raise ZooError(
                    "the model gives nan or infinity for an image of noise, so that nothing can be compared",
                    done="no file was written",
                    hint="zoo.activation_stats(model, x) names the layer where it begins",
                )
            if not difference <= _ALLOWED * max(largest, 1e-6):
                raise ZooError(
                    f"the {to} file gives other outputs than the model",
                    expected=f"a difference of at most {_ALLOWED:g} of the largest output, {largest:.4g}",
                    got=f"{difference:.4g}",
                    done="no file was written",
                    hint="another format for to, or another version of torch",
                )
            partial.replace(target)
        except OSError as error:
            if isinstance(error, ZooError):
                raise
            raise UsageError(f"{target} cannot be written", cause=str(error), hint="another path") from error
        finally:
            partial.unlink(missing_ok=True)
    return Exported(target, difference, largest, names)


def _write(kind: Format, model: nn.Module, x: Tensor, path: Path, metadata: dict[str, Any], *, dynamic: bool) -> None:
    try:
        kind.write(model, x, path, json.dumps(metadata, ensure_ascii=False), dynamic)
    except (ZooError, OSError):
        raise
    except Exception as error:  # exporters raise whatever they meet in a model's code
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason")
        raise NotSupported(
            "this model cannot be exported so",
            cause=f"{type(error).__name__}: {reason}",
            hint="dynamic=False, --static on the command line, for a batch of two"
            if dynamic
            else "another format for to",
        ) from error


def _compare(kind: Format, model: nn.Module, x: Tensor, path: Path, *, dynamic: bool) -> tuple[float, float]:
    """The largest difference between the outputs of the file and the model's, and the largest of these; nan is kept."""
    run = _opened(kind, path)
    differences, sizes = [], []
    for batch in [x, torch.cat([x.flip(-1), x[:1]]), x[:1]] if dynamic else [x]:
        for expected, result in zip(model(batch), run(batch), strict=True):
            if expected.shape != result.shape:
                return math.inf, expected.abs().max().item()
            differences.append((expected - result).abs().max())
            sizes.append(expected.abs().max())
    return torch.stack(differences).max().item(), torch.stack(sizes).max().item()


def _opened(kind: Format, path: Path) -> Run:
    try:
        return kind.open(path)
    except ZooError:
        raise
    except Exception as error:  # a runtime refuses what the exporter wrote, such as a type that it has no kernels for
        raise NotSupported(
            "the runtime does not take the file",
            cause=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            done="no file was written",
            hint="model.float(), where the model is in half precision, or another format for to",
        ) from error


def _example(model: nn.Module, size: int | Sequence[int] | None) -> Tensor:
    """A batch of two images of noise, of the size that the model sees."""
    one = example_input(model)
    if size is not None:
        sides = resized(numbers_of(model), size).crop or (size, size) if isinstance(size, int) else tuple(size)
        one = example_input(model, (*one.shape[1:-2], *sides))
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(one.shape, generator=generator, device="cpu").to(one.device, one.dtype)
    return torch.cat([one, noise])


def _metadata(
    model: nn.Module, x: Tensor, names: tuple[str, ...], size: int | Sequence[int] | None, *, softmax: bool
) -> dict[str, Any]:
    known = knowledge_of(model)
    try:
        preprocessing = preprocessing_to_record(resized(numbers_of(model), size))
    except NotSupported:  # nothing says how images are prepared, or a detector's model brings them to size itself
        preprocessing = {}
    return {
        "format": 1,
        "model": known.card.id if known.card else type(unwrap(model)).__name__,
        "tag": known.receipt.tag,
        "input": {"name": "image", "shape": list(x.shape[1:])},
        "outputs": list(names),
        "softmax": softmax,
        "class_names": _names(model),
        "preprocessing": preprocessing,
    }


def _names(model: nn.Module) -> Any:  # noqa: ANN401 - a list, or lists by head
    names = class_names(model)
    return {head: list(each) for head, each in names.items()} if isinstance(names, dict) else list(names)

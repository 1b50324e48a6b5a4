"""``zoo.export``: a model for another runtime, compared with itself before the file is there."""

from __future__ import annotations

import copy
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.contract.card import Preprocessing
from zoo_core.contract.card_file import preprocessing_to_record
from zoo_core.errors import NotSupported, UsageError, ZooError
from zoo_core.exporting.formats import FORMATS, Format, Run, open_exported, write_exported
from zoo_core.exporting.named_outputs import NamedOutputs, Prepare, input_name
from zoo_core.exporting.quantize import Quantized, quantize, require_quantizable
from zoo_core.images.preprocessing import Numbers, numbers_of, require_known, resized
from zoo_core.recipe.open_model import gives_features, open_model, require_values
from zoo_core.surgery.features.encoder import Encoder
from zoo_core.surgery.head.scores import class_names
from zoo_core.surgery.inputs import example_input
from zoo_core.surgery.metadata import metadata_of, unwrap
from zoo_core.utils.arguments import check_count, strict_arguments
from zoo_core.utils.eval_mode import evaluating
from zoo_core.utils.paths import is_file, is_folder, is_link, is_there

_LISTS = {"detection": "it takes a list of images", "keypoints": "it takes a list of images"}
_REFUSED = {**_LISTS, "optical_flow": "it takes two images"}
_CLIP = 5
"""Dimensions of a batch of clips."""
_ONE_AT_A_TIME = Lock()
"""Exporters keep state of the process, and a model put back into train mode by another thread gives something else."""


@dataclass(frozen=True)
class Exported:
    """A model that was exported.

    Attributes:
        path: The file; of OpenVINO (``.bin``) and of a large ONNX model (``.onnx.data``), the tensors are in a second
            one beside it, and move with it.
        difference: The largest difference between an output and the model's, over batches of 2, 3 and 1; of several
            outputs, of the one where it is the largest share.
        largest: The largest value of that output, in magnitude, to compare with.
        outputs: Their names.
        int8: How the model did on the images of ``int8``, before and after.
    """

    path: Path
    difference: float
    largest: float
    outputs: tuple[str, ...]
    int8: Quantized | None = None


@strict_arguments
def export(
    model: nn.Module | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    to: str | None = None,
    size: int | Sequence[int] | None = None,
    frames: int | None = None,
    softmax: bool = False,
    with_preprocessing: bool = False,
    int8: str | os.PathLike[str] | None = None,
    dynamic: bool = True,
    weights: str | os.PathLike[str] | None = "default",
    overwrite: bool = False,
) -> Exported:
    """Write a model for another runtime, with its class names and preprocessing in the metadata of the file.

    The file is read again and run, on batches of two, three and one. It is there only when its outputs are the model's.

    Args:
        model: A model that takes a batch of images, its name, or the folder of a save.
        path: The file to write.
        to: ``"onnx"`` (``zoo-core[export]``), ``"openvino"`` (``zoo-core[export,openvino]``), ``"pt2"`` for
            ``torch.export``, or ``"torchscript"``. None for what the name says (``.onnx``, ``.xml``, ``.pt2``,
            ``.ts``), and else ONNX.
        size: Height and width of the images, instead of those of its weights.
        frames: Of a clip, for a model of videos, instead of those of its weights.
        softmax: Whether the graph ends in probabilities.
        with_preprocessing: Whether the graph takes bytes, uint8 ``[N, H, W, C]`` in RGB, of the size in the metadata,
            and normalizes them itself. Resizing stays outside: no runtime does it as the weights were trained.
        int8: For ONNX, and for pt2 with ``zoo-core[torchao]``: a folder of images, with a folder for each class, by
            which a classifier is quantized to eight bits; how it does on them before and after is in the result.
        dynamic: Whether the file takes a batch of any length; otherwise of two.
        weights: As for :func:`zoo_core.get`, where ``model`` is a name.
        overwrite: Replace a file that is there, at the end, and only if all went well.

    Returns:
        The path, the names of the outputs, and the largest difference that was found.

    Raises:
        NotSupported: The model cannot be exported so; the message has the exporter's reason.
        UsageError: An argument is impossible, the file is there already, or it cannot be written.
        ZooError: The outputs are not the model's, or a library is missing.

    Example:
        >>> import tempfile, zoo_core as zoo
        >>> found = zoo.export("tiny/glyphnet", tempfile.mkdtemp() + "/glyphnet.pt2", to="pt2")
        >>> found.outputs, found.difference < 1e-4
        (('scores',), True)
    """
    target = Path(path)
    kind = FORMATS[_format_of(target, to)]
    if not overwrite:
        _require_free(target, kind)
    opened = open_model(model, weights=weights)
    _refuse_by_kind(opened, softmax=softmax)
    require_values(opened)
    if int8 is not None:
        require_quantizable(opened, kind.suffix, int8, with_preprocessing=with_preprocessing, dynamic=dynamic)
    x = _export_example(opened, size, frames)
    dtype = x.dtype
    prepare = Prepare(_known_numbers(opened, size), x) if with_preprocessing else None
    if prepare is not None:
        x = _bytes_like(x)
    runs = NamedOutputs(opened, prepare=prepare, softmax=softmax)
    uncast = torch.autocast(x.device.type, enabled=False)  # a file must not keep the casts of this moment
    with _ONE_AT_A_TIME, evaluating(runs.model), torch.no_grad(), uncast, _staged(target) as partial:
        runs.eval()(x)
        write_exported(kind, runs, x, partial, _metadata(opened, x, runs, size), dynamic=dynamic)
        run = open_exported(kind, partial)
        difference, largest = compare(runs, run, x, dynamic=dynamic)
        require_agreement(runs, run, x, difference, largest, dtype)
        quantized = None if int8 is None else quantize(opened, partial, int8, size)
    return Exported(target, difference, largest, runs.names, quantized)


def _format_of(target: Path, to: str | None) -> str:
    """The format to export to, by its name or by that of the file."""
    by_name = next((name for name, kind in FORMATS.items() if kind.suffix == target.suffix.lower()), None)
    result = to or by_name or "onnx"
    if result not in FORMATS:
        raise UsageError(f"to cannot be {to!r}", expected=f"one of {', '.join(FORMATS)}")
    if to is None and by_name is None and target.suffix:
        raise UsageError(
            f"no format that zoo exports to has files called {target.suffix}",
            expected=f"a name that ends in {', '.join(kind.suffix for kind in FORMATS.values())}, or the format",
            hint=f"{target.stem}{FORMATS[result].suffix}, or to={result!r}",
        )
    if by_name not in (None, result) or (result == "openvino" and by_name is None):
        raise UsageError(
            f"{target.name} is no name for a file of {result}",
            expected=f"a name that ends in {FORMATS[result].suffix}",
            hint=f"to={by_name!r}, or another name" if by_name else f"{target.name}{FORMATS[result].suffix}",
        )
    if is_folder(target):
        raise UsageError(
            f"{target} is a folder", expected="the path of a file", hint=f"{target / 'model'}{FORMATS[result].suffix}"
        )
    if is_there(target) and not is_file(target):
        raise UsageError(f"{target} is a pipe, a socket or a device", expected="the path of a file")
    return result


def _require_free(target: Path, kind: Format) -> None:
    """Refuse to replace files that are there, before ``zoo.export`` builds a model and runs it."""
    for file in (target, kind.beside(target)):
        if file is not None and (is_there(file) or is_link(file)):
            raise UsageError(
                f"{file} is there already",
                done="nothing was written",
                hint="another path; overwrite=True (--overwrite) replaces it when the export has gone well",
            )


def _refuse_by_kind(model: nn.Module, *, softmax: bool) -> None:
    """Refuse to export a model for a task without outputs of one shape, or features with a softmax."""
    card = metadata_of(model).card
    if card is not None and card.task in _REFUSED:
        raise NotSupported(
            f"a model for {card.task} is not exported", cause=f"{_REFUSED[card.task]}, and not a batch of one shape"
        )
    if softmax and (isinstance(model, Encoder) or gives_features(model)):
        raise NotSupported(
            "the probabilities of features mean nothing",
            cause="the model has no head that scores classes",
            hint="leave softmax out, or zoo.swap_head(model, 9)",
        )


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """Folder to export into, beside ``target``, from which all files move out when the block is done.

    They have their last names from the beginning, for one may name another, as ONNX names its tensors.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name[:40]}.", dir=target.parent) as folder:
            yield Path(folder, target.name)
            others = [file for file in Path(folder).iterdir() if file.name != target.name]
            for file in [*others, Path(folder, target.name)]:  # the one that names the others comes last
                file.replace(target.with_name(file.name))
    except OSError as error:
        if isinstance(error, ZooError):
            raise
        raise UsageError(f"{target} cannot be written", cause=str(error), hint="another path") from error


def _export_example(model: nn.Module, size: int | Sequence[int] | None, frames: int | None) -> Tensor:
    """Batch of two images or clips of noise to export a model with, of the size that it sees."""
    one = example_input(model)
    if frames is not None and one.ndim != _CLIP:
        raise UsageError("only a clip has frames", cause=f"the model takes {list(one.shape)}", hint="leave frames out")
    if frames is not None:
        frames = check_count("frames", frames)
    if size is not None or frames is not None:
        channels, *length, height, width = one.shape[1:]
        sides = (height, width) if size is None else _sides(model, size)
        one = example_input(model, (channels, *(length if frames is None else [frames]), *sides))
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(one.shape, generator=generator, device="cpu").to(one.device, one.dtype)
    return torch.cat([one, noise])


def _known_numbers(model: nn.Module, size: int | Sequence[int] | None) -> Preprocessing:
    """The preprocessing to put into an exported graph; refused where a number is not known."""
    result = resized(numbers_of(model), size)
    for name in ("mean", "std"):
        require_known(name, getattr(result, name))
    return result


def _bytes_like(x: Tensor) -> Tensor:
    """Images as they are decoded, of the size of a batch, to export a graph with its preprocessing."""
    shape = (x.shape[0], *x.shape[2:], x.shape[1])
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8, device="cpu").to(x.device)


def _sides(model: nn.Module, size: int | Sequence[int]) -> Sequence[int]:
    """Height and width of the images that an exported model sees, for a size as ``zoo.transforms`` takes it."""
    try:
        numbers = numbers_of(model)
    except NotSupported:  # nothing says how images are prepared, and nothing needs to
        numbers = Numbers(Preprocessing(), "classification")
    return resized(numbers, size).crop or ((size, size) if isinstance(size, int) else tuple(size))


def _metadata(model: nn.Module, x: Tensor, runs: NamedOutputs, size: int | Sequence[int] | None) -> dict[str, Any]:
    """The metadata of an exported file: model, input, preprocessing, outputs and class names."""
    known = metadata_of(model)
    try:
        preprocessing = preprocessing_to_record(resized(numbers_of(model), size))
    except NotSupported:  # nothing says how images are prepared, or a detector's model brings them to size itself
        preprocessing = {}
    return {
        "format": 1,
        "model": known.card.id if known.card else type(unwrap(model)).__name__,
        "tag": known.receipt.tag,
        "input": {
            "name": input_name(runs.names),
            "shape": list(x.shape[1:]),
            "dtype": str(x.dtype).removeprefix("torch."),
        },
        "outputs": list(runs.names),
        "softmax": runs.softmax,
        "multi_label": runs.outputs.multi_label,
        "class_names": [] if isinstance(model, Encoder) else class_names(model),
        "preprocessing": preprocessing,
        "normalizes": isinstance(runs.prepare, Prepare),
    }


_ALLOWED = 1e-3
"""How far outputs may be apart, as a share of the largest: runtimes fuse and reorder what they compute."""
_ROUNDINGS = 16
"""The same for half precision, in roundings of its type."""
_OWN, _MOST = 2, 0.05
"""The same for a model whose rounding grows with its depth, in differences from itself in float64; and at most this."""


def compare(model: NamedOutputs, run: Run, x: Tensor, *, dynamic: bool) -> tuple[float, float]:
    """The largest difference of an exported output from the model's, and the largest of its values; nan is kept.

    Of several outputs it is that of the one where it is the largest share: maps of one model differ in scale.
    """
    pairs = [[0.0, 0.0] for _ in model.names]
    for batch in [x, torch.cat([x.flip(-1), x[:1]]), x[:1]] if dynamic else [x]:
        for pair, expected, result in zip(pairs, model(batch), run(batch), strict=True):
            if expected.shape != result.shape:
                return math.inf, expected.abs().max().item()
            pair[:] = _max_or_nan(pair[0], _apart(expected, result)), _max_or_nan(pair[1], expected.abs().max().item())
    difference, largest = max(
        pairs, key=lambda pair: math.inf if math.isnan(sum(pair)) else pair[0] / max(pair[1], 1e-6)
    )
    return difference, largest


def _apart(expected: Tensor, result: Tensor) -> float:
    """The largest difference between an output of the model and of its exported file, of one shape."""
    return (expected.double() - result.to(expected.device).double()).abs().max().item()


def _max_or_nan(first: float, second: float) -> float:
    """The larger of two differences of exported outputs, nan where one is: ``max`` would lose it."""
    return first if math.isnan(first) else second if math.isnan(second) else max(first, second)


def require_agreement(
    model: NamedOutputs, run: Run, x: Tensor, difference: float, largest: float, dtype: torch.dtype
) -> None:
    """Refuse an exported file that gives other outputs than the model, and say why where that can be found.

    Args:
        model: The model with named outputs.
        run: The file, opened in its runtime.
        x: The batch it was exported with.
        difference: The largest difference between their outputs.
        largest: The largest of the model's.
        dtype: In which the model computes.

    Raises:
        ZooError: They are further apart than a share of the largest, and than the model is from itself in float64.
    """
    if not math.isfinite(largest):
        raise ZooError(
            "the model returns nan or infinity for an image of noise, so that nothing can be compared",
            done="no file was written",
            hint="zoo.activation_stats(model, x) names the layer where it begins",
        )
    share = max(_ALLOWED, _ROUNDINGS * torch.finfo(dtype).eps) if dtype.is_floating_point else _ALLOWED
    allowed = share * max(largest, 1e-6)
    if difference <= allowed:
        return
    is_random = any(not torch.equal(*pair) for pair in zip(model(x), model(x), strict=True))
    rounding = 0.0 if is_random else _own_rounding(model, x)
    if difference <= min(_OWN * rounding, _MOST * largest):
        return
    otherwise = "another format for to, or another version of torch"
    cause, hint = None, otherwise
    if is_random:
        cause, hint = "the model itself gives something else each time, in eval mode too", "a model without randomness"
    elif rounding > allowed:
        cause = f"rounding grows in the model: in float64 it gives outputs that are {rounding:.2g} from its own"
    elif _gives_images_alone(model(x), run, x, share):
        cause = "the runtime gives them for one image at a time and not for a batch, which is a fault of its own"
    raise ZooError(
        "the file gives other outputs than the model",
        expected=f"a difference of at most {share:.2g} of the largest output, {largest:.4g}",
        got=f"{difference:.4g}",
        done="no file was written",
        cause=cause,
        hint=hint,
    )


def _own_rounding(model: NamedOutputs, x: Tensor) -> float:
    """How far the outputs of a model are from its own in float64; 0 where it does not compute in that."""
    if not x.is_floating_point():
        return 0.0
    try:
        exact = copy.deepcopy(model).double()(x.double())
        return max(_apart(*pair) for pair in zip(exact, model(x), strict=True))
    except Exception:  # noqa: BLE001 - code of the model, which may make tensors of float32 itself, or cannot be copied
        return 0.0


def _gives_images_alone(expected: Sequence[Tensor], run: Run, x: Tensor, share: float) -> bool:
    """Whether an exported file gives the outputs of each image of a batch where it is given alone."""
    try:
        alone = [torch.cat(each) for each in zip(*(run(image) for image in x.chunk(len(x))), strict=True)]
    except Exception:  # noqa: BLE001 - of the runtime, where the file takes no batch of one
        return False
    return all(
        one.shape == each.shape and _apart(each, one) <= share * max(each.abs().max().item(), 1e-6)
        for one, each in zip(alone, expected, strict=True)
    )

"""The formats of ``zoo.export``: how each is written, and read and run again."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from zoo_core.errors import ZooError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor, nn

METADATA = "zoo.json"
"""Under what name the metadata is in a file."""

Run = Callable[["Tensor"], "Sequence[Tensor]"]


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        write: Model, example, path, metadata as JSON, and whether the batch may have any length.
        open: Path to a function of a batch.
        metadata: Path to the metadata as JSON.
    """

    write: Callable[[nn.Module, Tensor, Path, str, bool], None]
    open: Callable[[Path], Run]
    metadata: Callable[[Path], str]


def _dynamic(dynamic: bool) -> Any:  # noqa: ANN401, FBT001 - what torch.export takes
    return ({0: torch.export.Dim("batch")},) if dynamic else None


def _write_pt2(model: nn.Module, x: Tensor, path: Path, metadata: str, dynamic: bool) -> None:  # noqa: FBT001 - as Format.write
    program = torch.export.export(model, (x,), dynamic_shapes=_dynamic(dynamic))
    torch.export.save(program, path, extra_files={METADATA: metadata})


def _open_pt2(path: Path) -> Run:
    module: Run = torch.export.load(path).module()
    return module


def _pt2_metadata(path: Path) -> str:
    files = {METADATA: ""}
    torch.export.load(path, extra_files=files)
    return files[METADATA]


def _write_torchscript(model: nn.Module, x: Tensor, path: Path, metadata: str, _: bool) -> None:  # noqa: FBT001 - as above
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated, and that a trace is one path through the code
        traced = torch.jit.trace(model, x)  # type: ignore[no-untyped-call]  # torch's
        torch.jit.save(traced, path, _extra_files={METADATA: metadata.encode()})


def _open_torchscript(path: Path) -> Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: Run = torch.jit.load(path)  # type: ignore[no-untyped-call]  # torch's
    return module


def _torchscript_metadata(path: Path) -> str:
    files: dict[str, Any] = {METADATA: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.load(path, _extra_files=files)  # type: ignore[no-untyped-call]  # torch's
    result = files[METADATA]
    return result.decode() if isinstance(result, bytes) else str(result)


def _write_onnx(model: Any, x: Tensor, path: Path, metadata: str, dynamic: bool) -> None:  # noqa: ANN401, FBT001 - as above
    _require_onnx()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own insides
        program = torch.onnx.export(
            model,
            (x,),
            dynamo=True,
            dynamic_shapes=_dynamic(dynamic),
            input_names=["image"],
            output_names=list(model.names),
            verbose=False,
        )
    if program is None:
        raise ZooError("torch gave no ONNX program", hint="another version of torch")
    program.model.metadata_props[METADATA] = metadata
    program.save(path)


def _open_onnx(path: Path) -> Run:
    ort = _require_onnx()
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(batch: Tensor) -> list[Tensor]:
        return [torch.from_numpy(each) for each in session.run(None, {"image": batch.numpy()})]

    return run


def _onnx_metadata(path: Path) -> str:
    session = _require_onnx().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return str(session.get_modelmeta().custom_metadata_map.get(METADATA, ""))


def _require_onnx() -> Any:  # noqa: ANN401 - the module of onnxruntime
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise ZooError(f"ONNX needs {error.name}", hint="pip install 'zoo-core[export]'") from error
    return onnxruntime


FORMATS = {
    "onnx": Format(_write_onnx, _open_onnx, _onnx_metadata),
    "pt2": Format(_write_pt2, _open_pt2, _pt2_metadata),
    "torchscript": Format(_write_torchscript, _open_torchscript, _torchscript_metadata),
}

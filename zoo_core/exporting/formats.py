"""The formats of ``zoo.export``: how each is written, and read and run again."""

from __future__ import annotations

import io
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from click import unstyle
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from zoo_core.errors import NotSupported, ZooError
from zoo_core.exporting.named_outputs import NamedOutputs, input_name

METADATA = "zoo.json"
"""Under what name the metadata is in a file."""

Run = Callable[["Tensor"], "Sequence[Tensor]"]


_ALONE_UP_TO = 1536 * 1024 * 1024
"""Bytes of tensors that an ONNX file holds itself; protobuf ends at 2 GB, and the graph needs some of it."""

_ATTENTION_AXES = 4
"""Batch, heads, tokens and channels."""


@dataclass(frozen=True)
class Format:
    """One format to export to: how it is written, opened and run.

    Attributes:
        suffix: What the name of its files ends with.
        write: Model, example, path, metadata as JSON, and whether the batch may have any length.
        open: Path to a function of a batch.
        metadata: Path to the metadata as JSON.
        beside: Path to that of a second file, in which the tensors are or may be; None where there is never one.
    """

    suffix: str
    write: Callable[[NamedOutputs, Tensor, Path, str, bool], None]
    open: Callable[[Path], Run]
    metadata: Callable[[Path], str]
    beside: Callable[[Path], Path | None] = lambda _: None


def _program(model: NamedOutputs, x: Tensor, dynamic: bool) -> torch.export.ExportedProgram:  # noqa: FBT001 - as Format.write
    return torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},) if dynamic else None)


def _write_pt2(model: NamedOutputs, x: Tensor, path: Path, metadata: str, dynamic: bool) -> None:  # noqa: FBT001 - as above
    """Write a model in the format pt2 of torch.export."""
    program = _program(model, x, dynamic)
    with archive_file(path) as file:  # by its path, torch takes a name that ends in .pt2 alone
        torch.export.save(program, file, extra_files={METADATA: metadata})


@contextmanager
def archive_file(path: Path) -> Iterator[Any]:
    """Open an exported file for torch's archive writer, which aborts if a write raises; the error is raised at the end.

    Args:
        path: Of a new file.

    Raises:
        OSError: A write failed.
    """
    with _ArchiveFile(path, "wb") as file:
        yield file
    if file.failed:
        raise file.failed


class _ArchiveFile(io.FileIO):
    """A file of an exported format that keeps the error of a write and raises none; torch warns of what is no file."""

    failed: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write all of it; nothing after the first error."""
        rest = memoryview(data)
        try:
            while rest and not self.failed:  # a write takes less where the disk is nearly full, and 2 GB at most
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.failed = error
        return memoryview(data).nbytes


def _open_pt2(path: Path) -> Run:
    """Open a file of the format pt2 to run it."""
    with path.open("rb") as file:
        module: Run = torch.export.load(file).module()
    return module


def _pt2_metadata(path: Path) -> str:
    """The metadata in a file of the format pt2."""
    files = {METADATA: ""}
    with path.open("rb") as file:
        torch.export.load(file, extra_files=files)
    return files[METADATA]


def _write_torchscript(model: NamedOutputs, x: Tensor, path: Path, metadata: str, dynamic: bool) -> None:  # noqa: FBT001 - as above
    """Write a model in the format TorchScript, as a trace."""
    _refuse_branches(model, x)
    # it warns that TorchScript is deprecated, and that a trace is one path through the code
    with warnings.catch_warnings(action="ignore"):
        try:
            _trace(model, x, path, metadata)
        except RuntimeError as error:
            if "Python function" not in str(error):
                raise
            # an autograd.Function, such as the swish of efficientnet_pytorch: torch.export has what it computes
            _trace(_program(model, x, dynamic).module(), x, path, metadata)


def _trace(module: nn.Module, x: Tensor, path: Path, metadata: str) -> None:
    """Write a module in the format TorchScript, as a trace on an example."""
    traced = torch.jit.trace(module, x, check_trace=False)  # type: ignore[no-untyped-call]  # torch's
    with path.open("wb") as file:  # by its path, torch would end the process where a write fails
        torch.jit.save(traced, file, _extra_files={METADATA: metadata.encode()})


def _refuse_branches(model: nn.Module, x: Tensor) -> None:
    """Refuse TorchScript for a forward that branches on a tensor's value: a trace keeps the branch it took."""
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            model(mode.from_tensor(x))
    except DataDependentOutputException as error:
        raise NotSupported(
            "this model cannot be exported so",
            cause=f"its forward reads values of tensors ({error.func}), and a trace keeps what they were for one image",
            hint='to="pt2", which says where, or a forward without a branch on values',
        ) from error
    except Exception:  # noqa: BLE001 - what cannot be run without values says nothing about branches
        return


def _open_torchscript(path: Path) -> Run:
    """Open an exported file of the format TorchScript to run it."""
    with warnings.catch_warnings(action="ignore"):
        module: Run = torch.jit.load(path)  # type: ignore[no-untyped-call]  # torch's
    return module


def _torchscript_metadata(path: Path) -> str:
    """The metadata in a file of the format TorchScript."""
    files: dict[str, Any] = {METADATA: ""}
    with warnings.catch_warnings(action="ignore"):
        torch.jit.load(path, _extra_files=files)  # type: ignore[no-untyped-call]  # torch's
    result = files[METADATA]
    return result.decode() if isinstance(result, bytes) else str(result)


def _write_onnx(model: NamedOutputs, x: Tensor, path: Path, metadata: str, dynamic: bool) -> None:  # noqa: FBT001 - as above
    """Write a model in the format ONNX."""
    _require_onnx()
    from onnxscript import optimizer

    with warnings.catch_warnings(action="ignore"):  # of the exporter, about its own insides
        with _FlatAttention():
            exported = _program(model, x, dynamic)
        for optimize in (True, False):  # optimizing takes away what some models need, such as timm's Gemma
            program = torch.onnx.export(
                exported,
                dynamo=True,
                input_names=[input_name(model.names)],
                output_names=list(model.names),
                optimize=False,
                verbose=False,
            )
            if program is None:
                raise ZooError("torch gave no ONNX program", hint="another version of torch")
            if optimize:
                # first what is constant, for the rewriting takes time with the square of the number of nodes
                optimizer.fold_constants(program.model)
                optimizer.remove_unused_nodes(program.model)
                program.optimize()
            program.model.metadata_props[METADATA] = metadata
            tensors = (each.const_value for each in program.model.graph.initializers.values() if each.const_value)
            program.save(path, external_data=sum(each.nbytes for each in tensors) > _ALONE_UP_TO)
            if _is_whole(path):
                return


def _is_whole(path: Path) -> bool:
    """Whether everything that an ONNX graph computes with is there."""
    try:
        _require_onnx().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - the runtime's, which opens the file again and says the others
        return "is not a graph input, initializer, or output of a previous node" not in str(error)
    return True


class _FlatAttention(TorchFunctionMode):
    """Attention over other than four axes, such as windows, as over four: torch writes no other in ONNX."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, or such an attention with other axes."""
        if func is scaled_dot_product_attention and args[0].ndim != _ATTENTION_AXES:
            return _flat_attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _flat_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    """Attention with the axes before the last three as one, or with one more; arguments as torch has them."""
    mask, axes = attn_mask, query.shape[:-3]
    if query.ndim < _ATTENTION_AXES:
        mask = mask[None] if mask is not None and mask.ndim == query.ndim else mask
        alone: Tensor = scaled_dot_product_attention(query[None], key[None], value[None], mask, *args, **kwargs)
        return alone[0]
    if mask is not None and mask.ndim >= _ATTENTION_AXES:
        mask = mask.expand(*axes, *mask.shape[-3:]).flatten(0, -4)
    query, key, value = (each.flatten(0, -4) for each in (query, key, value))
    return torch.unflatten(scaled_dot_product_attention(query, key, value, mask, *args, **kwargs), 0, axes)


def _open_onnx(path: Path) -> Run:
    """Open a file of the format ONNX to run it with onnxruntime."""
    ort = _require_onnx()
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(batch: Tensor) -> list[Tensor]:
        return [torch.from_numpy(each) for each in session.run(None, {name: batch.cpu().numpy()})]

    return run


def _onnx_metadata(path: Path) -> str:
    session = _require_onnx().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return str(session.get_modelmeta().custom_metadata_map.get(METADATA, ""))


def _require_onnx() -> Any:
    """Give onnxruntime, or say what the format ONNX needs."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise ZooError(f"ONNX needs {error.name}", hint="pip install 'zoo-core[export]'") from error
    return onnxruntime


def _write_openvino(model: NamedOutputs, x: Tensor, path: Path, metadata: str, dynamic: bool) -> None:  # noqa: FBT001 - as above
    """Write a model in the format of OpenVINO, by way of ONNX."""
    ov = _require_openvino()
    with tempfile.TemporaryDirectory() as folder:
        through = Path(folder, "model.onnx")
        _write_onnx(model, x, through, metadata, dynamic)
        graph = ov.Core().read_model(_without_constant_resizing(through))
        graph.set_rt_info(metadata, [METADATA])
        ov.save_model(graph, path, compress_to_fp16=False)


def _without_constant_resizing(path: Path) -> Path:
    """An ONNX graph in which nothing that depends on no image is resized, such as the embeddings of positions.

    OpenVINO leaves out the antialiasing of a resize. onnxruntime has it, and computes here what is constant.
    """
    import onnx

    nodes = onnx.load(path, load_external_data=False).graph.node
    if not any(
        each.op_type == "Resize" and any(one.name == "antialias" and one.i for one in each.attribute) for each in nodes
    ):
        return path
    ort = _require_onnx()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(result := path.with_name(f"constant.{path.name}"))
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", f"{result.name}.data")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return result


def _open_openvino(path: Path) -> Run:
    """Read an exported file of the format of OpenVINO, to run it again in full precision."""
    ov = _require_openvino()
    core = ov.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # or it computes in what is fastest on this processor
    compiled = core.compile_model(core.read_model(path), "CPU", exact)

    def run(batch: Tensor) -> list[Tensor]:
        result = compiled([batch.cpu().numpy()])
        return [torch.from_numpy(result[output].copy()) for output in compiled.outputs]

    return run


def _openvino_metadata(path: Path) -> str:
    return str(_require_openvino().Core().read_model(path).get_rt_info([METADATA]).astype(str))


def _require_openvino() -> Any:
    """Give openvino, or say what its format needs."""
    try:
        import openvino
    except ImportError as error:
        raise ZooError("OpenVINO needs openvino", hint="pip install 'zoo-core[export,openvino]'") from error
    return openvino


def write_exported(
    kind: Format, model: NamedOutputs, x: Tensor, path: Path, metadata: dict[str, Any], *, dynamic: bool
) -> None:
    """Write the file in a format; what an exporter raises becomes an error that says why."""
    try:
        text = json.dumps(metadata, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
        kind.write(model, x, path, text, dynamic)
    except (ZooError, OSError):
        raise
    except Exception as error:  # exporters raise whatever they meet in a model's code
        reason = _reason(error)
        hint = "dynamic=False, --static on the command line, for a batch of two" if dynamic else "another format for to"
        if "data-dependent" in reason:
            hint = "a forward without a branch on values, such as one with torch.where"
        raise NotSupported("this model cannot be exported so", cause=reason, hint=hint) from error


def _reason(error: BaseException) -> str:
    """What the exporter or the runtime of a format raised, in a line, and what caused it first."""
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    return _line_of(error) if root is error else f"{_line_of(error)}, since {_line_of(root)}"


def _line_of(error: BaseException) -> str:
    lines = [line.strip() for line in unstyle(str(error)).splitlines() if line.strip()] or ["without a message"]
    words = next((line for line in lines if not line.endswith(":")), lines[0])  # OpenVINO's first name its code
    return f"{type(error).__name__}: {words}"


def open_exported(kind: Format, path: Path) -> Run:
    """Open the file of a format just written, in its runtime; what that raises becomes an error that says why."""
    try:
        return kind.open(path)
    except ZooError:
        raise
    except Exception as error:  # a runtime refuses what the exporter wrote, such as a type that it has no kernels for
        raise NotSupported(
            "the runtime does not take the file",
            cause=_reason(error),
            done="no file was written",
            hint="model.float(), where the runtime has no kernels for its type, or another format for to",
        ) from error


FORMATS = {
    "onnx": Format(".onnx", _write_onnx, _open_onnx, _onnx_metadata, lambda path: path.with_name(f"{path.name}.data")),
    "openvino": Format(
        ".xml", _write_openvino, _open_openvino, _openvino_metadata, lambda path: path.with_suffix(".bin")
    ),
    "pt2": Format(".pt2", _write_pt2, _open_pt2, _pt2_metadata),
    "torchscript": Format(".ts", _write_torchscript, _open_torchscript, _torchscript_metadata),
}

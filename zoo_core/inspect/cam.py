"""``zoo.cam``: which part of an image speaks for a class, through pytorch-grad-cam."""

from __future__ import annotations

import copy
import itertools
import operator
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name torch's own pages give it

from zoo_core.contract.anatomy import Stage
from zoo_core.errors import NotSupported, UsageError, ZooError, ZooWarning
from zoo_core.inspect.activation_maps import is_detector, map_in
from zoo_core.inspect.overlay import Array, enlarged, overlay, resized_map, save_image, to_html, view_of
from zoo_core.recipe.open_model import open_model, require_results, running_on
from zoo_core.surgery.features.extract import module_path
from zoo_core.surgery.head.scores import Outputs, class_names
from zoo_core.surgery.metadata import anatomy_of, unwrap
from zoo_core.text import close_matches, did_you_mean
from zoo_core.utils.arguments import strict_arguments

if TYPE_CHECKING:
    from PIL.Image import Image

METHODS = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "xgradcam": "XGradCAM",
    "elementwise": "GradCAMElementWise",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
    "scorecam": "ScoreCAM",
    "ablationcam": "AblationCAM",
}
"""What users call a method, and its class in pytorch-grad-cam."""
_TABLE = 2
_LOCATED, _SHARE = 1.6, 0.6
"""How many times the average heat is where the image speaks for the class, or which share of that at the best stage,
has to be at the stage that is taken."""


@dataclass(frozen=True, eq=False, repr=False)
class Cam:
    """Which part of an image speaks for a class; ``print`` says where, a notebook shows it.

    Attributes:
        heatmap: ``[H, W]`` from 0 to 1, of the size that the model saw.
        image: What the model saw, ``[H, W, 3]`` from 0 to 1.
        target: Number of the class.
        name: What the class is called, after its head where there are several; its number where it has no name.
        logit: What the model gave for it.
        layer: The stage or module that the map is of.
        method: How it was made.

    Example:
        >>> import numpy as np
        >>> image = np.zeros((4, 4, 3))
        >>> Cam(np.eye(4), image, target=0, name="cat", logit=2.5, layer="layer4", method="gradcam").overlay().size
        (4, 4)
    """

    heatmap: Array
    image: Array
    target: int
    name: str
    logit: float
    layer: str
    method: str

    def overlay(self) -> Image:
        """The heatmap over the image."""
        return overlay(self.image, self.heatmap)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the heatmap over the image to a file; a small image is enlarged.

        Raises:
            ZooError: It cannot be written there.
        """
        return save_image(enlarged(self.overlay()), path)

    def __repr__(self) -> str:
        return f"Cam({self})"

    def __str__(self) -> str:
        row, column = divmod(int(self.heatmap.argmax()), self.heatmap.shape[1])
        return (
            f"{self.name} (logit {self.logit:.3g}): {self.method} at {self.layer}, most at row {row}, column {column} "
            f"of {self.heatmap.shape[0]} x {self.heatmap.shape[1]}"
        )

    def _repr_html_(self) -> str:
        return to_html(enlarged(self.overlay()), str(self))


@strict_arguments
def cam(
    model: nn.Module | str | os.PathLike[str],
    image: Any,
    *,
    target: int | str | None = None,
    head: str | None = None,
    method: str = "gradcam",
    at: str | None = None,
    size: int | Sequence[int] | None = None,
) -> Cam:
    """Which part of an image speaks for a class: a class activation map.

    The layer is the deepest stage whose map the logit still depends on, which in a ViT with a class token is not the
    last, and whose heat is where the image speaks for the class, by the gradient of its pixels; tokens become rows and
    columns. The model is not changed: a copy of it runs, in float32 where it is in half precision.

    Args:
        model: A model, its name, or the folder of a save.
        image: One image, as for :func:`predict`.
        target: Number or name of the class; None for the one with the largest logit. For segmentation the mean over
            the pixels counts.
        head: Which of several heads the class is of, by its name.
        method: One of ``"gradcam"``, ``"gradcam++"``, ``"hirescam"``, ``"layercam"``, ``"xgradcam"``,
            ``"elementwise"``, ``"eigencam"``, ``"eigengradcam"``, ``"scorecam"``, ``"ablationcam"``.
        at: A stage or the path of a module that gives a map, instead.
        size: Height and width that the model sees, instead of those of its weights.

    Returns:
        ``.heatmap``, ``[H, W]`` from 0 to 1; ``.save(path)`` lays it over the image.

    Raises:
        ZooError: grad-cam is not installed.
        NotSupported: The model gives no logits of classes, or no stage of it gives a map that they depend on.
        UsageError: ``target``, ``head`` or ``method`` is impossible.
        ImageError: The image cannot be read.

    Warns:
        ZooWarning: Nothing in the image speaks for the class, so that the heatmap is all zero.

    Example:
        >>> import numpy as np, zoo_core as zoo
        >>> zoo.cam("tiny/glyphnet", np.eye(32), target="A").heatmap.shape  # doctest: +SKIP
        (32, 32)
    """
    if at is not None and not isinstance(at, str):
        raise UsageError(f"at cannot be {at!r}", expected="the name of one stage, or the path of one module")
    made = _class_of(method)
    opened = open_model(model)
    require_results(opened)
    if is_detector(opened):
        raise NotSupported("a detector has no logit of the whole image", hint="zoo.activation_maps works on any model")
    # under autocast pytorch-grad-cam would get bfloat16, which NumPy has not
    full_precision = torch.autocast("cuda" if torch.cuda.is_available() else "cpu", enabled=False)
    with torch.inference_mode(mode=False), full_precision:
        view = view_of(opened, image, size)
        twin = _Logits(opened, head)
        x = view.x.detach().clone().to(twin.dtype)
        with running_on(image), torch.no_grad():
            logits = twin(x)
        _require_numbers(logits)
        names = _names(opened, twin.head)
        chosen = _class_number(names, logits, target)
        layers = _cam_layers(opened, twin, x, chosen, at)
        layer, heatmap = _first_that_lights_up(layers, made, twin, x, chosen)
    return Cam(
        resized_map(heatmap, *view.image.shape[:2]),
        view.image,
        chosen,
        f"{f'{twin.head}: ' if twin.head else ''}{names[chosen] if chosen < len(names) else chosen}",
        logits[0, chosen].item(),
        layer.name,
        method,
    )


def _require_numbers(logits: Tensor) -> None:
    """Refuse a class activation map of a model that gives nan."""
    if logits.isnan().any():
        raise NotSupported(
            "the model returns nan",
            cause="its weights hold nan, or overflow in this dtype",
            hint="zoo.activation_stats(model, x) shows the first layer that does",
        )


def _first_that_lights_up(
    layers: Sequence[_Layer],
    made: Any,
    twin: _Logits,
    x: Tensor,
    target: int,
) -> tuple[_Layer, Array]:
    """The heatmap of the first layer in which something speaks for the class, from 0 to 1."""
    result: list[Array] = []
    for layer in layers:
        with twin.tapped(layer):
            runner = made(model=twin, target_layers=[twin.tap], reshape_transform=layer.map_of)
            runner.compute_input_gradient = True  # gradients flow although no parameter takes any
            with runner, torch.enable_grad():
                raw = runner(input_tensor=x, targets=[lambda output: output[..., target].sum()])
        result.append(raw[0].astype("float32"))
        if result[-1].max() > 0:  # pytorch-grad-cam does not reach 1 where gradients are tiny
            return layer, result[-1] / result[-1].max()
    text = f"nothing in the image speaks for class {target}: the heatmap is all zero"
    warnings.warn(text, ZooWarning, stacklevel=4)
    return layers[0], result[0]


def _class_of(method: str) -> Any:
    """The class of pytorch-grad-cam for a method."""
    if method not in METHODS:
        raise UsageError(
            f"method cannot be {method!r}",
            expected=", ".join(METHODS),
            hint=did_you_mean(close_matches(str(method), METHODS), 'method="gradcam" suits most models'),
        )
    try:
        import pytorch_grad_cam
    except ImportError as error:
        raise ZooError("a class activation map needs grad-cam", hint="pip install 'zoo-core[inspect]'") from error
    return getattr(pytorch_grad_cam, METHODS[method])


@dataclass(frozen=True, eq=False)
class _Layer:
    """A module that gives a map for a CAM, which of the tensors that it gives is read, and how.

    Attributes:
        name: Of the stage, or the path of the module.
        path: Of the module.
        read: What the module gave to the map ``[1, C, rows, columns]``; None where it is none.
        place: Number of the tensor among those that the module gives.
        output: What the module gave.
    """

    name: str
    path: str
    read: Callable[[Any], Tensor | None]
    place: int
    output: Any

    def map_of(self, tensor: Tensor) -> Tensor | None:
        """The map in the tensor that is read, in a gradient of it, or in those of several images."""
        maps = [self.read(_with_tensor(self.output, self.place, each)) for each in torch.split(tensor, 1)]
        return None if any(each is None for each in maps) else torch.cat(maps)  # type: ignore[arg-type]  # none of them

    def is_read(self, tensor: Tensor) -> bool:
        """Whether the map is of this tensor, and not of another that the module gives beside it, as a TNT's does."""
        blank = self.map_of(torch.zeros_like(tensor[:1]))
        return blank is not None and not bool(blank.any())


def _tensors_in(output: Any) -> list[Tensor]:
    """The tensors that a module gives, among which a CAM may read a map."""
    if isinstance(output, tuple | list):
        return [tensor for each in output for tensor in _tensors_in(each)]
    return [output] if isinstance(output, Tensor) else []


def _with_tensor(output: Any, place: int, tensor: Tensor) -> Any:
    """The same output of a module with another tensor in this place, for a CAM."""
    places = itertools.count()

    def replaced(each: Any) -> Any:
        if isinstance(each, tuple | list):
            return type(each)([replaced(one) for one in each])
        return tensor if isinstance(each, Tensor) and next(places) == place else each

    return replaced(output)


class _Logits(nn.Module):
    """A copy of a model for a CAM that gives ``[N, classes]``; no parameter takes a gradient, nothing works in place.

    Attributes:
        tap: What one tensor of one module goes through, where ``tapped`` puts it.
        dtype: Of the image.
        head: Which of several heads; None where there is one.
    """

    def __init__(self, model: nn.Module, head: str | None = None) -> None:
        super().__init__()
        self.head = head
        self.body = copy.deepcopy(unwrap(model)).requires_grad_(requires_grad=False)
        self._outputs = Outputs.of(model)
        self.tap: nn.Module = nn.Identity()
        if any(p.dtype in (torch.float16, torch.bfloat16) for p in self.body.parameters()):
            self.body.float()
        self.dtype = next((p.dtype for p in self.body.parameters() if p.is_floating_point()), torch.float32)
        for module in self.body.modules():
            if getattr(module, "inplace", False) is True:
                module.inplace = False  # type: ignore[assignment]  # a plain attribute of torch's activations
        self.eval()

    @contextmanager
    def tapped(self, layer: _Layer) -> Iterator[None]:
        """Let the tensor that ``layer`` reads go through :attr:`tap`."""

        def through(_: nn.Module, __: object, output: Any) -> Any:
            return _with_tensor(output, layer.place, self.tap(_tensors_in(output)[layer.place]))

        self.tap = nn.Identity()
        handle = self.body.get_submodule(layer.path).register_forward_hook(through)
        try:
            yield
        finally:
            handle.remove()

    def forward(self, x: Tensor) -> Tensor:
        result: Any = self._of_head(self._outputs.read(self.body(x)))
        if not isinstance(result, Tensor) or result.dim() < _TABLE:
            raise NotSupported(
                "the model gives no logits of classes",
                got=f"a {type(result).__name__}",
                hint="zoo.activation_maps works on any model",
            )
        return result if result.dim() == _TABLE else result.flatten(2).mean(-1)

    def _of_head(self, output: Any) -> Any:
        if not isinstance(output, dict):
            if self.head is not None:
                raise UsageError(f"head cannot be {self.head!r}", cause="the model has one head", hint="leave it out")
            return output
        scoring = [name for name in output if name not in self._outputs.embeddings]
        if self.head is None and len(scoring) == 1:
            self.head = scoring[0]
        if self.head not in scoring:
            what = "gives no logits" if self.head in output else "is not one of the model's"
            raise UsageError(
                "the model has several heads" if self.head is None else f"the head {self.head!r} {what}",
                expected=f"head= one of {', '.join(map(repr, scoring))}, or --head on the command line",
            )
        return output[self.head]


def _names(model: nn.Module, head: str | None) -> tuple[str, ...]:
    """Names of the classes that a CAM is for, of one head where there are several."""
    names = class_names(model)
    if isinstance(names, dict):
        return names.get(head or "", ())
    return names if head is None else ()


def _class_number(names: Sequence[str], logits: Tensor, target: int | str | None) -> int:
    """Number of the class that a CAM is for: a name, a number, or the likeliest."""
    count = logits.shape[1]
    if target is None:
        return int(logits[0].argmax())
    if isinstance(target, str):
        numbers = [number for number, name in enumerate(names) if name == target]
        if len(numbers) > 1:
            raise UsageError(
                f"{len(numbers)} classes of this model are called {target!r}",
                got=f"the classes {', '.join(map(str, numbers))}",
                hint=f"say which by its number: target={numbers[0]}",
            )
        if numbers:
            return numbers[0]
        raise UsageError(
            f"no class of this model is called {target!r}",
            hint=did_you_mean(close_matches(target, names), f"target= takes a number from 0 to {count - 1} as well"),
        )
    try:
        number = -1 if isinstance(target, bool) else operator.index(target)  # of NumPy, or what argmax gives, too
    except (TypeError, ValueError):
        number = -1
    if not 0 <= number < count:
        raise UsageError(f"target cannot be {target!r}", expected=f"a class from 0 to {count - 1}, or its name")
    return number


def _cam_layers(model: nn.Module, twin: _Logits, x: Tensor, target: int, at: str | None) -> list[_Layer]:
    """Layers that a CAM can be of: they give a map which the logit depends on, the best choice first."""
    outputs: dict[str, Any] = {}
    readers: dict[str, Callable[[Any], Tensor | None]] = {}
    candidates = _candidates(model, at)
    hooks = []
    for path, (_, stage) in candidates.items():
        module = twin.body.get_submodule(path)
        readers[path] = partial(_map_in, model, module, x=x, stage=stage)
        hooks.append(module.register_forward_hook(partial(_keep, outputs, path)))
    try:
        with torch.enable_grad():
            logit = twin(x.requires_grad_())[0, target]
    finally:
        for hook in hooks:
            hook.remove()
    contribution = _pixel_contribution(logit, x)
    result: dict[_Layer, float] = {}
    for path, (name, _) in candidates.items():
        output = outputs.get(path)
        for place, tensor in enumerate(_tensors_in(output)):
            layer = _Layer(name, path, readers[path], place, output)
            found = layer.map_of(tensor) if layer.is_read(tensor) else None
            gradient = None if found is None else _gradient(logit, tensor)
            slope = None if gradient is None else layer.map_of(gradient)
            if found is not None and slope is not None and bool(slope.any()):
                result[layer] = _heat_agreement(found.detach(), slope, contribution)
                break
    if not result:
        raise NotSupported(
            f"the logits of this {type(unwrap(model)).__name__} depend on no map of rows and columns"
            + (f" at {at!r}" if at else ""),
            cause=None if at else "the head may be all zeros, as torchvision's untrained ViTs have it",
            hint='at="path.of.a.module" names one; print(model) shows every module path',
        )
    return _located_first(result)


def _located_first(agreements: dict[_Layer, float]) -> list[_Layer]:
    """The layers that a CAM can be of, the deepest of those first whose heat is where the image speaks for the class.

    In some models it is not at the last stage: attention or large kernels mix the whole image there, or what the stage
    gives everywhere outweighs what the image changes in it.
    """
    least = min(_LOCATED, _SHARE * max(agreements.values()))
    return sorted(agreements, key=lambda layer: agreements[layer] < least)


def _pixel_contribution(logit: Tensor, x: Tensor) -> Tensor:
    """Contribution of each pixel of ``x`` to the class of a CAM, by the usual pixel in its place, ``[1, 1, H, W]``."""
    gradient = _gradient(logit, x)
    if gradient is None:
        return torch.zeros_like(x[:, :1])
    values = x.detach()
    usual = values.flatten(2).median(-1).values[..., None, None]
    return (gradient * (values - usual)).sum(1, keepdim=True).abs()


def _heat_agreement(values: Tensor, slope: Tensor, contribution: Tensor) -> float:
    """How much of a CAM's heat is where the image speaks for the class, over how much is there on average.

    Example:
        >>> values, contribution = torch.zeros(2, 1, 1, 2, 2)
        >>> values[..., 0, 0] = contribution[..., 0, 0] = 1
        >>> _heat_agreement(values, torch.ones(1, 1, 2, 2), contribution) > 2
        True
        >>> _heat_agreement(values, torch.full((1, 1, 2, 2), 1e-30), 1e-30 * contribution) > 2
        True
    """
    slope, contribution = slope.double(), contribution.double()  # tiny, where the weights are untrained
    heat = (slope.mean((2, 3), keepdim=True) * values).sum(1, keepdim=True).relu()
    heat = F.interpolate(heat, contribution.shape[2:], mode="bilinear", align_corners=False)
    expected = heat.mean() * contribution.sum()
    return ((heat * contribution).sum() / expected).item() if expected > 0 else 0.0


def _candidates(model: nn.Module, at: str | None) -> dict[str, tuple[str, Stage | None]]:
    """Modules a CAM may be of: path to what each is called and the stage that it ends, the deepest first."""
    stages = {stage.name: stage for stage in anatomy_of(model).stages}
    if at is not None:
        return {stages[at].output: (at, stages[at])} if at in stages else {module_path(model, at): (at, None)}
    if stages:
        return {stage.output: (name, stage) for name, stage in reversed(stages.items())}
    convolutions = [path for path, module in unwrap(model).named_modules() if isinstance(module, nn.Conv2d)]
    return {path: (path, None) for path in reversed(convolutions)}


def _keep(outputs: dict[str, Any], path: str, _: nn.Module, __: object, output: Any) -> None:
    outputs[path] = output


def _map_in(model: nn.Module, module: nn.Module, output: Any, *, x: Tensor, stage: Stage | None) -> Tensor | None:
    """What a module gave as a map of several cells, for a CAM."""
    result = map_in(model, module, output, x, stage)
    return result if result is not None and result.shape[-2] * result.shape[-1] > 1 else None


def _gradient(logit: Tensor, tensor: Tensor) -> Tensor | None:
    if not tensor.requires_grad:
        return None
    return torch.autograd.grad(logit, tensor, retain_graph=True, allow_unused=True)[0]

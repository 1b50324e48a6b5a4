"""``zoo.cam``: which part of an image speaks for a class, through pytorch-grad-cam."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo_core.errors import NotSupported, UsageError, ZooError, close_matches, did_you_mean
from zoo_core.inspect.maps import map_in
from zoo_core.inspect.view import overlay, resized_map, save_image, to_html, view_of
from zoo_core.recipe.opened import open_model
from zoo_core.surgery.features.extract import module_path
from zoo_core.surgery.metadata import anatomy_of, class_names_of, unwrap
from zoo_core.utils.arguments import strict_arguments

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

    from PIL.Image import Image

    from zoo_core.contract.anatomy import Stage
    from zoo_core.inspect.view import Array

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


@dataclass(frozen=True)
class Cam:
    """Which part of an image speaks for a class; ``print`` says where, a notebook shows it.

    Attributes:
        heatmap: ``[H, W]`` from 0 to 1, of the size that the model saw.
        image: What the model saw, ``[H, W, 3]`` from 0 to 1.
        target: Number of the class.
        name: What the class is called; its number where it has no name.
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
        """Write the heatmap over the image to a file.

        Raises:
            ZooError: It cannot be written there.
        """
        return save_image(self.overlay(), path)

    def __str__(self) -> str:
        row, column = divmod(int(self.heatmap.argmax()), self.heatmap.shape[1])
        return (
            f"{self.name} (logit {self.logit:.3g}): {self.method} at {self.layer}, most at row {row}, column {column} "
            f"of {self.heatmap.shape[0]} x {self.heatmap.shape[1]}"
        )

    def _repr_html_(self) -> str:
        return to_html(self.overlay(), str(self))


@strict_arguments
def cam(
    model: nn.Module | str | os.PathLike[str],
    image: Any,  # noqa: ANN401 - as for predict
    *,
    target: int | str | None = None,
    method: str = "gradcam",
    at: str | None = None,
    size: int | Sequence[int] | None = None,
) -> Cam:
    """Which part of an image speaks for a class: a class activation map.

    The layer is the deepest stage whose map the logit still depends on, which in a ViT with a class token is not the
    last; tokens become rows and columns. The model is not changed: a copy of it runs.

    Args:
        model: A model, its name, or the folder of a save.
        image: One image, as for :func:`predict`.
        target: Number or name of the class; None for the one with the largest logit. For segmentation the mean over
            the pixels counts.
        method: One of ``"gradcam"``, ``"gradcam++"``, ``"hirescam"``, ``"layercam"``, ``"xgradcam"``,
            ``"elementwise"``, ``"eigencam"``, ``"eigengradcam"``, ``"scorecam"``, ``"ablationcam"``.
        at: A stage or the path of a module that gives a map, instead.
        size: Height and width that the model sees, instead of those of its weights.

    Returns:
        ``.heatmap``, ``[H, W]`` from 0 to 1; ``.save(path)`` lays it over the image.

    Raises:
        ZooError: grad-cam is not installed.
        NotSupported: The model gives no logits of classes, or no stage of it gives a map that they depend on.
        UsageError: ``target`` or ``method`` is impossible.
        ImageError: The image cannot be read.

    Example:
        >>> import numpy as np, zoo_core as zoo
        >>> zoo.cam("tiny/glyphnet", np.eye(32), target="A").heatmap.shape  # doctest: +SKIP
        (32, 32)
    """
    made = _class_of(method)
    opened = open_model(model)
    if any(site.role in {"box", "mask", "level"} for site in anatomy_of(opened).heads):
        raise NotSupported("a detector has no logit of the whole image", hint="zoo.activation_maps works on any model")
    view = view_of(opened, image, size)
    twin = _Logits(opened)
    logits = twin(view.x.requires_grad_())
    chosen = _target(opened, logits, target)
    layer, stage = _layer(opened, twin, view.x, chosen, at)
    module = twin.body.get_submodule(layer)

    def reshape(output: Any) -> Any:  # noqa: ANN401 - what a module gives
        if isinstance(output, Tensor) and output.shape[0] != 1:  # methods that score many masked images at once
            return torch.cat([reshape(each[None]) for each in output])
        return map_in(opened, module, output, view.x, stage)

    runner = made(model=twin, target_layers=[module], reshape_transform=reshape)
    runner.compute_input_gradient = True  # gradients flow although no parameter takes any
    with runner, torch.enable_grad():
        raw = runner(input_tensor=view.x.detach(), targets=[lambda output: output[..., chosen].sum()])
    heatmap = resized_map(raw[0].astype("float32"), *view.image.shape[:2])
    names = class_names_of(opened)
    name = names[chosen] if chosen < len(names) else str(chosen)
    return Cam(heatmap, view.image, chosen, name, logits[0, chosen].item(), stage.name if stage else layer, method)


def _class_of(method: str) -> Any:  # noqa: ANN401 - a class of a library without types
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


class _Logits(nn.Module):
    """A copy of a model that gives ``[N, classes]``; no parameter takes a gradient and nothing works in place."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.body = copy.deepcopy(unwrap(model)).requires_grad_(requires_grad=False)
        self._anatomy = anatomy_of(model)
        for module in self.body.modules():
            if getattr(module, "inplace", False) is True:
                module.inplace = False  # type: ignore[assignment]  # a plain attribute of torch's activations
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        found: Any = self._anatomy.scores_in(self.body(x))
        found = found.get("out", found) if isinstance(found, dict) else found
        if not isinstance(found, Tensor) or found.dim() < _TABLE:
            raise NotSupported(
                "the model gives no logits of classes",
                got=f"a {type(found).__name__}" + (f" of {', '.join(found)}" if isinstance(found, dict) else ""),
                hint="zoo.activation_maps works on any model",
            )
        return found if found.dim() == _TABLE else found.flatten(2).mean(-1)


def _target(model: nn.Module, logits: Tensor, target: int | str | None) -> int:
    count = logits.shape[1]
    if target is None:
        return int(logits[0].argmax())
    if isinstance(target, str):
        names = class_names_of(model)
        if target in names:
            return names.index(target)
        raise UsageError(
            f"no class of this model is called {target!r}",
            hint=did_you_mean(close_matches(target, names), f"target= takes a number from 0 to {count - 1} as well"),
        )
    if isinstance(target, bool) or not isinstance(target, int) or not 0 <= target < count:
        raise UsageError(f"target cannot be {target!r}", expected=f"a class from 0 to {count - 1}, or its name")
    return target


def _layer(model: nn.Module, twin: _Logits, x: Tensor, target: int, at: str | None) -> tuple[str, Stage | None]:
    """Path of the layer to look at: the deepest that gives a map which the logit depends on."""
    stages = {stage.name: stage for stage in anatomy_of(model).stages}
    candidates: list[tuple[str, Stage | None]] = [(stage.output, stage) for stage in reversed(stages.values())]
    if at is not None:
        candidates = [(stages[at].output, stages[at]) if at in stages else (module_path(model, at), None)]
    elif not stages:
        modules = reversed([*twin.body.named_modules()])
        candidates = [(path, None) for path, module in modules if isinstance(module, nn.Conv2d)]
    outputs: dict[str, Tensor] = {}

    def hook_of(path: str, stage: Stage | None) -> Any:  # noqa: ANN401 - a hook
        def keep(module: nn.Module, _: object, output: Any) -> None:  # noqa: ANN401 - as hooks are given
            found = map_in(model, module, output, x, stage)
            if isinstance(output, Tensor) and found is not None and found.shape[-2] * found.shape[-1] > 1:
                outputs[path] = output

        return keep

    hooks = [twin.body.get_submodule(path).register_forward_hook(hook_of(path, stage)) for path, stage in candidates]
    try:
        with torch.enable_grad():
            logit = twin(x)[0, target]
            found = {
                path: torch.autograd.grad(logit, kept, retain_graph=True, allow_unused=True)[0]
                for path, kept in outputs.items()
            }
    finally:
        for hook in hooks:
            hook.remove()
    for path, stage in candidates:
        gradient = found.get(path)
        kept = map_in(model, twin.body.get_submodule(path), gradient, x, stage) if gradient is not None else None
        if kept is not None and bool(kept.any()):
            return path, stage
    raise NotSupported(
        f"the logits of this {type(unwrap(model)).__name__} depend on no map of rows and columns"
        + (f" at {at!r}" if at else ""),
        cause="the head may be all zeros, as torchvision's untrained ViTs have it",
        hint='at="path.of.a.module" names one; print(model) shows every module path',
    )

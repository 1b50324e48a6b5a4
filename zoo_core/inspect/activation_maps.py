"""``zoo.activation_maps``: where in an image the layers of a model respond, drawn over the image that the model saw."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from zoo_core.contract.anatomy import Stage
from zoo_core.errors import NotSupported, UnknownPart, UsageError
from zoo_core.inspect.overlay import Array, enlarged, overlay, save_image, to_html, view_of
from zoo_core.recipe.open_model import open_model, running_on
from zoo_core.surgery.features.encoder import as_map
from zoo_core.surgery.features.extract import names_to_extract
from zoo_core.surgery.features.twin import hooked
from zoo_core.surgery.metadata import anatomy_of, unwrap
from zoo_core.text import close_matches, did_you_mean
from zoo_core.utils.arguments import strict_arguments
from zoo_core.utils.eval_mode import inferring

if TYPE_CHECKING:
    from PIL.Image import Image


_TOKENS, _MAP = 3, 4
_CONVOLUTIONAL = (nn.Conv2d, nn.ConvTranspose2d, nn.modules.batchnorm._BatchNorm)  # noqa: SLF001 - the base of all batch norms
_GAP, _LABEL, _COLUMNS = 4, 14, 4


@dataclass(frozen=True, eq=False, repr=False)
class ActivationMaps:
    """Mean activations of layers over an image; ``print`` lists them, a notebook shows them.

    Attributes:
        image: What the model saw, ``[H, W, 3]`` from 0 to 1.
        maps: Layer to the mean over its channels, ``[rows, columns]``, in the order of running.
        channels: Layer to how many channels that is the mean of.

    Example:
        >>> import numpy as np, zoo_core as zoo
        >>> zoo.activation_maps("tiny/glyphnet", np.zeros((32, 32), dtype=np.uint8), at="layer3").channels
        {'layer3': 64}
    """

    image: Array
    maps: dict[str, Array]
    channels: dict[str, int]

    def overlay(self, layer: str) -> Image:
        """The map of one layer over the image."""
        return overlay(self.image, self.maps[layer])

    def sheet(self) -> Image:
        """The maps of all layers over the image, each with its name; small images are enlarged."""
        from PIL import Image as Pillow
        from PIL import ImageDraw

        tiles = {layer: enlarged(self.overlay(layer)) for layer in self.maps}
        width, height = next(iter(tiles.values())).size
        columns = min(_COLUMNS, len(self.maps))
        rows = -(-len(self.maps) // columns)
        page = Pillow.new("RGB", (columns * (width + _GAP), rows * (height + _LABEL + _GAP)), "white")
        for place, (layer, tile) in enumerate(tiles.items()):
            left, top = place % columns * (width + _GAP), place // columns * (height + _LABEL + _GAP)
            ImageDraw.Draw(page).text((left, top), layer, fill="black")
            page.paste(tile, (left, top + _LABEL))
        return page

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all maps to one image file.

        Raises:
            ZooError: It cannot be written there.
        """
        return save_image(self.sheet(), path)

    def __repr__(self) -> str:
        return f"ActivationMaps({', '.join(self.maps)})"

    def __str__(self) -> str:
        return "\n".join(
            f"{layer}: mean of {self.channels[layer]} channels, {result.shape[0]} x {result.shape[1]}, "
            f"{result.min():.3g} to {result.max():.3g}"
            for layer, result in self.maps.items()
        )

    def _repr_html_(self) -> str:
        return to_html(self.sheet(), "mean activations of " + ", ".join(self.maps))


@strict_arguments
def activation_maps(
    model: nn.Module | str | os.PathLike[str],
    image: Any,
    *,
    at: str | Sequence[str] | None = None,
    size: int | Sequence[int] | None = None,
) -> ActivationMaps:
    """Where in an image the layers of ``model`` respond: the mean over the channels of what each gives.

    Args:
        model: A model, its name, or the folder of a save; not changed.
        image: One image, as for :func:`predict`.
        at: Names of stages and paths of modules, or globs over them, such as ``"layer*"``; None for every stage.
        size: Height and width that the model sees, instead of those of its weights.

    Returns:
        ``.maps`` by layer, ``.overlay(layer)``, and ``.save(path)`` for all of them in one image.

    Raises:
        UnknownPart: Nothing in the model has such a name.
        UsageError: None of these layers gives a map.
        ImageError: The image cannot be read.

    Example:
        >>> import numpy as np, zoo_core as zoo
        >>> found = zoo.activation_maps("tiny/glyphnet", np.zeros((32, 32), dtype=np.uint8), at="layer*")
        >>> {layer: values.shape for layer, values in found.maps.items() if "." not in layer}
        {'layer1': (16, 16), 'layer2': (8, 8), 'layer3': (4, 4)}
    """
    opened = open_model(model)
    stages = {stage.name: stage for stage in anatomy_of(opened).stages}
    paths = _paths(opened, stages, at)
    view = view_of(opened, image, size)
    by_output = {stage.output: stage for stage in stages.values()}
    maps: dict[str, Array] = {}
    channels: dict[str, int] = {}

    def hook_of(path: str) -> Any:
        def keep(module: nn.Module, _: object, output: Any) -> None:
            try:
                result = map_in(opened, module, output, view.x, by_output.get(path))
            except NotSupported:  # tokens of other places than the image has
                if len(paths) == 1:
                    raise
                return
            if result is not None:
                maps[paths[path]], channels[paths[path]] = result[0].mean(0).float().cpu().numpy(), result.shape[1]

        return keep

    twin = hooked(unwrap(opened), {path: hook_of(path) for path in paths})
    with running_on(image), inferring(twin):
        _ = twin([view.x[0]]) if is_detector(opened) else twin(view.x)
    if not maps:
        raise UsageError(
            "none of these layers gives a map of rows and columns",
            got=", ".join(list(paths.values())[:4]),
            hint="at=None takes the stages" if stages else "name convolutions, with at=",
        )
    return ActivationMaps(view.image, maps, channels)


def is_detector(model: nn.Module) -> bool:
    """Whether a model is a detector, whose activation maps are of a list of images."""
    return any(site.role in {"box", "mask", "level"} for site in anatomy_of(model).heads)


def _paths(model: nn.Module, stages: dict[str, Stage], at: str | Sequence[str] | None) -> dict[str, str]:
    """Path of each module to draw an activation map of, to what it is called."""
    if at is None and stages:
        return {stage.output: name for name, stage in stages.items()}
    modules = [path for path, _ in unwrap(model).named_modules() if path]
    if at is None:
        convolutions = (path for path in modules if isinstance(unwrap(model).get_submodule(path), nn.Conv2d))
        return {path: path for path in convolutions}
    result: dict[str, str] = {}
    for pattern in names_to_extract(at):
        named = {stage.output: name for name, stage in stages.items() if fnmatchcase(name, pattern)}
        matching = {path: path for path in modules if fnmatchcase(path, pattern)} | named
        if not matching:
            raise UnknownPart(
                f"nothing in this {type(unwrap(model)).__name__} is called {pattern!r}",
                expected=f"one of the stages {', '.join(stages)}; the path of a module; or a glob over these",
                hint=did_you_mean(close_matches(pattern, [*stages, *modules]), "print(model) shows every module path"),
                part=pattern,
                parts=tuple(stages),
            )
        result |= matching
    return result


def map_in(model: nn.Module, module: nn.Module, output: Any, x: Tensor, stage: Stage | None) -> Tensor | None:
    """What a module gave as an activation map ``[1, C, rows, columns]``, or None where it is none."""
    anatomy = anatomy_of(model)
    if stage is not None:
        output = stage.map_in(unwrap(model), output)
    elif isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.dim() not in (_TOKENS, _MAP) or output.shape[0] != 1:
        return None
    if output.dim() == _MAP:
        first = stage is None and isinstance(module, _CONVOLUTIONAL)
        return as_map(output, x, "NCHW" if first else anatomy.layout, 1)
    strides = [stage.stride] if stage else [each.stride for each in anatomy.stages]
    cells = {stride: (x.shape[-2] // stride) * (x.shape[-1] // stride) for stride in strides}
    fitting = {stride: count for stride, count in cells.items() if 0 < count <= output.shape[1]}
    if not fitting:
        return None
    return as_map(output, x, anatomy.layout, max(fitting, key=fitting.__getitem__))

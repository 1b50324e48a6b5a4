"""``zoo.activation_maps``: where in an image the layers of a model respond, drawn over the image that the model saw."""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo_core.errors import NotSupported, UnknownPart, UsageError
from zoo_core.images.preprocessing import numbers_of
from zoo_core.images.read import read, sources_of
from zoo_core.images.transforms import transforms
from zoo_core.recipe.open_model import open_model, require_values, running_on
from zoo_core.surgery.example import channels_told
from zoo_core.surgery.features.encoder import as_map
from zoo_core.surgery.features.extract import hooked, names_of_parts
from zoo_core.surgery.metadata import anatomy_of, metadata_of, unwrap
from zoo_core.text import close_matches, did_you_mean
from zoo_core.utils.arguments import strict_arguments
from zoo_core.utils.atomic_write import image_file
from zoo_core.utils.eval_mode import inferring

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL.Image import Image

    from zoo_core.contract.anatomy import Stage

    Array = np.ndarray[Any, np.dtype[np.float32]]


_RGB = 3
_BATCH = 4
_LEGIBLE = 160
"""Sides in pixels below which an image is enlarged where people look at it."""


@dataclass(frozen=True)
class View:
    """An image as a model sees it, to lay maps over.

    Attributes:
        x: What the model takes, ``[1, C, H, W]``.
        image: The same to look at: ``[H, W, 3]`` from 0 to 1.
    """

    x: Tensor
    image: Array


def view_of(model: nn.Module, image: Any, size: int | Sequence[int] | None = None) -> View:  # noqa: ANN401 - as predict
    """An image of any kind as ``model`` sees it.

    Where nothing says how its images are prepared, as in an untrained model, they are values from 0 to 1 of the size
    that it was designed for.

    Raises:
        ImageError: It cannot be read.
        UsageError: There are several images.
        NotSupported: The model takes no image.
    """
    require_values(model)
    task = getattr(metadata_of(model).card, "task", "classification")
    if task in {"video", "optical_flow"}:
        raise NotSupported(f"a model for {task} takes more than one image", hint="models that take one image can")
    if isinstance(image, torch.Tensor) and image.dim() == _BATCH and len(image) == 1:
        image = image[0]
    sources, several = sources_of(image, video=False)
    source = next(iter(sources), None)
    if several or source is None:
        where = f"{image}: " if isinstance(image, str | os.PathLike) else ""
        raise UsageError(
            f"{where}this looks at one image",
            got="a folder, glob or list of images" if source else "none",
            hint="call it once for each image",
        )
    opened = read(source.item, source.name).image
    try:
        prepare, numbers = transforms(model, size=size), numbers_of(model).preprocessing
    except NotSupported:
        return _plain_view(model, opened, size)
    x = prepare(opened)
    shift = (-1,) + (1,) * (x.dim() - 1)
    shown = x if task in {"detection", "keypoints"} else None
    if shown is None:
        shown = x * x.new_tensor(numbers.std).view(shift) + x.new_tensor(numbers.mean).view(shift)
        shown = shown / numbers.value_range
        shown = shown.flip(0) if numbers.channel_order == "BGR" else shown
    return View(_like(model, x), _to_show(shown))


def _plain_view(model: nn.Module, opened: Any, size: int | Sequence[int] | None) -> View:  # noqa: ANN401 - PIL or tensor
    """An image as a model sees it, to lay activation maps over, where no preprocessing is known."""
    from torchvision.transforms.v2 import functional

    known = metadata_of(model)
    sides: Sequence[int] | None = (size, size) if isinstance(size, int) else size
    if sides is None and isinstance(known.example, torch.Tensor):
        sides = known.example.shape[-2:]
    elif sides is None and known.card is not None:
        sides = known.card.input_size[-2:]
    x = functional.to_dtype(functional.to_image(opened), torch.float32, scale=True)
    channels = channels_told(model)
    if x.shape[0] != channels:
        x = x[:_RGB].mean(0, keepdim=True).expand(channels, -1, -1)
    if sides and tuple(x.shape[-2:]) != tuple(sides):
        x = functional.resize(x, list(sides), antialias=True)
    return View(_like(model, x), _to_show(x))


def _like(model: nn.Module, x: Tensor) -> Tensor:
    like = next((p for p in unwrap(model).parameters() if p.is_floating_point()), x)
    return x[None].to(like.device, like.dtype)


def _to_show(x: Tensor) -> Array:
    rgb = x if x.shape[0] == _RGB else x[:1].expand(_RGB, -1, -1)
    result: Array = rgb.permute(1, 2, 0).clamp(0, 1).float().cpu().numpy()
    return result


def resized_map(values: Array, height: int, width: int) -> Array:
    """A map ``[H, W]`` at the size of the image it is laid over, without corners aligned."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))[None, None]
    found = torch.nn.functional.interpolate(tensor, (height, width), mode="bilinear", align_corners=False)
    result: Array = found[0, 0].numpy()
    return result


def overlay(image: Array, values: Array, strength: float = 0.5) -> Image:
    """A map over an image: dark where it is least, white-hot where it is most."""
    from PIL import Image as Pillow

    height, width = image.shape[:2]
    low, high = float(values.min()), float(values.max())
    scaled = resized_map((values - low) / (high - low) if high > low else np.zeros_like(values), height, width)
    hot = np.stack([np.clip(3 * scaled - shift, 0, 1) for shift in range(_RGB)], axis=-1)
    mixed = (1 - strength) * image.mean(-1, keepdims=True) + strength * hot
    return Pillow.fromarray((255 * np.clip(mixed, 0, 1)).astype(np.uint8))


def enlarged(image: Image) -> Image:
    """A small image under an overlay, scaled up by a whole factor with nearest-neighbour interpolation."""
    from PIL import Image as Pillow

    times = -(-_LEGIBLE // max(1, *image.size))
    return image.resize((image.width * times, image.height * times), Pillow.Resampling.NEAREST) if times > 1 else image


def to_html(image: Image, caption: str) -> str:
    """An image with a map laid over it for a notebook, with its caption."""
    from html import escape

    file = io.BytesIO()
    image.save(file, format="PNG")
    data = base64.b64encode(file.getvalue()).decode()
    words = escape(caption)
    return f'<figure><img alt="{words}" src="data:image/png;base64,{data}"><figcaption>{words}</figcaption></figure>'


def save_image(image: Image, path: str | os.PathLike[str]) -> Path:
    """Write an image with a map laid over it to a file.

    Raises:
        ZooError: It cannot be written there.
    """
    from pathlib import Path

    with image_file(path) as new:
        image.save(new)
    return Path(path)


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
    image: Any,  # noqa: ANN401 - as for predict
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

    def hook_of(path: str) -> Any:  # noqa: ANN401 - a hook
        def keep(module: nn.Module, _: object, output: Any) -> None:  # noqa: ANN401 - as hooks are given
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
        _ = twin([view.x[0]]) if _is_detector(opened) else twin(view.x)
    if not maps:
        raise UsageError(
            "none of these layers gives a map of rows and columns",
            got=", ".join(list(paths.values())[:4]),
            hint="at=None takes the stages" if stages else "name convolutions, with at=",
        )
    return ActivationMaps(view.image, maps, channels)


def _is_detector(model: nn.Module) -> bool:
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
    for pattern in names_of_parts(at):
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


def map_in(model: nn.Module, module: nn.Module, output: Any, x: Tensor, stage: Stage | None) -> Tensor | None:  # noqa: ANN401
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

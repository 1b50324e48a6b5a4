"""A map drawn over an image as a model sees it: the overlay that activation maps and class activation maps share."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo_core.errors import NotSupported, UsageError
from zoo_core.images.loading import sources_of
from zoo_core.images.preprocessing import numbers_of, transforms
from zoo_core.images.read import read
from zoo_core.recipe.open_model import require_values
from zoo_core.surgery.inputs import channels_told
from zoo_core.surgery.metadata import metadata_of, unwrap
from zoo_core.utils.atomic_write import image_file

if TYPE_CHECKING:
    from PIL.Image import Image

Array = np.ndarray[Any, np.dtype[np.float32]]


_RGB = 3


_BATCH = 4


_LEGIBLE = 160
"""Sides in pixels below which an image is enlarged where people look at it."""


@dataclass(frozen=True)
class View:
    """An image as a model sees it, for an overlay.

    Attributes:
        x: What the model takes, ``[1, C, H, W]``.
        image: The same to look at: ``[H, W, 3]`` from 0 to 1.
    """

    x: Tensor
    image: Array


def view_of(model: nn.Module, image: Any, size: int | Sequence[int] | None = None) -> View:
    """An image of any kind as ``model`` sees it, for an overlay of a map.

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


def _plain_view(model: nn.Module, opened: Any, size: int | Sequence[int] | None) -> View:
    """An image as a model sees it, for an overlay, where no preprocessing is known."""
    from torchvision.transforms.v2 import functional

    known = metadata_of(model)
    sides: Sequence[int] | None = (size, size) if isinstance(size, int) else size
    if sides is None and isinstance(known.example, torch.Tensor):
        sides = known.example.shape[-2:]
    elif sides is None and known.card is not None:
        sides = known.designed_size(unwrap(model))[-2:]
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
    """An overlay of a map on an image: dark where it is least, white-hot where it is most."""
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
    """An image with an overlay as HTML for a notebook, with its caption."""
    from html import escape

    file = io.BytesIO()
    image.save(file, format="PNG")
    data = base64.b64encode(file.getvalue()).decode()
    words = escape(caption)
    return f'<figure><img alt="{words}" src="data:image/png;base64,{data}"><figcaption>{words}</figcaption></figure>'


def save_image(image: Image, path: str | os.PathLike[str]) -> Path:
    """Write an image with an overlay to a file.

    Raises:
        ZooError: It cannot be written there.
    """
    with image_file(path) as new:
        image.save(new)
    return Path(path)

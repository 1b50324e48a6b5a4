"""The steps of ``zoo.transforms``, made of a :class:`~zoo_core.Preprocessing`; importing them needs torchvision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # noqa: N812 - the name torchvision's own pages give it

from zoo_core.contract.card import Preprocessing
from zoo_core.errors import NotSupported, UsageError
from zoo_core.text import close_matches, did_you_mean

_GREY, _RGB = 1, 3
_FEWEST_AXES = 3
_PIL_MODES = {_GREY: "L", _RGB: "RGB"}
_TYPES = {"boxes": "BoundingBoxes", "masks": "Mask", "mask": "Mask", "keypoints": "KeyPoints"}
"""What torchvision calls the type of a target that is usually named so."""
_DEEP_MODES = ("I", "F")
"""What the modes of PIL images with more than 8 bits begin with; PIL would cut such values off at 255."""


class ToChannels(v2.Transform):  # type: ignore[misc]  # torchvision ships no types
    """A pipeline step that gives an image the channels of a model: grey to RGB, or RGB to grey. No more is guessed.

    Args:
        count: How many channels.

    Example:
        >>> ToChannels(3)(torch.zeros(1, 8, 8, dtype=torch.uint8)).shape
        torch.Size([3, 8, 8])
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Refuse a sample without an image.

        Raises:
            UsageError: There is none.
        """
        if not any(_is_image(item) for item in flat_inputs):
            kinds = sorted({type(item).__name__ for item in flat_inputs})
            raise UsageError(
                f"no image among {', '.join(kinds) or 'nothing'}",
                expected="a PIL image, or a tensor [..., channels, height, width] of uint8, or of floats from 0 to 1",
                hint="for a NumPy array [height, width, channels]: PIL.Image.fromarray(array)",
            )

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:  # noqa: ARG002 - v2's own signature
        """Called by v2 for each item of a sample."""
        if not _is_image(inpt):
            return inpt
        return self._of_tensor(inpt) if isinstance(inpt, Tensor) else self._of_pil(inpt)

    def _of_pil(self, image: Any) -> Any:
        if image.mode.startswith(_DEEP_MODES):
            raise UsageError(
                f"a PIL image of mode {image.mode!r} has more than 8 bits, which PIL cuts off",
                hint="torch.from_numpy(np.array(image, dtype=np.float32) / 65535)[None] is a tensor of it",
            )
        mode = _PIL_MODES.get(self.count, image.mode)
        image = image if image.mode == mode else image.convert(mode)
        if len(image.getbands()) != self.count:
            raise self._wrong(len(image.getbands()))
        return image

    def _of_tensor(self, image: Tensor) -> Tensor:
        count = image.shape[-3]
        if (count, self.count) == (_GREY, _RGB):
            return _marked_as_image(image.expand(*image.shape[:-3], _RGB, *image.shape[-2:]), image)
        if (count, self.count) == (_RGB, _GREY):
            return _marked_as_image(F.rgb_to_grayscale(image, num_output_channels=1), image)
        if count != self.count:
            raise self._wrong(count)
        return image

    def _wrong(self, count: int) -> UsageError:
        return UsageError(
            f"an image of {count} channels for a model that takes {self.count}",
            expected=f"{self.count} channel{'' if self.count == 1 else 's'}"
            + (", or grey" if self.count == _RGB else ""),
            cause="the channels of a tensor are its third axis from the end: [..., C, H, W]",
        )


class RequireTypedTargets(v2.Transform):  # type: ignore[misc]  # torchvision ships no types
    """A step of transforms that refuses a sample whose boxes or masks would stay while its image is flipped.

    Example:
        >>> masks = tv_tensors.Mask(torch.zeros(2, 8, 8, dtype=torch.bool))
        >>> image, targets = RequireTypedTargets()(torch.zeros(3, 8, 8), {"masks": masks, "labels": torch.ones(2)})
    """

    def forward(self, *inputs: Any) -> Any:
        """The sample as it is.

        Raises:
            UsageError: Something in it that belongs to places of the image is a plain tensor.
        """
        flat: list[tuple[str, Any]] = []
        _collect_parts(inputs, "", flat)
        images = [item for _, item in flat if _is_image(item)]
        for name, item in flat:
            is_plain = isinstance(item, Tensor) and not isinstance(item, tv_tensors.TVTensor)
            if is_plain and item is not images[0] and (item.ndim >= _FEWEST_AXES or name in _TYPES):
                kind = _TYPES.get(name, "Mask")
                raise UsageError(
                    f"{name or 'a target'} of the shape {list(item.shape)} would not be flipped with the image",
                    expected=f"a torchvision.tv_tensors.{kind}",
                    got="a plain tensor",
                    hint=f"tv_tensors.{kind}(...), with format and canvas_size where it takes them",
                )
        return inputs if len(inputs) > 1 else inputs[0]


def _collect_parts(item: Any, name: str, flat: list[tuple[str, Any]]) -> None:
    """Collect the parts of a sample that a pipeline step is given, each with its name."""
    if isinstance(item, dict):
        for key, value in item.items():
            _collect_parts(value, str(key), flat)
    elif isinstance(item, list | tuple):
        for value in item:
            _collect_parts(value, name, flat)
    else:
        flat.append((name, item))


class FitTo(v2.Transform):  # type: ignore[misc]  # torchvision ships no types
    """A step of a pipeline: resize an image and keep its proportions, to cover a size or stay within it.

    Args:
        size: Height and width, in pixels.
        fit: ``"cover"``, or ``"border"`` to stay within.
        interpolation: The resampling filter.
        antialias: Whether it filters before it samples; PIL images always do.

    Example:
        >>> FitTo((20, 20), "border")(torch.zeros(3, 40, 80, dtype=torch.uint8)).shape
        torch.Size([3, 10, 20])
    """

    def __init__(
        self,
        size: Sequence[int],
        fit: str,
        interpolation: v2.InterpolationMode = v2.InterpolationMode.BILINEAR,
        *,
        antialias: bool = True,
    ) -> None:
        super().__init__()
        self.size = tuple(size)
        self.fit = fit
        self.interpolation = interpolation
        self.antialias = antialias

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The size that the image gets, which is that of its masks and boxes too."""
        height, width = F.get_size(flat_inputs[0])
        ratios = height / self.size[0], width / self.size[1]
        ratio = min(ratios) if self.fit == "cover" else max(ratios)
        return {"size": [round(height / ratio), round(width / ratio)]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Called by v2 for each item of a sample."""
        options = {"interpolation": self.interpolation, "antialias": self.antialias}
        return self._call_kernel(F.resize, inpt, params["size"], **options)


class CenterCropOrPad(v2.Transform):  # type: ignore[misc]  # torchvision ships no types
    """A pipeline step that cuts out the centre of an image, or pads it where it is too small.

    Args:
        size: Height and width, in pixels.
        colour: Of the padding, one number a channel from 0 to 1.

    Example:
        >>> CenterCropOrPad((2, 4), (1.0,))(torch.zeros(1, 2, 2))
        tensor([[[1., 0., 0., 1.],
                 [1., 0., 0., 1.]]])
    """

    def __init__(self, size: tuple[int, int], colour: Sequence[float]) -> None:
        super().__init__()
        self.size = size
        self.colour = tuple(colour)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """How much is missing left, above, right and below."""
        height, width = F.get_size(flat_inputs[0])
        rows, columns = max(self.size[0] - height, 0), max(self.size[1] - width, 0)
        return {"padding": [columns // 2, rows // 2, (columns + 1) // 2, (rows + 1) // 2]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Called by v2 for each item of a sample."""
        if any(params["padding"]):
            colour: list[float] | int = 0
            if _is_image(inpt):
                in_floats = isinstance(inpt, Tensor) and inpt.is_floating_point()
                colour = [share if in_floats else round(255 * share) for share in self.colour]
            inpt = self._call_kernel(F.pad, inpt, padding=params["padding"], fill=colour)
        return self._call_kernel(F.center_crop, inpt, output_size=list(self.size))


class ToFloats(v2.Transform):  # type: ignore[misc]  # torchvision ships no types
    """A pipeline step that makes an image a tensor of float32, ``[..., C, H, W]``.

    Args:
        white: What white becomes: 1.0 for most models. Floats that come in count from 0 to 1.
        channel_order: ``"BGR"`` turns the channels round.

    Example:
        >>> ToFloats(white=255.0)(torch.full((3, 1, 1), 255, dtype=torch.uint8)).flatten()
        tensor([255., 255., 255.])
    """

    def __init__(self, white: float = 1.0, channel_order: str = "RGB") -> None:
        super().__init__()
        self.white = white
        self.channel_order = channel_order

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:  # noqa: ARG002 - v2's own signature
        """Called by v2 for each item of a sample."""
        if not _is_image(inpt):
            return inpt
        image = inpt if isinstance(inpt, Tensor) else F.pil_to_tensor(inpt)
        # v2 multiplies bytes by 1 / 255, which differs in the last digit
        values = image.float().div(255) if image.dtype == torch.uint8 else F.to_dtype(image, torch.float32, scale=True)
        if self.channel_order == "BGR":
            values = values.flip(-3)
        return _marked_as_image(values if self.white == 1 else values * self.white, inpt)


class FramesAfterChannels(v2.Transform):  # type: ignore[misc]  # torchvision ships no types
    """A step of transforms for videos: ``[..., T, C, H, W]``, as they are read, to ``[..., C, T, H, W]``.

    Example:
        >>> FramesAfterChannels()(torch.zeros(16, 3, 8, 8)).shape
        torch.Size([3, 16, 8, 8])
    """

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:  # noqa: ARG002 - v2's own signature
        """Called by v2 for each item of a sample."""
        if not _is_image(inpt):
            return inpt
        if inpt.ndim <= _FEWEST_AXES:
            raise UsageError(
                f"a video is a tensor [..., frames, channels, height, width], got {list(inpt.shape)}",
                hint="torch.stack(frames)",
            )
        return _marked_as_image(inpt.transpose(-4, -3), inpt)


def _is_image(item: object) -> bool:
    """Whether a step of transforms takes a part of a sample as an image or a video, not as a label, a mask or boxes."""
    if isinstance(item, tv_tensors.Image | tv_tensors.Video):
        return True
    if isinstance(item, Tensor):
        return not isinstance(item, tv_tensors.TVTensor) and item.ndim >= _FEWEST_AXES
    return type(item).__module__.startswith("PIL.")


def _marked_as_image(values: Tensor, image: Any) -> Tensor:
    """Mark what a step of transforms made as an image, so that later steps never take a label next to it for one."""
    kind = tv_tensors.Video if isinstance(image, tv_tensors.Video) else tv_tensors.Image
    return cast("Tensor", kind(values))


_SIDES = 2
_IGNORED = 255
"""What masks are padded with: the label that torchvision's reference leaves out of the loss."""


def compose(numbers: Preprocessing, task: str, *, train: bool) -> nn.Module:
    """Compose the steps of ``zoo.transforms``, each a transform of torchvision, for what weights want.

    Args:
        numbers: What the weights expect, with a number for each channel.
        task: What the model does, as on its card.
        train: Whether to augment in place of resizing and cropping.

    Raises:
        UsageError: torchvision has no such resampling filter, or there is no size to cut out.
        NotSupported: There are no standard augmentations for the task.
    """
    mean, std = numbers.mean, numbers.std
    turns = len(mean) == _RGB and numbers.channel_order == "BGR"
    colour = [min(max(value / numbers.value_range, 0), 1) for value in (reversed(mean) if turns else mean)]
    steps: list[Any] = [
        ToChannels(len(mean)),
        *(_random_steps(numbers, task) if train else _size_steps(numbers, colour)),
    ]
    steps.append(ToFloats(numbers.value_range, "BGR" if turns else "RGB"))
    if any(mean) or any(value != 1 for value in std):
        steps.append(v2.Normalize(mean=list(mean), std=list(std)))
    if task == "video":
        steps.append(FramesAfterChannels())
    result: nn.Module = v2.Compose([*steps, v2.ToPureTensor()])
    return result


def _size_steps(numbers: Preprocessing, colour: Sequence[float]) -> Iterator[Any]:
    """The steps of a pipeline of transforms that resize and crop an image, by the numbers of a preprocessing."""
    how = {"interpolation": _interpolation(numbers.interpolation), "antialias": numbers.antialias}
    if numbers.resize and numbers.fit == "squash":
        yield v2.Resize(list(numbers.resize), **how)
    elif numbers.resize:
        yield FitTo(numbers.resize, numbers.fit, **how)
    if numbers.crop:
        yield CenterCropOrPad(numbers.crop, colour) if numbers.fit == "border" else v2.CenterCrop(list(numbers.crop))


def _random_steps(numbers: Preprocessing, task: str) -> list[Any]:
    """The random steps of ``zoo.transforms(..., train=True)``: those of torchvision's references, by task.

    See https://github.com/pytorch/vision/tree/main/references, the ``presets.py`` of each task.
    """
    if task not in _RANDOM_STEPS:
        raise NotSupported(
            f"there are no standard augmentations for {task}",
            expected=f"a model for {', '.join(_RANDOM_STEPS)}",
            cause="a flip makes a left hand a right one" if task == "keypoints" else None,
            hint="put your own before those of zoo.transforms(model): v2.Compose([yours, zoo.transforms(model)])",
        )
    return _RANDOM_STEPS[task](numbers)


def _random_steps_for_classification(numbers: Preprocessing) -> list[Any]:
    """The random steps of ``zoo.transforms(..., train=True)`` for a classifier."""
    if not numbers.crop:
        raise UsageError("the weights do not say which size to cut out of an image", hint="leave train=True out")
    how = {"interpolation": _interpolation(numbers.interpolation), "antialias": numbers.antialias}
    return [v2.RandomResizedCrop(list(numbers.crop), **how), v2.RandomHorizontalFlip()]


def _random_steps_for_segmentation(numbers: Preprocessing) -> list[Any]:
    """The random steps of ``zoo.transforms(..., train=True)`` for segmentation."""
    size = numbers.crop or numbers.resize
    if not size:
        raise UsageError("the weights do not say which size to cut out of an image", hint="leave train=True out")
    how = {"interpolation": _interpolation(numbers.interpolation), "antialias": numbers.antialias}
    fill = {tv_tensors.Mask: _IGNORED, "others": 0}
    crop = v2.RandomCrop(list(size) * (_SIDES // len(size)), pad_if_needed=True, fill=fill)
    return [
        RequireTypedTargets(),
        v2.RandomResize(round(min(size) * 0.5), round(min(size) * 2), **how),
        v2.RandomHorizontalFlip(),
        crop,
    ]


_RANDOM_STEPS: dict[str, Callable[[Preprocessing], list[Any]]] = {
    "classification": _random_steps_for_classification,
    "segmentation": _random_steps_for_segmentation,
    "detection": lambda _: [RequireTypedTargets(), v2.RandomHorizontalFlip()],
}


def _interpolation(name: str) -> Any:
    """What the resize step of transforms resamples by, as torchvision's enum, from its name in a card."""
    known = [mode.value for mode in v2.InterpolationMode]
    if name not in known:
        raise UsageError(
            f"torchvision has no resampling filter {name!r}",
            expected=f"one of {', '.join(known)}",
            cause="the card of these weights names it",
            hint=did_you_mean(close_matches(name, known), "correct the catalogue"),
        )
    return v2.InterpolationMode(name)

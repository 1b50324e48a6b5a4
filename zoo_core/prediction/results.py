"""What a model returned, image by image; and results printed and drawn: names, objects with boxes, label maps."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name torch's own pages give it

from zoo_core.errors import NotSupported, UsageError, ZooError
from zoo_core.images.read import read
from zoo_core.inspect.overlay import save_image
from zoo_core.surgery.head.scores import Outputs

if TYPE_CHECKING:
    from zoo_core.images.loading import Loaded


_GOLDEN = 0.618033988749895
_OPACITY = 0.5
_VISIBLE = 0.5
_ROW = 16
_GREY, _PIL_CHANNELS = 1, (1, 3, 4)


def _colour_of(label: int) -> tuple[int, int, int]:
    """The colour of a class in drawn results, the same every time, far from its neighbours'; black is background.

    Example:
        >>> _colour_of(0)
        (0, 0, 0)
    """
    if label == 0:
        return 0, 0, 0
    red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN % 1, 0.75, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _to_pil(image: Any) -> Image.Image:
    """The image of results of a prediction, to draw them on: RGB, and read upright, as it was predicted."""
    image = read(image, "the image to draw on").image
    if isinstance(image, torch.Tensor):
        values = image if image.dtype == torch.uint8 else (image.float() * 255).round().to(torch.uint8)
        values = values[:3] if values.shape[0] in _PIL_CHANNELS and values.shape[0] > _GREY else values[:1]
        image = Image.fromarray(values.permute(1, 2, 0).squeeze(2).numpy())
    plain: Image.Image = image.convert("RGB")
    return plain


def _as_pil(mask: Tensor) -> Image.Image:
    return Image.fromarray((mask.float() * 255).round().to(torch.uint8).cpu().numpy())


Named = list[tuple[str, float]]
"""Names and probabilities, the most probable first."""


@dataclass(frozen=True, eq=False)
class Detection:
    """One object that a detector sees.

    Attributes:
        name: What it is.
        score: How sure the detector is, from 0 to 1.
        box: Left, top, right and bottom, in pixels of the image.
        mask: ``[H, W]``, how probably each pixel belongs to it; None where the model gives no masks.
        keypoints: ``[K, 3]``: x, y and whether it is visible; None where the model gives none.
    """

    name: str
    score: float
    box: tuple[float, float, float, float]
    mask: Tensor | None = None
    keypoints: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Detections(Sequence[Detection]):
    """The objects in one image, the surest first; each item is a :class:`Detection`.

    Attributes:
        boxes: ``[N, 4]``: left, top, right and bottom, in pixels of the image.
        names: What each object is.
        scores: ``[N]``, how sure the detector is, from 0 to 1.
        labels: ``[N]``, the numbers of the classes; 0 is the background.
        masks: ``[N, H, W]``, or None.
        keypoints: ``[N, K, 3]``, or None.

    Example:
        >>> import torch
        >>> box = torch.tensor([[1.0, 2.0, 30.0, 40.0]])
        >>> Detections(box, names=("cat",), scores=torch.tensor([0.9]), labels=torch.tensor([17]))
        Detections(cat 0.90 at [1, 2, 30, 40])
    """

    boxes: Tensor
    names: tuple[str, ...]
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None
    keypoints: Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Detection: ...
    @overload
    def __getitem__(self, index: slice) -> list[Detection]: ...
    def __getitem__(self, index: int | slice) -> Detection | list[Detection]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        left, top, right, bottom = self.boxes[index].tolist()
        return Detection(
            self.names[index],
            self.scores[index].item(),
            (left, top, right, bottom),
            None if self.masks is None else self.masks[index],
            None if self.keypoints is None else self.keypoints[index],
        )

    def __repr__(self) -> str:
        seen = ", ".join(f"{each.name} {each.score:.2f} at {[round(side) for side in each.box]}" for each in self)
        return f"Detections({seen})"

    def draw(self, image: Any) -> Image.Image:
        """The image, given as to :func:`predict`, with boxes, names, masks and keypoints drawn on it."""
        drawn = _to_pil(image)
        if self.masks is not None:
            for mask, label in zip(self.masks, self.labels.tolist(), strict=True):
                drawn.paste(_colour_of(label), mask=_as_pil((mask > 0.5) * _OPACITY))  # noqa: PLR2004 - more likely than not
        pen = ImageDraw.Draw(drawn)
        for each, label in reversed([*zip(self, self.labels.tolist(), strict=True)]):  # the surest on top
            colour = _colour_of(label)
            pen.rectangle(each.box, outline=colour, width=2)
            text = f"{each.name} {each.score:.2f}"
            place = each.box[0], max(each.box[1] - _ROW, 0)
            pen.rectangle(pen.textbbox(place, text), fill=colour)
            pen.text(place, text, fill="black")
            if each.keypoints is not None:
                for x, y, visible in each.keypoints.tolist():
                    if visible >= _VISIBLE:
                        pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour, outline="black")
        return drawn


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What each pixel of an image belongs to.

    Attributes:
        mask: ``[H, W]``, the number of each pixel's class; 0 is the background.
        names: What the classes are called.

    Example:
        >>> import torch
        >>> found = Segmentation(torch.tensor([[0, 0], [0, 1]]), names=("background", "cat"))
        >>> found, [name for name, share, colour in found.legend]
        (Segmentation(2x2: background 75.0%, cat 25.0%), ['background', 'cat'])
    """

    mask: Tensor
    names: tuple[str, ...]

    @property
    def legend(self) -> list[tuple[str, float, tuple[int, int, int]]]:
        """Name, share of the image and colour of each class in it, the largest first."""
        labels, counts = self.mask.unique(return_counts=True)  # type: ignore[no-untyped-call]  # torch's
        rows = [
            (self.names[label], count / self.mask.numel(), _colour_of(label))
            for label, count in zip(labels.tolist(), counts.tolist(), strict=True)
        ]
        return sorted(rows, key=lambda row: -row[1])

    def __repr__(self) -> str:
        height, width = self.mask.shape
        return f"Segmentation({height}x{width}: {', '.join(f'{name} {share:.1%}' for name, share, _ in self.legend)})"

    def draw(self, image: Any = None) -> Image.Image:
        """The mask in colours with its legend, over the image where one is given as to :func:`predict`."""
        labels = self.mask.to(torch.int64)
        palette = torch.tensor([_colour_of(i) for i in range(len(self.names))], dtype=torch.uint8, device="cpu")
        coloured = Image.fromarray(palette[labels].numpy())
        if image is not None:
            below = _to_pil(image)
            mixed = Image.blend(below, coloured.resize(below.size, Image.Resampling.NEAREST), _OPACITY)
            below.paste(mixed, mask=_as_pil(labels > 0).resize(below.size, Image.Resampling.NEAREST))
            coloured = below
        legend = self.legend
        canvas = Image.new("RGB", (coloured.width, coloured.height + _ROW * len(legend)), "white")
        canvas.paste(coloured)
        pen = ImageDraw.Draw(canvas)
        for i, (name, share, colour) in enumerate(legend):
            top = coloured.height + _ROW * i
            pen.rectangle((2, top + 2, _ROW - 3, top + _ROW - 3), fill=colour, outline="black")
            pen.text((_ROW + 2, top + 1), f"{name} {share:.1%}", fill="black")
        return canvas

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the coloured mask and its legend to an image file.

        Raises:
            ZooError: It cannot be written there.
        """
        return save_image(self.draw(), path)


Result = Named | Detections | Segmentation
"""What one output of a model says of one image."""


def to_record(result: Any) -> Any:
    """A result as JSON can write it; masks are left out.

    Example:
        >>> to_record([("cat", 0.75)])
        [['cat', 0.75]]
    """
    if isinstance(result, dict):
        return {name: to_record(each) for name, each in result.items()}
    if isinstance(result, torch.Tensor):
        return result.tolist()
    if isinstance(result, Segmentation):
        return [{"name": name, "share": share} for name, share, _ in result.legend]
    if isinstance(result, Detections):
        return [_detection(each) for each in result]
    return [[name, probability] for name, probability in result]


def _detection(found: Detection) -> dict[str, Any]:
    """A detected object among the results, as JSON can write it."""
    record: dict[str, Any] = {"name": found.name, "score": found.score, "box": list(found.box)}
    if found.keypoints is not None:
        record["keypoints"] = found.keypoints.tolist()
    return record


def to_line(result: Any) -> str:
    """A result in a line for people.

    Example:
        >>> to_line([("cat", 0.75), ("dog", 0.2)])
        'cat 0.750, dog 0.200'
    """
    if isinstance(result, dict):
        return "; ".join(f"{name}: {to_line(each)}" for name, each in result.items())
    if isinstance(result, torch.Tensor):
        return f"an embedding of {'x'.join(map(str, result.shape))} numbers"
    if isinstance(result, Segmentation):
        return ", ".join(f"{name} {share:.1%}" for name, share, _ in result.legend)
    if isinstance(result, Detections):
        return ", ".join(f"{each.name} {each.score:.2f}" for each in result) or "nothing"
    return ", ".join(f"{name} {probability:.3f}" for name, probability in result) or "nothing above the threshold"


_SCORES, _MAPS = 2, 4
_SURE = 0.5
_EXACT = 1e-3
"""How far a sum of probabilities may be from 1, in half precision."""
_BACKGROUND = "background"
_ONE_HEAD = Outputs((), frozenset(), {}, lambda output: output)


@dataclass(frozen=True)
class Reading:
    """How the results of a prediction, image by image, are read from what a model returned.

    Attributes:
        names: What the classes are called, empty when that is not known; for several heads by the name of each.
        top: How many classes of a classifier.
        threshold: Least probability; None for the default of each kind of model.
        task: What the model does, as on its card; empty when that is not known.
        outputs: Which heads there are, and what they give.
        head: The one that is read; ``""`` for all of them, or the only one.
    """

    names: tuple[str, ...] | Mapping[str, tuple[str, ...]]
    top: int
    threshold: float | None
    task: str = ""
    outputs: Outputs = _ONE_HEAD
    head: str = ""

    def results(self, output: Any, batch: Sequence[Loaded]) -> Iterator[Any]:
        """A result for each image of a batch.

        Args:
            output: The scores in what the model returned, by head where there are several.
            batch: The images.

        Raises:
            NotSupported: The output is of no kind that is known.
            UsageError: There are other numbers of names and classes.
            ValueError: The model gave nan.
        """
        if isinstance(output, Tensor) and output.ndim == 1 and len(output) == len(batch):
            output = output[:, None]  # a binary head whose one logit has no axis of its own
        if isinstance(output, Tensor) and output.ndim == _MAPS and output.shape[2:].numel() == 1:
            output = output.flatten(1)  # scores, as pretrainedmodels' SqueezeNets give them
        if isinstance(output, Mapping) and output:
            heads = self._by_head(list(output))
            inner = {name: list(heads[name].results(each, batch)) for name, each in output.items()}
            for i in range(len(batch)):
                yield {name: each[i] for name, each in inner.items()}
        elif isinstance(output, Tensor) and self.head in self.outputs.embeddings:
            yield from output.float().cpu()
        elif isinstance(output, Tensor) and output.ndim == _SCORES:
            yield from (self._named(*each) for each in zip(output.float().cpu(), self._chances(output), strict=True))
        elif isinstance(output, Tensor) and output.ndim == _MAPS and self.task != "classification":
            yield from (self._segmented(scores, image) for scores, image in zip(output, batch, strict=True))
        elif isinstance(output, Sequence) and all(isinstance(each, Mapping) and "boxes" in each for each in output):
            yield from (self._detected(result, image) for result, image in zip(output, batch, strict=True))
        else:
            shape = f" and the shape {list(output.shape)}" if isinstance(output, Tensor) else ""
            raise NotSupported(
                f"no way is known to read an output of the type {type(output).__name__}{shape} by name",
                expected="scores [N, classes], maps [N, classes, H, W], boxes as torchvision's detectors, or a dict",
                hint="model(zoo.transforms(model)(image)[None]) gives it as it is",
            )

    def _by_head(self, heads: list[str]) -> dict[str, Reading]:
        """How the output of each head is read; what the model knows by one list is of a head that it had before."""
        names = self.names if isinstance(self.names, Mapping) else {}
        scoring = [name for name in heads if name not in self.outputs.embeddings]
        if unknown := [name for name, own in names.items() if name not in scoring and own]:
            is_head = unknown[0] in heads
            raise UsageError(
                f"class_names has names for {unknown[0]!r}, "
                + ("which gives an embedding and no scores" if is_head else "and no head is called so"),
                expected=f"a list for any of {', '.join(scoring)}",
            )
        return {name: replace(self, names=tuple(names.get(name, ())), head=name) for name in heads}

    def _chances(self, scores: Tensor) -> Tensor:
        """Scores as probabilities: of each class by itself where there is a threshold."""
        scores = scores.float().cpu()
        chances = self.outputs.probabilities(scores, self.head, each=self.threshold is not None)
        if scores.ndim != _SCORES or scores.shape[1] == 1 or self.outputs.activations.get(self.head):
            return chances
        # where the model's own last layer is a softmax, its scores are probabilities already
        are_done = [bool((each >= 0).all()) and abs(each.sum().item() - 1) < _EXACT for each in scores]
        return torch.where(torch.tensor(are_done, device="cpu")[:, None], scores, chances)

    def _named(self, scores: Tensor, chances: Tensor) -> Named:
        if scores.isnan().any():
            msg = "the model returns nan: its weights hold nan, or overflow in this dtype"
            raise ValueError(msg)
        names = self._names_for(len(scores))
        if self.threshold is not None or len(scores) == 1:
            order = chances.argsort(descending=True, stable=True)
            chosen = [i for i in order.tolist() if chances[i] >= (self.threshold or 0)]
        else:
            chosen = chances.topk(min(self.top, len(chances))).indices.tolist()
        return [(names[i], chances[i].item()) for i in chosen]

    def _segmented(self, scores: Tensor, image: Loaded) -> Segmentation:
        scores = F.interpolate(scores[None].float(), size=image.size, mode="bilinear", align_corners=False)[0]
        if len(scores) == 1:  # of the one class that there is beside the background
            least = _SURE if self.threshold is None else self.threshold
            mask = (self._chances(scores[None])[0, 0] >= least).to(torch.uint8)
            return Segmentation(mask, self._names_with_background(2))
        labels = scores.argmax(0).cpu()
        return Segmentation(labels, self._names_with_background(len(scores)))

    def _detected(self, found: Mapping[str, Tensor], image: Loaded) -> Detections:
        tensor = image.tensor
        assert tensor is not None  # noqa: S101 - only images with one are run
        least = _SURE if self.threshold is None else self.threshold
        parts = {name: each.detach().cpu() for name, each in found.items()}
        chosen = parts["scores"] >= least
        labels = parts["labels"][chosen]
        names = self._names_with_background(max([*labels.tolist(), len(self._single_head_names) - 1]) + 1)
        # from pixels of what the model saw to those of the image
        y, x = image.size[0] / tensor.shape[-2], image.size[1] / tensor.shape[-1]
        masks, keypoints = parts.get("masks"), parts.get("keypoints")
        return Detections(
            boxes=parts["boxes"][chosen] * torch.tensor([x, y, x, y]),
            names=tuple(names[label] for label in labels.tolist()),
            scores=parts["scores"][chosen],
            labels=labels,
            masks=None if masks is None else _flat_masks(masks[chosen], image.size),
            keypoints=None if keypoints is None else keypoints[chosen] * torch.tensor([x, y, 1.0]),
        )

    @property
    def _single_head_names(self) -> tuple[str, ...]:
        """Class names of the one head of a model, to name its results by."""
        if isinstance(self.names, Mapping):
            raise UsageError("class_names by head, for a model of one head", expected="a string for each class")
        return self.names

    def _names_for(self, count: int) -> tuple[str, ...]:
        if self._single_head_names and len(self._single_head_names) != count:
            raise UsageError(
                f"{len(self._single_head_names)} class names for {count} scores",
                cause="the head was changed by hand" if len(self._single_head_names) > 1 else None,
                hint="class_names=[...], or --class-names on the command line, with one for each score",
            )
        return self._single_head_names or tuple(str(i) for i in range(count))

    def _names_with_background(self, count: int) -> tuple[str, ...]:
        """Names for labels of which 0 is the background, which users often leave out."""
        if len(self._single_head_names) == count - 1:
            return (_BACKGROUND, *self._single_head_names)
        return self._names_for(count) if self._single_head_names else (_BACKGROUND, *(str(i) for i in range(1, count)))


def _flat_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """The masks of a detector's result, ``[N, 1, h, w]``, as ``[N, H, W]``."""
    if masks.shape[-2:] != size and len(masks):
        masks = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
    return masks.reshape(len(masks), *size)


@dataclass(frozen=True)
class Prediction:
    """The result of ``zoo.predict`` for one image, with its name, or the error in its place.

    Attributes:
        name: Its path, or its number.
        result: As :func:`predict` gives it; None where there is an error.
        note: What was done to the image that its user may not expect.
        error: Why there is no result.
        original: The image as it was read, where it was to be kept.
    """

    name: str
    result: Any = None
    note: str = ""
    error: ZooError | None = None
    original: Any = None

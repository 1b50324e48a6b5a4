"""What a model returned for a batch, image by image and by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name torch's own pages give it

from zoo_core.errors import NotSupported, UsageError
from zoo_core.prediction.results import Detections, Named, Segmentation

if TYPE_CHECKING:
    from zoo_core.images.loading import Loaded

_SCORES, _MAPS = 2, 4
_SURE = 0.5
_EXACT = 1e-3
"""How far a sum of probabilities may be from 1, in half precision."""
_BACKGROUND = "background"


@dataclass(frozen=True)
class Reading:
    """How outputs are read.

    Attributes:
        names: What the classes are called, empty when that is not known; for several heads by the name of each.
        top: How many classes of a classifier.
        threshold: Least probability; None for the default of each kind of model.
        task: What the model does, as on its card; empty when that is not known.
    """

    names: tuple[str, ...] | Mapping[str, tuple[str, ...]]
    top: int
    threshold: float | None
    task: str = ""

    def results(self, output: Any, batch: Sequence[Loaded]) -> Iterator[Any]:  # noqa: ANN401 - any model's output
        """A result for each image of a batch.

        Raises:
            NotSupported: The output is of no kind that is known.
            UsageError: There are other numbers of names and classes.
            ValueError: The model gave nan.
        """
        if isinstance(output, Mapping) and isinstance(output.get("out"), Tensor):  # torchvision's segmentation
            output = output["out"]
        if isinstance(output, Tensor) and output.ndim == _MAPS and output.shape[2:].numel() == 1:
            output = output.flatten(1)  # scores, as pretrainedmodels' SqueezeNets give them
        if isinstance(output, Mapping) and output:
            heads = self._by_head(list(output))
            inner = {name: list(heads[name].results(each, batch)) for name, each in output.items()}
            for i in range(len(batch)):
                yield {name: each[i] for name, each in inner.items()}
        elif isinstance(output, Tensor) and output.ndim == _SCORES:
            yield from (self._named(scores) for scores in output.float().cpu())
        elif isinstance(output, Tensor) and output.ndim == _MAPS and self.task != "classification":
            yield from (self._segmented(scores, image) for scores, image in zip(output, batch, strict=True))
        elif isinstance(output, Sequence) and all(isinstance(each, Mapping) and "boxes" in each for each in output):
            yield from (self._detected(result, image) for result, image in zip(output, batch, strict=True))
        else:
            raise NotSupported(
                f"no way is known to read an output of the type {type(output).__name__}{_shape(output)} by name",
                expected="scores [N, classes], maps [N, classes, H, W], boxes as torchvision's detectors, or a dict",
                hint="model(zoo.transforms(model)(image)[None]) gives it as it is",
            )

    def _by_head(self, heads: list[str]) -> dict[str, Reading]:
        """How the output of each head is read; what the model knows by one list is of a head that it had before."""
        names = self.names if isinstance(self.names, Mapping) else {}
        if unknown := [name for name in names if name not in heads]:
            raise UsageError(
                f"class_names has names for {unknown[0]!r}, and no head is called so",
                expected=f"a list for any of {', '.join(heads)}",
            )
        return {name: replace(self, names=tuple(names.get(name, ()))) for name in heads}

    def _named(self, scores: Tensor) -> Named:
        if scores.isnan().any():
            msg = "the model gives nan: its weights hold nan, or overflow in this dtype"
            raise ValueError(msg)
        names = self._names_for(len(scores))
        if self.threshold is not None or len(scores) == 1:  # softmax makes 1 of one logit, whatever it is
            chances = scores.sigmoid()
            order = chances.argsort(descending=True, stable=True)
            chosen = [i for i in order.tolist() if chances[i] >= (self.threshold or 0)]
        else:
            chances = scores if _are_probabilities(scores) else scores.softmax(0)
            chosen = chances.topk(min(self.top, len(chances))).indices.tolist()
        return [(names[i], chances[i].item()) for i in chosen]

    def _segmented(self, scores: Tensor, image: Loaded) -> Segmentation:
        scores = F.interpolate(scores[None].float(), size=image.size, mode="bilinear", align_corners=False)[0]
        if len(scores) == 1:  # of the one class that there is beside the background
            mask = (scores[0].sigmoid() >= (_SURE if self.threshold is None else self.threshold)).to(torch.uint8)
            return Segmentation(mask.cpu(), self._names_with_background(2))
        labels = scores.argmax(0).cpu()
        return Segmentation(labels, self._names_with_background(len(scores)))

    def _detected(self, found: Mapping[str, Tensor], image: Loaded) -> Detections:
        tensor = image.tensor
        assert tensor is not None  # noqa: S101 - only images with one are run
        least = _SURE if self.threshold is None else self.threshold
        parts = {name: each.detach().cpu() for name, each in found.items()}
        chosen = parts["scores"] >= least
        labels = parts["labels"][chosen]
        names = self._names_with_background(max([*labels.tolist(), len(self._names) - 1]) + 1)
        # from pixels of what the model saw to those of the image
        y, x = image.size[0] / tensor.shape[-2], image.size[1] / tensor.shape[-1]
        masks, keypoints = parts.get("masks"), parts.get("keypoints")
        return Detections(
            boxes=parts["boxes"][chosen] * torch.tensor([x, y, x, y]),
            names=tuple(names[label] for label in labels.tolist()),
            scores=parts["scores"][chosen],
            labels=labels,
            masks=None if masks is None else _at_size(masks[chosen], image.size),
            keypoints=None if keypoints is None else keypoints[chosen] * torch.tensor([x, y, 1.0]),
        )

    @property
    def _names(self) -> tuple[str, ...]:
        """The names of the one head that there is."""
        if isinstance(self.names, Mapping):
            raise UsageError("class_names by head, for a model of one head", expected="a string for each class")
        return self.names

    def _names_for(self, count: int) -> tuple[str, ...]:
        if self._names and len(self._names) != count:
            raise UsageError(
                f"{len(self._names)} class names for {count} scores",
                cause="the head was changed by hand" if len(self._names) > 1 else None,
                hint="class_names=[...], or --class-names on the command line, with one for each score",
            )
        return self._names or tuple(str(i) for i in range(count))

    def _names_with_background(self, count: int) -> tuple[str, ...]:
        """Names for labels of which 0 is the background, which users often leave out."""
        if len(self._names) == count - 1:
            return (_BACKGROUND, *self._names)
        return self._names_for(count) if self._names else (_BACKGROUND, *(str(i) for i in range(1, count)))


def _are_probabilities(scores: Tensor) -> bool:
    """Whether a softmax is the model's own last layer, and not to be taken again."""
    return bool((scores >= 0).all()) and abs(scores.sum().item() - 1) < _EXACT


def _at_size(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks ``[N, 1, h, w]`` as ``[N, H, W]``."""
    if masks.shape[-2:] != size and len(masks):
        masks = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
    return masks.reshape(len(masks), *size)


def _shape(output: object) -> str:
    return f" and the shape {list(output.shape)}" if isinstance(output, Tensor) else ""

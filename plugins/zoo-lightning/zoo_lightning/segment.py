"""``FineTuneSegmenter``: a model that gives a class for each pixel, in training, and its evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.classification import MulticlassJaccardIndex

import zoo_core as zoo
from zoo_core import errors
from zoo_lightning.mask_folders import IGNORED
from zoo_lightning.module import METRIC, FineTune
from zoo_lightning.report import WORST, figure, table

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from zoo_lightning.data import ImageData


_AUXILIARY = 0.5
"""What the loss of an auxiliary classifier counts, as in torchvision's reference."""
_MAPS = 4


class FineTuneSegmenter(FineTune):
    """A model of pixels in training: cross-entropy of each pixel, and the mean intersection over union as its score.

    Args:
        model: A model for segmentation from ``zoo.get``, with as many outputs as there are classes.
        **options: Those of :class:`FineTune`, but for mixup and several labels.

    Example:
        >>> import torch, zoo_core as zoo
        >>> module = FineTuneSegmenter(zoo.get("lraspp_mobilenet_v3_large", weights=None, num_classes=3)).eval()
        >>> module(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 3, 64, 64])
    """

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model, **options)
        main = zoo.anatomy(model).main
        classes = main.num_classes if main else 0
        self.score = MulticlassJaccardIndex(classes, ignore_index=IGNORED)

    def forward(self, images: Tensor) -> Tensor:
        """Scores ``[N, classes, H, W]`` of images ``[N, C, H, W]``."""
        return self.maps(images)["out"]

    def maps(self, images: Tensor) -> Mapping[str, Tensor]:
        """The scores as ``"out"``, and those of an auxiliary classifier as ``"aux"``, where there is one."""
        output: Any = self.anatomy.scores_in(self.model(images))
        result = {"out": output} if isinstance(output, Tensor) else output
        if not isinstance(result, dict) or getattr(result.get("out"), "ndim", 0) != _MAPS:
            shape = f" of the shape {list(output.shape)}" if isinstance(output, Tensor) else ""
            raise errors.NotSupported(
                f"a model that gives a {type(output).__name__}{shape} is not trained on masks",
                expected="scores [N, classes, H, W], as lraspp_mobilenet_v3_large, deeplabv3 and fcn give them",
            )
        return result

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of the pixels that have a class; 0 where none has one, such as in a crop of padding."""
        if scores.shape[-2:] != targets.shape[-2:]:
            scores = functional.interpolate(scores, size=targets.shape[-2:], mode="bilinear", align_corners=False)
        if not (targets != IGNORED).any():
            return scores.sum() * 0
        weights: Any = self.class_weights
        return functional.cross_entropy(
            scores, targets, weight=weights, ignore_index=IGNORED, label_smoothing=self.label_smoothing
        )

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """One batch."""
        images, targets = batch
        if len(images) == 1 and any(
            isinstance(each, torch.nn.BatchNorm2d) and each.training for each in self.modules()
        ):
            raise errors.UsageError(
                "batch norm cannot be trained on batches of one image", hint="--batch-size 2, or --freeze backbone"
            )
        maps = self.maps(images)
        loss = self.loss(maps["out"], targets)
        if "aux" in maps:
            loss = loss + _AUXILIARY * self.loss(maps["aux"], targets)
        self.log("train_loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(images))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """One image, measured at its own size."""
        images, targets = batch
        scores = at_size(self(images), targets)
        self.score(scores.argmax(1), targets)
        self.log("val_loss", self.loss(scores, targets), sync_dist=True, batch_size=len(images), prog_bar=True)
        self.log(METRIC, self.score, prog_bar=True, batch_size=len(images))


def at_size(scores: Tensor, targets: Tensor) -> Tensor:
    """The scores of a segmentation in the size of the masks, as ``zoo.predict`` brings them there."""
    return functional.interpolate(scores.float(), size=targets.shape[-2:], mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class SegmentationEvaluation:
    """Evaluation of a fine-tuned segmentation model: confusion of pixels and worst images of the validation split.

    Attributes:
        confusion: ``[true, predicted]`` counts of pixels.
        worst: The images with the least share of right pixels: this share, their number, and the classes seen.
    """

    confusion: Tensor
    worst: tuple[tuple[float, int, Tensor], ...] = field(default=(), repr=False)

    def intersection_over_union(self) -> Tensor:
        """Of each class; nan for one that is neither there nor predicted.

        Example:
            >>> SegmentationEvaluation(torch.tensor([[3, 1], [0, 4]])).intersection_over_union().tolist()
            [0.75, 0.8]
        """
        both = self.confusion.diag().double()
        return both / (self.confusion.sum(0) + self.confusion.sum(1) - both)

    @property
    def metrics(self) -> dict[str, float]:
        """The mean intersection over union, and the share of right pixels."""
        right = float(self.confusion.diag().sum() / self.confusion.sum().clamp(min=1))
        return {"mean_iou": float(self.intersection_over_union().nanmean()), "pixel_accuracy": right}

    @property
    def headline(self) -> tuple[str, float]:
        """The name and the value of what counts most."""
        return "mean_iou", self.metrics["mean_iou"]

    def sections(self, data: ImageData) -> Iterator[str]:
        """What a report says of it."""
        yield "<h2>Intersection over union</h2>"
        values = self.intersection_over_union().tolist()
        pixels = self.confusion.sum(1).tolist()
        rows = [
            (name, f"{value:.3f}", str(count))
            for name, value, count in zip(data.class_names, values, pixels, strict=True)
        ]
        yield table(rows, ("class", "intersection over union", "pixels"))
        yield "<h2>Confusion of pixels</h2>"
        counts = self.confusion.tolist()
        body = [[name, *map(str, row)] for name, row in zip(data.class_names, counts, strict=True)]
        yield table(body, ["true \\ predicted", *data.class_names])
        yield "<h2>Worst images</h2>"
        for share, index, labels in self.worst:
            sample = data.val[index]
            seen = zoo.Segmentation(labels.long(), data.class_names)
            image = seen.draw(zoo.read_image(sample.source))
            yield figure(image, f"{sample.name}: {share:.0%} of the pixels right")


@torch.no_grad()
def evaluate_segmenter(module: FineTuneSegmenter, batches: DataLoader[Any], classes: int) -> SegmentationEvaluation:
    """Evaluate a segmentation model on images; its mode is afterwards as it was."""
    device = next(module.parameters()).device
    was_training = module.training
    module.eval()
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    worst: list[tuple[float, int, Tensor]] = []
    for index, (images, targets) in enumerate(batches):
        labels = at_size(module(images.to(device)).cpu(), targets).argmax(1)
        counted = targets != IGNORED
        pairs = targets[counted] * classes + labels[counted]
        confusion += torch.bincount(pairs, minlength=classes**2).view(classes, classes)
        share = float((labels == targets)[counted].float().mean()) if counted.any() else 1.0
        worst = sorted([*worst, (share, index, labels[0].to(torch.uint8))], key=lambda each: each[0])[:WORST]
    module.train(was_training)
    return SegmentationEvaluation(confusion, tuple(worst))

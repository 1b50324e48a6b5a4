"""``FineTuneSegmenter``: a model that gives a class for each pixel, in training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.classification import MulticlassJaccardIndex

import zoo_core as zoo
from zoo_core import errors
from zoo_lightning.masks import IGNORED
from zoo_lightning.module import METRIC, FineTune

if TYPE_CHECKING:
    from collections.abc import Mapping


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

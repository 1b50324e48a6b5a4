"""``FineTuneDetector``: torchvision's detectors in training, on boxes, masks and keypoints."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models import detection

from zoo_core import errors
from zoo_lightning.datasets import parts_of
from zoo_lightning.module import METRIC, FineTune

if TYPE_CHECKING:
    from collections.abc import Sequence

    Record = dict[str, Tensor]
    Records = Sequence[Record]

DETECTORS = (detection.FasterRCNN, detection.RetinaNet, detection.FCOS, detection.ssd.SSD)
SURE = 0.5
"""The score from which on something counts as seen."""


class FineTuneDetector(FineTune):
    """A detector in training; its loss is its own, and its score the mean average precision.

    Args:
        model: A detector of torchvision from ``zoo.get``, with a class for the background, the first.
        **options: Those of :class:`FineTune` that do not speak of classes of images.

    Raises:
        NotSupported: The model is of another kind.

    Example:
        >>> import zoo_core as zoo
        >>> model = zoo.get("ssdlite320_mobilenet_v3_large", weights=None, num_classes=3)
        >>> FineTuneDetector(model, lr=1e-3).kinds
        ('bbox',)
    """

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model, **options)
        if not isinstance(model, DETECTORS):
            raise errors.NotSupported(
                f"a {type(model).__name__} is not trained on boxes",
                expected="a detector of torchvision, such as fasterrcnn_resnet50_fpn, retinanet, fcos or ssdlite",
            )
        self.kinds: Any = ("bbox",)
        if "masks" in parts_of(model):
            self.kinds = ("bbox", "segm")
        self.score = MeanAveragePrecision(iou_type=self.kinds)

    def forward(self, images: Any) -> Any:
        """What the detector sees in images ``[C, H, W]`` of any size."""
        return self.model(list(images))

    def training_step(self, batch: Any, _: int) -> Tensor:
        """One batch."""
        images, targets = batch
        losses: dict[str, Tensor] = self.model(images, targets)
        loss = torch.stack([*losses.values()]).sum()
        if not loss.isfinite():
            raise errors.ZooError(
                "the loss is not finite",
                got=", ".join(f"{name} {float(value):.3g}" for name, value in losses.items()),
                hint="a lower learning rate, such as --lr 0.0001",
            )
        self.log("train_loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(images))
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        """One batch."""
        images, targets = batch
        update(self.score, self(images), targets)

    def on_validation_epoch_end(self) -> None:
        """The score: mean average precision of masks where the model gives them, of boxes otherwise."""
        value = main_score(self._computed())
        self.score.reset()
        self.log(METRIC, value, prog_bar=True)

    def on_test_epoch_end(self) -> None:
        """The score, as of a validation."""
        self.on_validation_epoch_end()

    def _computed(self) -> dict[str, Tensor]:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
            result: dict[str, Tensor] = self.score.compute()
        return result


def update(score: MeanAveragePrecision, outputs: Records, targets: Records) -> None:
    """Count a batch of detections in: masks are probabilities in the outputs, and yes or no in the score."""
    found = []
    for output in outputs:
        record = {name: output[name] for name in ("boxes", "scores", "labels")}
        if "masks" in output:
            record["masks"] = output["masks"][:, 0] >= SURE
        found.append(record)
    used = ("boxes", "labels", "iscrowd", "masks")
    truth = [{name: value for name, value in each.items() if name in used} for each in targets]
    for each in truth:
        if "masks" in each:
            each["masks"] = each["masks"].bool()
    score.update(found, truth)


def main_score(computed: dict[str, Tensor]) -> Tensor:
    """The score of a detector: of masks where there are some; boxes otherwise; 0 where nothing could be found."""
    return computed.get("segm_map", computed.get("map", computed.get("bbox_map", torch.zeros(())))).clamp(min=0)

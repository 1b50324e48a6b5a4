"""``FineTuneDetector``: torchvision's detectors in training, on boxes, masks and keypoints, and their evaluation."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models import detection

import zoo_core as zoo
from zoo_core import errors
from zoo_lightning.data import ImageData, shortened
from zoo_lightning.module import METRIC, FineTune
from zoo_lightning.report import WORST, figure, table

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

Record = dict[str, Tensor]
Records = Sequence[Record]

DETECTORS = (detection.FasterRCNN, detection.RetinaNet, detection.FCOS, detection.ssd.SSD)
SURE = 0.5
"""The score from which on something counts as seen."""
_PEOPLE = 17
_SPREAD = 0.1
"""How far apart two annotators put a keypoint, as a part of the object's size, where it was not measured."""


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
        add_to_score(self.score, self(images), targets)

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


def add_to_score(score: MeanAveragePrecision, outputs: Records, targets: Records) -> None:
    """Add what a detector saw in a batch to its score: masks become yes or no, which are probabilities in outputs."""
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


def parts_of(model: nn.Module) -> frozenset[str]:
    """What a detector learns beside boxes, and its data has to have: ``"masks"``, ``"keypoints"``."""
    found = zoo.anatomy(model)
    has = {"masks": "mask" in {site.role for site in found.heads}, "keypoints": found.keypoints is not None}
    return frozenset(name for name, there in has.items() if there)


def require_masks(data: ImageData) -> None:
    """Refuse data for a detector with masks where some of its objects have none."""
    samples: Any = (*data.train, *data.val)
    without = [sample.name for sample in samples if any(each.shape is None for each in sample.objects)]
    if without:
        raise errors.UsageError(
            f"{len(without)} of {len(samples)} images have objects without a mask, such as {without[0]}",
            cause=shortened(data.notes) or None,
            hint="a detector without masks, such as fasterrcnn_resnet50_fpn, takes boxes alone",
        )


@dataclass(frozen=True)
class DetectionEvaluation:
    """Evaluation of a trained detector: what it detects in the validation images.

    Attributes:
        metrics: Mean average precision by name, from 0 to 1.
        by_class: Of each class that is in the validation images.
        outputs: What it sees in each image.
        targets: What is there.
    """

    metrics: dict[str, float]
    by_class: dict[int, float]
    outputs: list[dict[str, Tensor]] = field(repr=False)
    targets: list[dict[str, Tensor]] = field(repr=False)

    @property
    def headline(self) -> tuple[str, float]:
        """The name and the value of what counts most."""
        name = next(name for name in ("keypoint_map", "segm_map", "map") if name in self.metrics)
        return name, self.metrics[name]

    def sections(self, data: ImageData) -> Iterator[str]:
        """What a report says of it."""
        yield "<h2>Average precision</h2>"
        yield table([(name, f"{value:.3f}") for name, value in self.metrics.items()])
        rows = [(data.class_names[label], f"{value:.3f}") for label, value in sorted(self.by_class.items())]
        yield table(rows, ("class", "average precision"))
        yield "<h2>Most missed</h2>"
        for index in self._most_missed():
            sample, seen = data.val[index], self.outputs[index]
            sure = int((seen["scores"] >= SURE).sum())
            caption = f"{sample.name}: {len(sample.labels)} there, {sure} seen"
            yield figure(drawn(zoo.read_image(sample.source), seen, data.class_names), caption)

    def _most_missed(self) -> list[int]:
        """The images with the most objects more than are seen, or fewer."""
        apart = [
            abs(len(target["labels"]) - int((output["scores"] >= SURE).sum()))
            for output, target in zip(self.outputs, self.targets, strict=True)
        ]
        return sorted(range(len(apart)), key=lambda index: -apart[index])[:WORST]


def drawn(image: Any, output: dict[str, Tensor], names: Sequence[str]) -> Any:
    """Draw on a validation image what the detector that is evaluated surely sees on it."""
    chosen = output["scores"] >= SURE
    labels = output["labels"][chosen]
    seen = zoo.Detections(output["boxes"][chosen], tuple(names[i] for i in labels), output["scores"][chosen], labels)
    return seen.draw(image)


@torch.no_grad()
def evaluate_detector(module: FineTuneDetector, batches: DataLoader[Any]) -> DetectionEvaluation:
    """Evaluate a fine-tuned detector on images by mean average precision; its mode is afterwards as it was."""
    device = next(module.parameters()).device
    was_training = module.training
    module.eval()
    score = MeanAveragePrecision(iou_type=module.kinds, class_metrics=True)
    outputs: list[Record] = []
    targets: list[Record] = []
    for images, truth in batches:
        seen = [{name: value.cpu() for name, value in each.items()} for each in module([i.to(device) for i in images])]
        add_to_score(score, seen, truth)
        outputs += [{name: value for name, value in each.items() if name != "masks"} for each in seen]
        targets += [{name: value for name, value in each.items() if name != "masks"} for each in truth]
    module.train(was_training)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        computed = score.compute()
    names = ("map", "map_50", "map_75", "bbox_map", "bbox_map_50", "segm_map", "segm_map_50")
    metrics = {name.removeprefix("bbox_"): max(0.0, float(computed[name])) for name in names if name in computed}
    if any("keypoints" in each for each in targets):
        metrics["keypoint_map"] = keypoint_map(outputs, targets)
    prefix = "segm_" if "segm" in module.kinds else ""
    each_class = computed[f"{prefix}map_per_class"].reshape(-1).tolist()
    by_class = dict(zip(computed["classes"].reshape(-1).tolist(), each_class, strict=False))
    return DetectionEvaluation(
        metrics, {name: value for name, value in by_class.items() if value >= 0}, outputs, targets
    )


def keypoint_map(outputs: Records, targets: Records) -> float:
    """The precision of a keypoint detector, as COCO measures it; one spread for all unless there are its 17 points."""
    import numpy as np
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth: list[dict[str, Any]] = []
    seen: list[dict[str, Any]] = []
    for number, (output, target) in enumerate(zip(outputs, targets, strict=True), start=1):
        crowds = target.get("iscrowd", torch.zeros(len(target["labels"])))
        for index, crowd in enumerate(crowds):
            record = _record(number, target, index, len(truth) + 1)
            visible = int((target["keypoints"][index][:, 2] > 0).sum())
            truth.append({**record, "num_keypoints": visible, "iscrowd": int(crowd), "ignore": int(not visible)})
        for index, score in enumerate(output["scores"]):
            seen.append({**_record(number, output, index, len(seen) + 1), "score": float(score)})
    if not seen:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        annotated, results = COCO(), COCO()
        labels = sorted({each["category_id"] for each in (*truth, *seen)})
        for coco, annotations in ((annotated, truth), (results, seen)):
            coco.dataset = {
                "images": [{"id": number} for number in range(1, len(targets) + 1)],
                "categories": [{"id": label} for label in labels],
                "annotations": annotations,
            }
            coco.createIndex()
        evaluation = COCOeval(annotated, results, "keypoints")
        count = len(truth[0]["keypoints"]) // 3
        if count != _PEOPLE:
            evaluation.params.kpt_oks_sigmas = np.full(count, _SPREAD)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return max(0.0, float(evaluation.stats[0]))


def _record(image: int, found: dict[str, Tensor], index: int, number: int) -> dict[str, Any]:
    """One detected or true object, as the evaluation of a keypoint detector takes it."""
    left, top, right, bottom = found["boxes"][index].tolist()
    return {
        "id": number,
        "image_id": image,
        "category_id": int(found["labels"][index]),
        "bbox": [left, top, right - left, bottom - top],
        "area": (right - left) * (bottom - top),
        "keypoints": found["keypoints"][index].flatten().tolist(),
    }

"""Evaluation of a trained classifier, detector or segmentation model on the validation images, for the report."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

import zoo_core as zoo
from zoo_lightning.detect import SURE, update
from zoo_lightning.masks import IGNORED
from zoo_lightning.report import figure, table
from zoo_lightning.segment import at_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch.utils.data import DataLoader

    from zoo_lightning.data import ImageData
    from zoo_lightning.detect import FineTuneDetector, Record, Records
    from zoo_lightning.module import FineTune
    from zoo_lightning.segment import FineTuneSegmenter

_BINS, _MISTAKES = 10, 12
_WIDEST, _PAIRS = 30, 50
"""Classes of the largest matrix of confusions that can be read, and the pairs shown of more."""
_EVEN = 0.5
_WORST, _PEOPLE = 8, 17
_SPREAD = 0.1
"""How far apart two annotators put a keypoint, as a part of the object's size, where it was not measured."""


def _confusion_table(counts: Tensor, names: Sequence[str]) -> str:
    """Table of how often a class was taken for another; of many classes only the pairs that were, most often first."""
    if len(names) <= _WIDEST:
        rows = [[name, *map(str, row)] for name, row in zip(names, counts.tolist(), strict=True)]
        return table(rows, ["true \\ predicted", *names])
    wrong = counts.clone().fill_diagonal_(0).flatten()
    order = [place for place in wrong.argsort(descending=True, stable=True)[:_PAIRS].tolist() if wrong[place]]
    pairs = [(names[place // len(names)], names[place % len(names)], str(wrong[place].item())) for place in order]
    return table(pairs, ("true", "predicted", "images")) if pairs else "<p>None was taken for another.</p>"


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of a trained classifier: its predictions for the validation images.

    Attributes:
        probabilities: ``[N, classes]``.
        targets: ``[N]`` class indices; ``[N, classes]`` of zeros and ones where an image has several classes.
    """

    probabilities: Tensor
    targets: Tensor

    @property
    def multi_label(self) -> bool:
        """Whether an image has any number of classes."""
        return self.targets.dim() > 1

    @property
    def accuracy(self) -> float:
        """Share of images whose most probable class is right; of all decisions at 0.5 where there are several.

        Example:
            >>> Evaluation(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1])).accuracy
            0.5
        """
        if self.multi_label:
            return float(((self.probabilities >= _EVEN) == self.targets.bool()).float().mean())
        return float((self.probabilities.argmax(1) == self.targets).float().mean())

    def confusion(self) -> Tensor:
        """``[true, predicted]`` counts of classes.

        Example:
            >>> Evaluation(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1])).confusion().tolist()
            [[1, 0], [1, 0]]
        """
        classes = self.probabilities.shape[1]
        return torch.bincount(self.targets * classes + self.probabilities.argmax(1), minlength=classes**2).view(
            classes, classes
        )

    def calibration(self) -> list[tuple[float, float, int]]:
        """Mean confidence, accuracy and number of predictions, in bins of confidence that hold any.

        Example:
            >>> Evaluation(torch.tensor([[0.75, 0.25]]), torch.tensor([0])).calibration()
            [(0.75, 1.0, 1)]
        """
        confidence, predicted = self.probabilities.max(1)
        right = (predicted == self.targets).float()
        bins = (confidence * _BINS).long().clamp(max=_BINS - 1)
        return [
            (float(confidence[bins == each].mean()), float(right[bins == each].mean()), int((bins == each).sum()))
            for each in sorted(set(bins.tolist()))
        ]

    def expected_calibration_error(self) -> float:
        """The mean distance of confidence and accuracy (https://arxiv.org/abs/1706.04599)."""
        rows = self.calibration()
        return sum(abs(confidence - right) * count for confidence, right, count in rows) / len(self.targets)

    @property
    def metrics(self) -> dict[str, float]:
        """The accuracy."""
        return {"accuracy": self.accuracy}

    @property
    def headline(self) -> tuple[str, float]:
        """The name and the value of what counts most."""
        return "accuracy", self.accuracy

    def sections(self, data: ImageData) -> Iterator[str]:
        """What a report says of it."""
        if not self.multi_label:
            yield "<h2>Confusion</h2>"
            yield _confusion_table(self.confusion(), data.class_names)
            yield "<h2>Calibration</h2>"
            yield f"<p>Expected calibration error {self.expected_calibration_error():.3f}.</p>"
            bins = [(f"{sure:.2f}", f"{right:.2f}", str(count)) for sure, right, count in self.calibration()]
            yield table(bins, ("confidence", "accuracy", "images"))
        yield "<h2>Worst mistakes</h2>"
        worst = self.mistakes(_MISTAKES)
        if not worst:
            yield "<p>None.</p>"
        for index in worst:
            sample = data.val[index]
            truth = ", ".join(data.class_names[label] for label in sample.labels)
            row = self.probabilities[index]
            chosen = torch.nonzero(row >= _EVEN).flatten().tolist() if self.multi_label else [int(row.argmax())]
            guess = ", ".join(f"{data.class_names[each]} ({row[each]:.0%})" for each in chosen)
            yield figure(sample.image(), f"{sample.name}: {truth or 'nothing'}, taken for {guess or 'nothing'}")

    def mistakes(self, count: int) -> list[int]:
        """The images of a wrong class whose own one is least probable, worst first, as indices.

        Where an image has several, those with a wrong decision, by the probability of all decisions being right.

        Example:
            >>> Evaluation(torch.tensor([[0.6, 0.1], [0.9, 0.1]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]])).mistakes(2)
            [0, 1]
        """
        if self.multi_label:
            own = torch.where(self.targets.bool(), self.probabilities, 1 - self.probabilities)
            own, wrong = (
                own.clamp(min=1e-12).log().sum(1),
                ((self.probabilities >= _EVEN) != self.targets.bool()).any(1),
            )
        else:
            own = self.probabilities.gather(1, self.targets[:, None])[:, 0]
            wrong = self.probabilities.argmax(1) != self.targets
        return [index for index in own.argsort().tolist() if wrong[index]][:count]


@torch.no_grad()
def evaluate(module: FineTune, batches: DataLoader[Any]) -> Evaluation:
    """Evaluate a trained classifier on images; its mode is afterwards as it was.

    Args:
        module: Whose model is run.
        batches: Of images and targets.
    """
    device = next(module.parameters()).device
    was_training = module.training
    module.eval()
    scores, targets = zip(*((module(images.to(device)).float().cpu(), each) for images, each in batches), strict=True)
    module.train(was_training)
    logits = torch.cat(scores)
    return Evaluation(logits.sigmoid() if module.multi_label else logits.softmax(1), torch.cat(targets))


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
        return sorted(range(len(apart)), key=lambda index: -apart[index])[:_WORST]


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
        update(score, seen, truth)
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
        worst = sorted([*worst, (share, index, labels[0].to(torch.uint8))], key=lambda each: each[0])[:_WORST]
    module.train(was_training)
    return SegmentationEvaluation(confusion, tuple(worst))

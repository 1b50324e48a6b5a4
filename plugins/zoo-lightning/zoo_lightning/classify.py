"""Evaluation of a trained classifier on the validation images, for the report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo_lightning.report import confusion_table, figure, table

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from zoo_lightning.data import ImageData
    from zoo_lightning.module import FineTune

_BINS, _MISTAKES = 10, 12
_EVEN = 0.5


@dataclass(frozen=True)
class ClassifierEvaluation:
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
            >>> ClassifierEvaluation(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1])).accuracy
            0.5
        """
        if self.multi_label:
            return float(((self.probabilities >= _EVEN) == self.targets.bool()).float().mean())
        return float((self.probabilities.argmax(1) == self.targets).float().mean())

    def confusion(self) -> Tensor:
        """``[true, predicted]`` counts of classes.

        Example:
            >>> ClassifierEvaluation(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1])).confusion().tolist()
            [[1, 0], [1, 0]]
        """
        classes = self.probabilities.shape[1]
        return torch.bincount(self.targets * classes + self.probabilities.argmax(1), minlength=classes**2).view(
            classes, classes
        )

    def calibration(self) -> list[tuple[float, float, int]]:
        """Mean confidence, accuracy and number of predictions, in bins of confidence that hold any.

        Example:
            >>> ClassifierEvaluation(torch.tensor([[0.75, 0.25]]), torch.tensor([0])).calibration()
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
            yield confusion_table(self.confusion(), data.class_names)
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
            >>> probabilities, targets = [[0.6, 0.1], [0.9, 0.1]], [[0.0, 1.0], [0.0, 0.0]]
            >>> ClassifierEvaluation(torch.tensor(probabilities), torch.tensor(targets)).mistakes(2)
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
def evaluate_classifier(module: FineTune, batches: DataLoader[Any]) -> ClassifierEvaluation:
    """Evaluate a fine-tuned classifier on the validation images; its mode is afterwards as it was.

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
    return ClassifierEvaluation(logits.sigmoid() if module.multi_label else logits.softmax(1), torch.cat(targets))

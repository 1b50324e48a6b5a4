"""What a trained model makes of the images it was validated with: confusions, calibration, the worst mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from zoo_lightning.module import FineTune

_BINS = 10


@dataclass(frozen=True)
class Evaluation:
    """Predictions on the validation images.

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
            return float(((self.probabilities >= 0.5) == self.targets.bool()).float().mean())  # noqa: PLR2004 - even odds
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

    def mistakes(self, count: int) -> list[int]:
        """The images whose own class is least probable, worst first, as indices."""
        if self.multi_label:
            losses = -(self.probabilities.clamp(min=1e-12).log() * self.targets).sum(1)
            return losses.argsort(descending=True)[:count].tolist()
        own = self.probabilities.gather(1, self.targets[:, None])[:, 0]
        wrong = self.probabilities.argmax(1) != self.targets
        return [index for index in own.argsort().tolist() if wrong[index]][:count]


@torch.no_grad()
def evaluate(module: FineTune, dataset: Dataset[Any], *, batch_size: int, workers: int = 0) -> Evaluation:
    """Run a model on images; its mode is afterwards as it was.

    Args:
        module: Whose model is run.
        dataset: Images and targets.
        batch_size: Images of a batch.
        workers: Processes that decode images.
    """
    batches: DataLoader[Any] = DataLoader(dataset, batch_size=batch_size, num_workers=workers)
    device = next(module.parameters()).device
    was_training = module.training
    module.eval()
    scores, targets = zip(*((module(images.to(device)).float().cpu(), each) for images, each in batches), strict=True)
    module.train(was_training)
    logits = torch.cat(scores)
    return Evaluation(logits.sigmoid() if module.multi_label else logits.softmax(1), torch.cat(targets))

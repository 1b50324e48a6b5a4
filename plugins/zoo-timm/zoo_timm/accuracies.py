"""Accuracy on ImageNet-1K as timm's repository publishes it, which its package does not ship.

``accuracies.csv`` is what ``python -m zoo_timm.accuracies results-imagenet.csv`` keeps of that file of the repository:
name, image size, and top-1 and top-5 accuracy in percent. Its first line says where it is from, and its licence.
"""

from __future__ import annotations

import csv
import sys
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("accuracies.csv")
SOURCE = (
    "results/results-imagenet.csv of https://github.com/huggingface/pytorch-image-models at commit aa4b5850, Apache-2.0"
)
_NAMES = {"top1": "ImageNet-1K acc@1", "top5": "ImageNet-1K acc@5"}


def metrics_of(name: str, size: int) -> dict[str, float]:
    """The accuracies that timm published for weights at an image size; empty where there are none.

    Args:
        name: Of the architecture and the tag, as in ``"resnet50.a1_in1k"``.
        size: Of the image that the model sees, in pixels.

    Example:
        >>> metrics_of("resnet50.a1_in1k", 224)
        {'ImageNet-1K acc@1': 80.382, 'ImageNet-1K acc@5': 94.598}
    """
    return _published().get((name, size), {})


@cache
def _published() -> dict[tuple[str, int], dict[str, float]]:
    """The accuracies that timm published, by weights and image size."""
    with FILE.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {
            (row["model"], int(row["img_size"])): {name: float(row[column]) for column, name in _NAMES.items()}
            for row in rows
        }


def main(source: str) -> None:
    """Write ``accuracies.csv`` from a copy of the repository's file."""
    with Path(source).open(encoding="utf-8", newline="") as file:
        rows = sorted(
            (row["model"], row["img_size"], *(row[column] for column in _NAMES)) for row in csv.DictReader(file)
        )
    with FILE.open("w", encoding="utf-8", newline="") as file:
        file.write(f"# {SOURCE}\n")
        csv.writer(file, lineterminator="\n").writerows([("model", "img_size", *_NAMES), *rows])


if __name__ == "__main__":
    main(sys.argv[1])

"""Real images to train on: scikit-learn's handwritten digits, written as files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits


def write_digits(folder, classes=3, each=8, *, start=0):
    """The first images of some digits as PNG files, one folder a class."""
    digits = load_digits()
    for digit in range(classes):
        (folder / str(digit)).mkdir(parents=True, exist_ok=True)
        for number, index in enumerate(np.flatnonzero(digits.target == digit)[start : start + each]):
            pixels = Image.fromarray((digits.images[index] * 15).astype("uint8"))
            pixels.resize((32, 32)).save(folder / str(digit) / f"{number:03}.png")
    return folder


@pytest.fixture(name="write_digits")
def _write_digits():
    """The function above, for tests that want other numbers of images."""
    return write_digits


@pytest.fixture
def digits(tmp_path):
    """24 images of three digits."""
    return write_digits(tmp_path / "digits")


def write_coco(folder, count=8, *, keypoints=0):
    """Squares and bars of two colors with their boxes, outlines and keypoints; the category ids have gaps."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    content = {"images": [], "annotations": [], "categories": []}
    for number, name in ((3, "square"), (7, "bar")):
        points = {"keypoints": ["a", "b", "c"][:keypoints]} if keypoints else {}
        content["categories"].append({"id": number, "name": name, **points})
    for image in range(count):
        pixels = rng.integers(0, 60, (48, 64, 3), dtype=np.uint8)
        content["images"].append({"id": 100 + image, "file_name": f"{image:03}.png", "height": 48, "width": 64})
        for category, (width, height), color in ((3, (20, 20), (255, 40, 40)), (7, (30, 8), (40, 255, 40))):
            x, y = int(rng.integers(0, 64 - width)), int(rng.integers(0, 48 - height))
            pixels[y : y + height, x : x + width] = color
            corners = [[x, y, x + width, y, x + width, y + height, x, y + height]]
            record = {"id": 1 + len(content["annotations"]), "image_id": 100 + image, "category_id": category}
            record |= {"bbox": [x, y, width, height], "segmentation": corners, "iscrowd": 0}
            if keypoints:
                record["keypoints"] = [x, y, 2, x + width, y, 2, x, y + height, 2][: 3 * keypoints]
            content["annotations"].append(record)
        Image.fromarray(pixels).save(folder / "images" / f"{image:03}.png")
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def coco(tmp_path):
    """Eight images of two objects each, in COCO's format."""
    return write_coco(tmp_path / "coco", keypoints=3)


def write_masks(folder, values=(0, 1, 2), count=6, *, mode="L"):
    """Squares of two colors, and masks with the class of each pixel."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        pixels = rng.integers(0, 60, (48, 64, 3), dtype=np.uint8)
        classes = np.full((48, 64), values[0], np.uint8)
        for value, color in zip(values[1:], ((255, 40, 40), (40, 255, 40)), strict=False):
            x, y = rng.integers(0, 44), rng.integers(0, 28)
            pixels[y : y + 20, x : x + 20], classes[y : y + 20, x : x + 20] = color, value
        Image.fromarray(pixels).save(folder / "images" / f"{number:03}.png")
        mask = Image.fromarray(classes)
        if mode == "P":
            mask.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, *[7] * 759])
        (mask.convert(mode) if mode == "RGB" else mask).save(folder / "masks" / f"{number:03}.png")
    return folder


@pytest.fixture(name="write_masks")
def _write_masks():
    """The function above."""
    return write_masks

"""Real images to train on: scikit-learn's handwritten digits, written as files."""

from __future__ import annotations

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

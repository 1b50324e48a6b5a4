"""What the conformance kit is expected to find, and why it is so."""

from __future__ import annotations

EXPECTED = {
    "builds:quantized_googlenet": "torchvision counts its parameters without the two auxiliary heads, which only train",
    "stages:ssd300_vgg16": (
        "its last stages pad nothing and cut the border off, and it makes 300 pixels a side of every image: no "
        "larger one shows that they take steps of 64"
    ),
}

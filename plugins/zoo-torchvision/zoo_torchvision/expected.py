"""What the conformance kit is expected to find, and why it is so."""

from __future__ import annotations

EXPECTED = {
    "builds:quantized_googlenet": "torchvision counts its parameters without the two auxiliary heads, which only train",
}

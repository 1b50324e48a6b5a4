"""What the conformance kit is expected to find, and why it is so."""

from __future__ import annotations

EXPECTED = {
    "builds:*googlenet": "torchvision counts its parameters without the two auxiliary heads, which only train",
    "builds:vit_h_14": "torchvision counts the position embeddings for pictures of 518 pixels, as its weights have them",
}

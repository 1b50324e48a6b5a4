"""What the conformance kit is expected to find, and why it is so."""

from __future__ import annotations

EXPECTED = {
    "swap:squeezenet*": "the library's scores are [N, num_classes, 1, 1], and so are ours",
}

"""Bytes of a row of embeddings: ``python -m benchmarks.rows`` writes 20,480 of them as ``zoo embed --out`` does.

The paths are those of files that are there, in 100 folders, and each file has a time of its own. The numbers are
random: what a model gives has as many digits, which no compression makes smaller.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from zoo_core.embedding.parquet import Row, write_missing
from zoo_core.images.loading import Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def bytes_of_row(width: int, rows: int, folder: Path) -> float:
    """Bytes of a row of ``width`` numbers in a Parquet file of so many rows, whole."""
    images, out = folder / "images", folder / f"{width}.parquet"
    sources = []
    for number in range(rows):
        path = images / f"n{number % 100:08}" / f"n{number % 100:08}_{number * 7919 % 1_000_003}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, ns=(number, 10**18 + number))
        sources.append((Source(str(path), path), path.parent.name))
    generator = torch.Generator().manual_seed(0)

    def run(given: Iterable[tuple[Source, str]]) -> Iterator[Row]:
        for source, label in given:
            yield Row(source.name, torch.rand(width, generator=generator), label, (375, 500))

    assert not [*write_missing(out, {"backbone": "0" * 64}, sources, run)]
    return out.stat().st_size / rows


def main() -> None:
    """Print the bytes of a row for the widths of a resnet18 and of a resnet50."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_480)
    options = parser.parse_args()
    for width in (512, 2048):
        with tempfile.TemporaryDirectory() as folder:
            found = bytes_of_row(width, options.rows, Path(folder))
        print(f"{width} numbers: {found:,.1f} bytes a row, of which {found - 4 * width:,.1f} are not numbers")


if __name__ == "__main__":
    main()

"""From a model to a folder or file on disk: zoo.save beside what people write by hand.

Run as ``uv run --group bench python -m benchmarks.saving``. ``zoo.save`` writes tensors and a recipe, hashes them, and
reads what it wrote; by hand, ``torch.save`` and safetensors write the state dict alone. CPU seconds on one thread.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Figures, Row, in_turns, measured, metered, report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

NAMES = ("resnet50", "vit_b_16")


def with_zoo(model: nn.Module) -> Figures:
    """A folder of two files, with what it takes to load it elsewhere."""
    import zoo_core as zoo

    with tempfile.TemporaryDirectory() as folder:
        return metered(lambda: zoo.save(model, Path(folder, "model")))[1]


def with_torch(model: nn.Module) -> Figures:
    """The state dict alone, as a pickle."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        return metered(lambda: torch.save(model.state_dict(), Path(folder, "model.pth")))[1]


def with_safetensors(model: nn.Module) -> Figures:
    """The state dict alone, as safetensors."""
    from safetensors.torch import save_model

    with tempfile.TemporaryDirectory() as folder:
        return metered(lambda: save_model(model, str(Path(folder, "model.safetensors"))))[1]


def works(rounds: int) -> Iterator[tuple[str, Callable[[], Row]]]:
    """A row a model."""
    import torch

    import zoo_core as zoo
    import zoo_core.recipe.save

    torch.set_num_threads(1)
    for name in NAMES:
        model = zoo.get(name, weights=None, num_classes=9)
        sides = {
            "zoo.save": partial(with_zoo, model),
            "torch.save": partial(with_torch, model),
            "safetensors": partial(with_safetensors, model),
        }
        yield f"save {name}", partial(in_turns, "saving", f"save {name}", sides, rounds)


def main() -> None:
    """Print a table, and write the figures to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report(measured(works(options.rounds)), options.json)


if __name__ == "__main__":
    main()

"""What zoo adds around building and loading a resnet50: the name, the ref, the anatomy, the new head, the receipt.

Run as ``uv run python -m benchmarks.around``. The bare way does by hand what costs most in ``zoo.get``, and the same
way: the constructor without values, the mapped file, its tensors assigned, a new layer. The check of the cached file is
what vouches for its bytes without hashing them again: its ref is read and compared with what the file system says.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torchvision

from benchmarks.harness import Figures, Row, forked, in_turns, measured, metered, report
from benchmarks.load import Case, file_of, publish, with_zoo

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

RESNET50 = Case("torchvision", "resnet50")
_CASE = "resnet50 with a new head"
_CHECKS = 100


def by_hand(path: Path) -> nn.Module:
    """The same model, with nothing around it."""
    from zoo_core.build.skip_init import without_values
    from zoo_core.weights import read_state_dict

    with without_values():
        model = torchvision.models.resnet50()
    model.load_state_dict(read_state_dict(path), assign=True)
    model.fc = torch.nn.Linear(2048, 9)
    return model.train()


def once(work: Callable[[], object]) -> Figures:
    """CPU seconds of one call."""
    gc.collect()
    return metered(work)[1]


def check(cache: Path) -> Figures:
    """CPU seconds of one check of the cached file."""
    from zoo_core.weights.cache.refs import read_ref
    from zoo_core.weights.cache.store import Cache

    (path,) = (cache / "refs" / "torchvision").iterdir()
    held = Cache(cache)

    def checks() -> None:
        for _ in range(_CHECKS):
            ref = read_ref(path)
            assert ref
            assert held.prove(held.place(ref.sha256, ref.file), ref.sha256, ref.stamp) == ref.stamp

    return {"cpu s": once(checks)["cpu s"] / _CHECKS}


def measure(rounds: int) -> Row:
    """``zoo.get``, the bare way, and the check of the file alone."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.update(ZOO_CACHE=str(folder / "cache"), ZOO_CONFIG="0")
        forked(partial(publish, RESNET50, folder))
        path = file_of(RESNET50, folder)
        load = with_zoo(RESNET50, folder, hashlib.file_digest(path.open("rb"), "sha256").hexdigest())
        forked(partial(once, load))  # the first use, which fetches
        sides = {
            "zoo": partial(once, load),
            "by hand": partial(once, partial(by_hand, path)),
            "check of the file": partial(check, folder / "cache"),
        }
        return in_turns("around", _CASE, sides, rounds)


def main() -> None:
    """Print a table and what zoo adds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = measured([(_CASE, partial(measure, options.rounds))])
    report(rows, options.json)
    ours, bare, checked = (rows[0].median(side) for side in rows[0].sides)
    print(f"\nzoo adds {1e3 * (ours - bare):.1f} ms; the check is {100 * checked / ours:.2f} % of its load")


if __name__ == "__main__":
    main()

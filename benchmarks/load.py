"""From a file in the cache to a model with weights: `zoo.get` with a 9-way head against torchvision's own loading.

Run as ``uv run python benchmarks/load.py``. Checkpoints are made from random weights in torchvision's own format. Each
measurement is a fresh process that has imported its library; the two take turns. A figure is the CPU seconds from the
call until every page of every parameter has been read once.
torchvision is used as its documentation says: ``resnet50(weights=...)``, its file already in torch.hub's cache.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

MODELS = ["resnet18", "resnet50", "vgg16", "vit_l_16", "convnext_large"]
_PAGE_FLOATS = 1024


def child(who: str, name: str, folder: Path) -> None:
    """Load once and print what it cost."""
    import torch
    import torchvision  # noqa: F401 - both have it imported

    torch.set_num_threads(1)
    load = {"zoo": with_zoo, "torchvision": with_torchvision}[who](name, folder)
    started = time.process_time()
    model = load()
    touched = sum(float(p.detach().flatten()[::_PAGE_FLOATS].sum()) for p in model.parameters())
    seconds = time.process_time() - started
    print(json.dumps({"seconds": seconds, "touched": touched}))


def with_zoo(name: str, folder: Path) -> Callable[[], nn.Module]:
    """The default weights of the model are the file in the folder, which the cache already holds."""
    import zoo_core as zoo
    import zoo_core.build  # zoo imports its parts when they are first used; here as elsewhere imports do not count

    path = folder / f"{name}.pth"
    own = zoo.Zoo()
    card = own.resolve(f"torchvision/{name}")[0]
    digest = (folder / f"{name}.sha256").read_text()
    weights = replace(card.find(), urls=(path.as_uri(),), sha256=digest, size=path.stat().st_size)
    own.member("torchvision").cards[name] = replace(card, weights=(weights,), default=weights.tag)

    def load() -> nn.Module:
        with zoo.use(own):
            return zoo.get(name, num_classes=9)

    return load


def with_torchvision(name: str, folder: Path) -> Callable[[], nn.Module]:
    """The entry's url names the file in torch.hub's cache, whose presence is all that torchvision checks."""
    import torchvision

    weights = torchvision.models.get_model_weights(name).DEFAULT
    held = Path(os.environ["TORCH_HOME"], "hub", "checkpoints", weights.url.rsplit("/", 1)[-1])
    held.parent.mkdir(parents=True, exist_ok=True)
    if not held.exists():
        held.symlink_to(folder / f"{name}.pth")
    return lambda: torchvision.models.get_model(name, weights=weights)


def prepare(folder: Path, names: list[str]) -> None:
    """Save a checkpoint for each model, and let the cache take it in."""
    import torch
    import torchvision

    for name in names:
        path = folder / f"{name}.pth"
        torch.save(torchvision.models.get_model(name, weights=None).state_dict(), path)
        (folder / f"{name}.sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
        measure("zoo", name, folder)


def measure(who: str, name: str, folder: Path) -> dict[str, float]:
    """Run one child and read what it printed."""
    environment = {**os.environ, "ZOO_CACHE": str(folder / "cache"), "TORCH_HOME": str(folder / "torch")}
    command = [sys.executable, __file__, "--child", who, name, str(folder)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(answer.stdout.splitlines()[-1])


def main() -> None:
    """Print a line a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], options.child[1], Path(options.child[2]))
        return
    print(f"{'model':16}{'zoo s':>9}{'torchvision s':>15}{'ratio':>8}{'(quartiles)':>16}")
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        for name in options.models:
            prepare(folder, [name])
            pairs = [
                (measure("zoo", name, folder), measure("torchvision", name, folder)) for _ in range(options.rounds)
            ]
            ratios = [theirs["seconds"] / ours["seconds"] for ours, theirs in pairs]
            low, middle, high = statistics.quantiles(ratios, n=4)
            ours, theirs = (statistics.median(pair[i]["seconds"] for pair in pairs) for i in (0, 1))
            spread = f"({low:.1f} to {high:.1f})"
            print(f"{name:16}{ours:9.3f}{theirs:15.3f}{middle:8.1f}{spread:>16}", flush=True)
            (folder / f"{name}.pth").unlink()


if __name__ == "__main__":
    main()

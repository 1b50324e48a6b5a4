"""From a file of the user's own to a model with its weights, and from a file to what it is: zoo beside the libraries.

Run as ``uv run --group bench python -m benchmarks.own``. The files are what a training script writes: a state dict
under ``state_dict`` beside the optimizer's moments for a tenth of it. "first" is a load that zoo has no copy for yet,
and that makes one; "again" is every later one; "moved" is the first load of the same file from another place. The peers
do what their documentation says: torchvision's models are built, and take
``torch.load(file, weights_only=True)["state_dict"]``; timm has ``create_model(name, checkpoint_path=file)``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Figures, Row, forked, in_turns, measured, of_children, report, usual
from benchmarks.load import Case, build, once

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

CASES = [
    Case("torchvision", "resnet50"),
    Case("torchvision", "resnet50", "pickle"),
    Case("torchvision", "vgg16"),
    Case("torchvision", "vit_l_16"),
    Case("timm", "vit_large_patch16_224"),
]
INSPECTED = "torchvision/resnet50"
_INSPECTED = "what a resnet50 file is"


def write(case: Case, path: Path) -> None:
    """What a training script writes."""
    import torch

    state = build(case).state_dict()
    moments = {name: tensor.clone() for name, tensor in [*state.items()][::10]}
    content = {"state_dict": state, "optimizer": {"exp_avg": moments}, "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=case.form == "zip")


def with_zoo(case: Case, path: Path, *, first: bool = False, moved: bool = False) -> Callable[[], nn.Module]:
    """One line, with a cache that has a copy of the file or none, or one of it in another place."""
    import zoo_core as zoo
    import zoo_core.build.get  # zoo imports its parts when they are first used; here as elsewhere imports do not count
    import zoo_core.weights.formats.safetensors

    zoo.info(case.id)

    def load() -> nn.Module:
        if first:
            os.environ["ZOO_CACHE"] = tempfile.mkdtemp(dir=path.parent)
        if moved:
            place = Path(tempfile.mkdtemp(dir=path.parent), path.name)
            place.hardlink_to(_twin(path))  # a link to the file itself would give that another stamp, too
            return zoo.get(case.id, weights=place)
        return zoo.get(case.id, weights=path)

    return load


def _twin(path: Path) -> Path:
    """A copy of the file, which is loaded under names that are new each time."""
    return path.with_name(f"twin-{path.name}")


def with_peer(case: Case, path: Path) -> Callable[[], nn.Module]:
    """As the documentation of the library says."""
    import torch

    if case.peer == "timm":
        import timm

        return lambda: timm.create_model(case.name, checkpoint_path=str(path))
    import torchvision

    def load() -> nn.Module:
        model = torchvision.models.get_model(case.name, weights=None)
        model.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
        return model

    return load


def measure(case: Case, rounds: int) -> Row:
    """One case; its files are gone before those of the next are made."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "last.ckpt")
        os.environ["ZOO_CACHE"] = str(path.parent / "cache")
        forked(partial(write, case, path))
        shutil.copyfile(path, _twin(path))
        loads = {
            "zoo, again": with_zoo(case, path),
            "zoo, first": with_zoo(case, path, first=True),
            "zoo, moved": with_zoo(case, path, moved=True),
            case.peer: with_peer(case, path),
        }
        sides = {who: partial(once, load, case) for who, load in loads.items()}
        forked(sides["zoo, again"])
        row = in_turns("own", f"own {case}", sides, rounds)
        row.notes["file MB"] = path.stat().st_size / 1e6
        return row


def inspecting(rounds: int) -> Row:
    """``zoo inspect FILE`` beside opening the file with torch and printing names and shapes, as people do."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "last.ckpt")
        forked(partial(write, Case("torchvision", "resnet50"), path))
        opened = f"import torch; state = torch.load({str(path)!r}, mmap=True)['state_dict']"
        script = f"{opened}; print({{name: tuple(tensor.shape) for name, tensor in state.items()}})"
        commands = {
            "zoo inspect": [str(Path(sys.executable).with_name("zoo")), "inspect", str(path)],
            "torch.load and print": [sys.executable, "-c", script],
        }
        sides = {who: partial(_quiet, command) for who, command in commands.items()}
        return in_turns("own", _INSPECTED, sides, rounds, figure="wall s")


def _quiet(command: list[str]) -> Figures:
    out = os.open(os.devnull, os.O_WRONLY)
    os.dup2(out, 1)
    of_children(command, usual())  # compiles what has not been compiled yet
    return of_children(command, usual())


def main() -> None:
    """Print a table, and write the figures on request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="only cases with this in their name")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    works = [(f"own {case}", partial(measure, case, options.rounds)) for case in CASES if options.only in str(case)]
    if options.only in "inspect":
        works.append((_INSPECTED, partial(inspecting, options.rounds)))
    report(measured(works), options.json)


if __name__ == "__main__":
    main()

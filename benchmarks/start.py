"""Starting up: importing, listing and finding models, beside the libraries, and with a hundred plugins.

Run as ``uv run --group bench python -m benchmarks.start``. Each measurement is a fresh interpreter, from its first
instruction to its last. There are 200 more distributions on the path than are installed here, as there are where people
work; in the last cases there are 100 plugins more, with 1,000 models each in files that ``zoo_core.write_cards`` made.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Figures, Row, measured, of_children, report, rounds_in_time, usual

if TYPE_CHECKING:
    from collections.abc import Mapping

PYTHON = sys.executable
_PLUGIN = """
from pathlib import Path
from zoo_core import Family, hookimpl, read_cards

@hookimpl
def zoo_families():
    return [Family("f{0}", catalog="many_{0}:cards", anatomy="many_{0}:anatomy")]

def cards():
    return read_cards(Path(__file__).with_name("many_{0}.jsonl"))
"""
_ONE_NAME = (
    "import time; started = time.process_time()\n"
    "import zoo_core as zoo; zoo.info('tiny/glyphnet')\n"  # what is done once: the plugins are loaded
    "begun = time.process_time(); zoo.info('f57/net_57_500'); print(1e3 * (time.process_time() - begun))"
)


def distributions(folder: Path, count: int) -> None:
    """Make empty distributions, a third of them with entry points, as in most environments."""
    for number in range(count):
        metadata = folder / f"a_distribution_{number}-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: a-distribution-{number}\nVersion: 1.0\n")
        if number % 3 == 0:
            (metadata / "entry_points.txt").write_text(f"[console_scripts]\na{number} = a{number}:main\n")


def plugins(folder: Path, count: int, models: int) -> None:
    """Make plugins with so many models each."""
    from zoo_core import Card, Weights, write_cards

    for number in range(count):
        metadata = folder / f"many_{number}-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: many-{number}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[zoo_core]\nf{number} = many_{number}\n")
        (folder / f"many_{number}.py").write_text(_PLUGIN.format(number))
        weights = (Weights("V1", (f"https://example.org/{number}.pth",), "5c106cde", num_classes=1000),)
        names = [f"net_{number}_{model}" for model in range(models)]
        made = [Card(f"f{number}", name, "acme:net", weights=weights, default="V1") for name in names]
        write_cards(folder / f"many_{number}.jsonl", made)


def measure(rounds: int) -> list[Row]:
    """A row for the commands, one for listing beside the peers, and one for very many models."""
    with tempfile.TemporaryDirectory() as name:
        ordinary, many = Path(name, "ordinary"), Path(name, "many")
        distributions(ordinary, 200)
        distributions(many, 100)
        plugins(many, 100, 1000)
        here = usual(PYTHONPATH=str(ordinary))
        code = "import sys; sys.argv = ['zoo', *sys.argv[1:]]; from zoo_core.cli import main; main()"
        commands = {
            "bare python": [PYTHON, "-c", "pass"],
            "import zoo_core": [PYTHON, "-c", "import zoo_core"],
            "zoo list": [PYTHON, "-c", code, "list"],
            "zoo info resnet18": [PYTHON, "-c", code, "info", "resnet18"],
            "zoo --help": [PYTHON, "-c", code, "--help"],
        }
        works = [("commands, of bare python", commands, here, rounds)]
        lists = {
            "zoo list": commands["zoo list"],
            "torchvision": [PYTHON, "-c", "import torchvision; torchvision.models.list_models()"],
            "timm": [PYTHON, "-W", "ignore", "-c", "import timm; timm.list_models()"],
        }
        works.append(("list all models", lists, here, max(3, rounds // 5)))
        there = usual(PYTHONPATH=str(many))
        works.append(("list of 100,000 models", {"zoo list": commands["zoo list"]}, there, rounds))
        found = measured((work[0], partial(in_turns_of_commands, *work)) for work in works)
        one = [one_name(there) for _ in range(rounds)]
        found[-1].notes["one name of 100,000, ms after start"] = statistics.median(one)
        return found


def in_turns_of_commands(
    case: str, commands: Mapping[str, list[str]], environment: Mapping[str, str], rounds: int
) -> Row:
    """Run each command once a round."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    usual = os.dup(1)
    os.dup2(nowhere, 1)  # for the children, which print names by the thousand
    try:
        for command in commands.values():
            of_children(command, environment)  # compiles what has not been compiled yet
        found: dict[str, list[Figures]] = {who: [] for who in commands}
        for _ in rounds_in_time(rounds):
            for who, command in commands.items():
                found[who].append(of_children(command, environment))
    finally:
        os.dup2(usual, 1)
        os.close(usual)
        os.close(nowhere)
    row = Row("start", case, "cpu s", found)
    print("\n".join(row.lines()), file=sys.stderr, flush=True)
    return row


def one_name(environment: Mapping[str, str]) -> float:
    """Milliseconds that one name takes, once zoo has started."""
    command = [PYTHON, "-c", _ONE_NAME]
    answer = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=True)
    return float(answer.stdout)


def main() -> None:
    """Print a table, and write the figures on request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report(measure(options.rounds), options.json)


if __name__ == "__main__":
    main()

"""What every benchmark here shares: a process for each measurement, turns, medians and their spread.

A measurement runs in a process that is forked from one which has imported both sides, so that each starts from the same
state and imports do not count. The sides take turns, so that a change in the machine's speed meets them all, and the
ratio is taken round by round.

``ZOO_BENCH_SECONDS`` is the time for one row, after which no round begins, and ``ZOO_BENCH_JOURNAL`` the file that
keeps the rows, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

Figures = dict[str, float]
_FEWEST = 2
"""Rounds that a row has whatever time they take."""


@dataclass
class Row:
    """One thing that was measured for several sides.

    Attributes:
        section: The benchmark it belongs to.
        case: What was done.
        figure: Which of the figures counts, such as ``"cpu s"``.
        sides: Side to its figures, one for each round; the first side is zoo.
        notes: What else there is to say.
    """

    section: str
    case: str
    figure: str
    sides: dict[str, list[Figures]]
    notes: dict[str, float] = field(default_factory=dict)

    def median(self, side: str, figure: str | None = None) -> float:
        """The median over the rounds."""
        return statistics.median(each[figure or self.figure] for each in self.sides[side])

    def ratio(self, side: str) -> tuple[float, float, float]:
        """The other side's figure over zoo's, round by round: first quartile, median, third quartile."""
        ours = next(iter(self.sides.values()))
        ratios = [b[self.figure] / a[self.figure] for a, b in zip(ours, self.sides[side], strict=True)]
        return quartiles(ratios)

    def lines(self) -> list[str]:
        """Rows of a Markdown table: case, side, figure, ratio, quartiles, peak."""
        found = []
        for side in self.sides:
            low, middle, high = self.ratio(side)
            ratio = "" if side == next(iter(self.sides)) else f"{middle:.1f} ({low:.1f} to {high:.1f})"
            peak = f"{self.median(side, 'peak MB'):.0f}" if "peak MB" in self.sides[side][0] else ""
            found.append(f"| {self.case} | {side} | {self.median(side):.4g} | {ratio} | {peak} |")
        return found


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile; of one round they are the same."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return low, middle, high


def table(rows: list[Row]) -> str:
    """The rows of one section as Markdown."""
    head = f"| case | who | {rows[0].figure} | times zoo's (quartiles) | peak MB |\n|---|---|---|---|---|"
    return "\n".join([head, *(line for row in rows for line in row.lines())])


def regressions(rows: list[Row], committed: list[Row]) -> list[str]:
    """Where zoo is slower against another side than in the committed figures, by more than both spreads.

    Ratios are compared, and not times: they hold on another machine. A ratio is worse where its third quartile is below
    the first one of the committed figures.

    Args:
        rows: What was measured now.
        committed: What ``results/figures.json`` has.
    """
    known = {(row.section, row.case, row.figure): row for row in committed}
    found = []
    for row in rows:
        before = known.get((row.section, row.case, row.figure))
        for side in list(row.sides)[1:]:
            if before is None or side not in before.sides:
                continue
            (low, was, _), (_, now, high) = before.ratio(side), row.ratio(side)
            if high < low:
                found.append(f"{row.case}: {side} takes {now:.2f} times what zoo does, and took {was:.2f} times before")
    return found


def in_turns(
    section: str, case: str, sides: Mapping[str, Callable[[], Figures]], rounds: int, figure: str = "cpu s"
) -> Row:
    """Measure each side once a round, each in a process of its own."""
    found: dict[str, list[Figures]] = {side: [] for side in sides}
    for number in rounds_in_time(rounds):
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        for side in order:
            found[side].append(forked(sides[side]))
    row = Row(section, case, figure, found)
    print("\n".join(row.lines()), file=sys.stderr, flush=True)
    return row


def rounds_in_time(count: int) -> Iterator[int]:
    """The numbers of the rounds of a row; after two, none begins that is beyond the time for it."""
    limit = float(os.environ.get("ZOO_BENCH_SECONDS", "inf"))
    started = time.monotonic()
    for number in range(count):
        if number >= _FEWEST and time.monotonic() - started > limit:
            return
        yield number


def measured(works: Iterable[tuple[str, Callable[[], Row]]]) -> list[Row]:
    """A row a work, by its case. One that the journal has is not measured again, and one that fails is left out.

    Raises:
        SystemExit: All failed.
    """
    path = Path(os.environ.get("ZOO_BENCH_JOURNAL", os.devnull))
    known = {row.case: row for row in journal(path)}
    rows = []
    for case, work in works:
        try:
            row = known.get(case) or work()
        except Exception:  # noqa: BLE001 - the other rows count all the same
            traceback.print_exc()
            print(f"{case} failed", file=sys.stderr, flush=True)
            continue
        rows.append(row)
        if case not in known:
            with path.open("a", encoding="utf-8") as file:
                file.write(f"\n{json.dumps(asdict(row))}\n")  # after a line that was cut off
    return rows or sys.exit("no row could be measured")


def journal(path: Path) -> list[Row]:
    """The rows that :func:`measured` kept; a line that was cut off is none."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with suppress(ValueError):
            rows.append(Row(**json.loads(line)))
    return rows


def report(rows: list[Row], path: Path | None) -> None:
    """Print the rows as a table with their notes, and write the figures on request."""
    if path:
        save(rows, path)
    print(table(rows))
    for row in rows:
        for note, value in row.notes.items():
            print(f"{row.case}: {note} {value:.3g}")


def forked(work: Callable[[], Any]) -> Any:
    """What ``work`` returns in a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            with os.fdopen(writer, "w") as pipe:
                json.dump(work(), pipe)
            code = 0
        except BaseException:  # noqa: BLE001 - the child ends here, whatever it was
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        msg = f"a measurement failed with status {status}"
        raise RuntimeError(msg)
    return json.loads(answer)


def metered(work: Callable[[], Any]) -> tuple[Any, Figures]:
    """What ``work`` returns, the CPU seconds it took, and the most memory it needed beyond what was in use before."""
    before = _peak_from_here()
    started = time.process_time()
    result = work()
    spent = time.process_time() - started
    peak = _status("VmHWM") if before else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return result, {"cpu s": spent, "peak MB": (peak - before) / 1024}


def _peak_from_here() -> int:
    """Forget the peak so far, where the system can; what is in use now, in kB."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return 0
    return _status("VmRSS")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0


def usual(**more: str) -> dict[str, str]:
    """The environment of a command whose start is measured, with the compiled modules that a start usually finds.

    A container may say that Python must keep none, and then every start compiles all that it imports.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, **more}


def of_children(command: list[str], environment: Mapping[str, str]) -> Figures:
    """CPU seconds of a command, from its first instruction to its last."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    code = os.spawnvpe(os.P_WAIT, command[0], command, dict(environment))
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code:
        msg = f"{' '.join(command)} ended with {code}"
        raise RuntimeError(msg)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu s": spent, "wall s": wall}


def read(path: Path) -> list[Row]:
    """The rows that :func:`save` wrote."""
    return [Row(**record) for record in json.loads(path.read_text(encoding="utf-8"))]


def save(rows: list[Row], path: Path) -> None:
    """Write all figures as JSON."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")


def plot(rows: list[Row], path: Path) -> None:
    """Draw how many times zoo's figure each peer's is, on one scale, for what has peers."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    beside = [row for row in rows if next(iter(row.sides)).startswith("zoo")]
    bars = [(f"{row.case}: {side}", row.ratio(side)) for row in beside for side in list(row.sides)[1:]]
    figure, axes = plt.subplots(figsize=(8, 0.8 + 0.28 * len(bars)), layout="constrained")
    for place, (_, (low, middle, high)) in enumerate(reversed(bars)):
        axes.barh(place, middle, color="#4878a8", height=0.7)
        axes.plot([low, high], [place, place], color="black", linewidth=1)
        axes.annotate(f" {middle:.1f}", (max(high, middle), place), va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), [label for label, _ in reversed(bars)], fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("times what zoo takes (median and quartiles)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)

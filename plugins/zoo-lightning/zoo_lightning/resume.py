"""The folder of a run that is not finished: what a process killed in it leaves, and how another goes on."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping

from zoo_core import errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

POINT, FACTS = "last.ckpt", "run.json"


def begin(work: Path, facts: Mapping[str, Any], *, resume: bool) -> Path | None:
    """Enter the folder of a run, new or interrupted.

    Args:
        work: The folder.
        facts: What the result depends on, as JSON has it.
        resume: Go on with the run that was interrupted in it; otherwise its checkpoints go.

    Returns:
        The checkpoint to go on from; None where there is none yet.

    Raises:
        UsageError: There is no run to resume, or it was begun with other facts.
    """
    if resume:
        if not (work / FACTS).is_file():
            raise errors.UsageError(f"there is no run to resume in {work}", hint="leave --resume out to begin one")
        before = json.loads((work / FACTS).read_text(encoding="utf-8"))
        if differing := [name for name, value in facts.items() if before.get(name) != value]:
            raise errors.UsageError(
                f"the run in {work} was begun with another {' and another '.join(differing)}",
                expected=", ".join(f"{name}: {_short(before.get(name))}" for name in differing),
                got=", ".join(f"{name}: {_short(facts[name])}" for name in differing),
                hint="resume it with the same, or leave --resume out to begin a new one",
            )
        return work / POINT if (work / POINT).is_file() else None
    work.mkdir(parents=True, exist_ok=True)
    for stale in work.glob("*.ckpt"):  # of a run that is not resumed
        stale.unlink(missing_ok=True)
    partial = work / f".{FACTS}.{os.getpid()}"
    partial.write_text(json.dumps(facts), encoding="utf-8")
    partial.replace(work / FACTS)
    return None


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - a line


class ResumePoint(Checkpoint):
    """Write a checkpoint after each epoch under another name, and rename it when it is whole.

    It is a ``Checkpoint``, and comes after ``ModelCheckpoint`` in the list, so that Lightning calls it last: it holds
    the state of all other callbacks after the epoch, such as which one was the best.

    Args:
        path: The checkpoint to go on from.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's signature
        """Every process takes part, as sharded strategies need; one renames."""
        partial = self.path.with_suffix(".partial")
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            partial.replace(self.path)


class Stopping(EarlyStopping):
    """``EarlyStopping`` that does not train on when a run is resumed that it had stopped already."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's signature
        """Stop before the first batch, if that was decided."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class History(Callback):
    """The metrics of each epoch, kept in the checkpoint, so that a resumed run has the whole curve."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    @property
    def last(self) -> dict[str, float]:
        """What was measured in the last epoch."""
        return {name: value for name, value in self.rows[-1].items() if name != "epoch"} if self.rows else {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's signature
        """Note what was measured."""
        measured = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.rows.append({"epoch": float(trainer.current_epoch), **measured})

    def state_dict(self) -> dict[str, list[dict[str, float]]]:
        """What the checkpoint holds."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, list[dict[str, float]]]) -> None:
        """Take it back."""
        self.rows = list(state_dict["rows"])

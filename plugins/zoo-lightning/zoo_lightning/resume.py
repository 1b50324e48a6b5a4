"""The folder of a run that is not finished: what a process killed in it leaves, and how another goes on."""

from __future__ import annotations

import errno
import json
import math
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from zoo_core import errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

POINT, FACTS = "last.ckpt", "run.json"
_LOSSES = ("train_loss", "val_loss")


def begin(work: Path, facts: Mapping[str, Any], *, resume: bool) -> Path | None:
    """Enter the folder of a run, to begin it or to resume it.

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
        require_same_run(work, facts)
        return work / POINT if (work / POINT).is_file() else None
    work.mkdir(parents=True, exist_ok=True)
    for stale in work.glob("*.ckpt"):  # of a run that is not resumed
        stale.unlink(missing_ok=True)
    partial = work / f".{FACTS}.{os.getpid()}"
    partial.write_text(json.dumps(facts), encoding="utf-8")
    partial.replace(work / FACTS)
    return None


def require_same_run(work: Path, facts: Mapping[str, Any]) -> None:
    """Refuse to resume what is not there, or was begun with other facts.

    Raises:
        UsageError: There is no run to resume, it was begun with other facts, or a file of it is damaged.
    """
    if not (work / FACTS).is_file():
        raise errors.UsageError(f"there is no run to resume in {work}", hint="leave resume (--resume) out to begin one")
    before = _facts_in(work)
    if differing := [name for name, value in facts.items() if before.get(name) != value]:
        raise errors.UsageError(
            f"the run in {work} was begun with another {' and another '.join(differing)}",
            expected=", ".join(f"{name}: {_short_value(before.get(name))}" for name in differing),
            got=", ".join(f"{name}: {_short_value(facts[name])}" for name in differing),
            hint="resume it with the same, or leave resume (--resume) out to begin a new one",
        )


def _facts_in(work: Path) -> dict[str, Any]:
    """What the run to resume was begun with.

    Raises:
        UsageError: That, or its checkpoint, is damaged.
    """
    try:
        result = json.loads((work / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(work / FACTS, str(error)) from error
    if not isinstance(result, dict):
        raise _damaged(work / FACTS, f"a {type(result).__name__} instead of an object")
    if (work / POINT).exists() and not is_zipfile(work / POINT):
        raise _damaged(work / POINT, "no checkpoint that torch.save wrote to its end")
    return result


def _damaged(path: Path, got: str) -> errors.UsageError:
    """The error for a file of a run to resume that cannot be read."""
    return errors.UsageError(
        f"{path} cannot be read, so that the run cannot be resumed",
        got=got,
        cause="the file was changed or copied in part",
        hint="leave resume (--resume) out to begin a new one",
    )


def _short_value(value: object) -> str:
    """A value cut to a line, to say in what a run to resume differs."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - a line


@contextmanager
def resumable(work: Path) -> Iterator[None]:
    """Turn Ctrl-C, a full disk and a batch of one into errors that say how to resume.

    Raises:
        UsageError: A batch norm was given a batch of one, or the folder of the run cannot be written to.
        KeyboardInterrupt: Ctrl-C was pressed; Lightning would exit with status 1.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        if not isinstance(error, KeyboardInterrupt) and not isinstance(error.__context__, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt(
            f"interrupted: resume=True (--resume) continues from the last complete epoch in {work}"
        ) from None
    except ValueError as error:
        if "Expected more than 1 value per channel" not in str(error):
            raise
        raise errors.UsageError(
            "a batch norm was given a batch of one image", cause=str(error), hint="a batch_size of at least 2"
        ) from error
    except (OSError, RuntimeError) as error:
        if isinstance(error, errors.ZooError) or not _is_write_error(error, work):
            raise
        raise errors.UsageError(
            f"the run cannot be written to {work}",
            cause=str(error).partition("\n")[0],
            hint="free some space and go on with resume, or choose another folder for out",
        ) from error


def shards(engine: Trainer) -> bool:
    """Whether the strategy shards the parameters; refused where it shards the checkpoint of a run to resume from too.

    Raises:
        UsageError: Each process would write a part of the checkpoint too, in a folder.
    """
    if not isinstance(engine.strategy, FSDPStrategy | ModelParallelStrategy):
        return False
    settings = vars(engine.strategy)
    if settings.get("_save_distributed_checkpoint") or settings.get("_state_dict_type") == "sharded":
        raise errors.UsageError(
            "the best weights of a run are read from one file, and this strategy writes a folder of parts",
            hint="ModelParallelStrategy(save_distributed_checkpoint=False), or FSDPStrategy(state_dict_type='full')",
        )
    return True


def _is_write_error(error: OSError | RuntimeError, work: Path) -> bool:
    """Whether an error is about the folder of a run to resume, and not about an image or what a callback opens."""
    if not isinstance(error, OSError):
        return "file write failed" in str(error)  # torch.save on a full disk
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    about = path is not None and (path == work or path in work.parents or work in path.parents)
    return about or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def require_finite(losses: Mapping[str, float], epoch: int) -> None:
    """Stop a run whose loss is nan or infinite, before there is a checkpoint of it to resume from.

    Raises:
        ZooError: One is nan or infinite.
    """
    if lost := [name for name, value in losses.items() if not math.isfinite(value)]:
        raise errors.ZooError(
            f"the {lost[0].replace('_', ' ')} is {losses[lost[0]]} in epoch {epoch}, so that training was stopped",
            cause="too high a learning rate, or values that the precision cannot hold",
            done="nothing was saved of this epoch",
            hint="a tenth of lr, and of head_lr where it is set; precision='32-true'",
        )


class Finite(Callback):
    """Stop a run whose loss is nan: no later epoch gets it back, so that it is no point to resume from."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's signature
        """Look at the losses of the epoch; the scaler of half precision leaves out a step that is infinite."""
        looked_at = _LOSSES[1:] if trainer.precision == "16-mixed" else _LOSSES
        measured = trainer.callback_metrics
        losses = {name: float(measured[name]) for name in looked_at if name in measured}
        require_finite(losses, trainer.current_epoch)


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

"""Lightning's callbacks in a run: it stops where the loss is nan, can be resumed, and keeps its metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_avg_fn

from zoo_core import errors
from zoo_lightning.module import METRIC
from zoo_lightning.resume import POINT, ResumePoint

if TYPE_CHECKING:
    from zoo_lightning.options import Options


_LOSSES = ("train_loss", "val_loss")


def require_finite(losses: Mapping[str, float], epoch: int) -> None:
    """Raise, in a callback, where a loss is nan or infinite: training is stopped before that is saved.

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
    """Callback that stops a run whose loss is nan: no later epoch gets it back."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's signature
        """Look at the losses of the epoch; the scaler of half precision leaves out a step that is infinite."""
        looked_at = _LOSSES[1:] if trainer.precision == "16-mixed" else _LOSSES
        measured = trainer.callback_metrics
        losses = {name: float(measured[name]) for name in looked_at if name in measured}
        require_finite(losses, trainer.current_epoch)


class Stopping(EarlyStopping):
    """The callback ``EarlyStopping``, which does not train on when a run is resumed that it had stopped already."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's signature
        """Stop before the first batch, if that was decided."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class History(Callback):
    """Callback that keeps the metrics of each epoch, in the checkpoint too, so that a resumed run has them all."""

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


def callbacks_of(options: Options, work: Path) -> list[Callback]:
    """Lightning's callbacks in a run: checkpoints, and, if requested, early stopping and averaged weights."""
    result: list[Callback] = [
        ModelCheckpoint(work, filename="best", monitor=METRIC, mode="max", enable_version_counter=False),
        ResumePoint(work / POINT),
    ]
    if options.patience is not None:
        result.append(Stopping(METRIC, mode="max", patience=options.patience))
    if options.ema is not None:
        result.append(WeightAveraging(avg_fn=_moving_average(options.ema)))
    return result


def _moving_average(decay: float) -> Callable[[Tensor, Tensor, Any], Tensor]:
    """How the callback ``WeightAveraging`` averages; torch's own average moves what is frozen, by rounding."""
    average = get_ema_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch has no types there
    return lambda mean, value, count: torch.where(mean == value, mean, average(mean, value, count))

"""A checkpoint after each epoch, written so that a process killed in the middle leaves the one before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.pytorch import Callback, LightningModule, Trainer

if TYPE_CHECKING:
    from pathlib import Path


class ResumePoint(Callback):
    """Write a checkpoint after each epoch under another name, and rename it when it is whole.

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


class History(Callback):
    """The metrics of each epoch, kept in the checkpoint, so that a resumed run has the whole curve."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

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

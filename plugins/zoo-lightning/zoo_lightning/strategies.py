"""Lightning's strategies for several processes: what each of them cannot do is refused before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from zoo_core import errors

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from zoo_lightning.options import Options


def require_processes(trainer: Trainer, options: Options, val: int) -> None:
    """Refuse a run on several processes that would end in the middle of one of them, or train wrongly in silence.

    Args:
        trainer: Lightning's, with the strategy.
        options: Of the run.
        val: How many images there are to validate with.

    Raises:
        UsageError: There are fewer of them than processes, or the strategy writes checkpoints in parts, or makes one
            parameter of several.
        NotSupported: An option does not go with the strategy.
    """
    if val < trainer.world_size:
        raise errors.UsageError(
            f"there are fewer images to validate with than processes: {val} for {trainer.world_size}",
            expected="at least one for each",
            hint="fewer devices, a larger val, or a split val with more images",
        )
    if options.unfreeze_at:
        require_schedule(trainer)
    if shards(trainer):
        _require_whole_files(trainer)
        _require_options(trainer, options)


def shards(trainer: Trainer) -> bool:
    """Whether the strategy has each process hold a part of the parameters."""
    return isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy)


def require_schedule(trainer: Trainer) -> None:
    """Refuse to unfreeze parts of a model during its training where several processes would not do so alike.

    Raises:
        NotSupported: The strategy is not one of those that hold all parameters in each process.
    """
    if trainer.world_size > 1 and not hasattr(trainer.strategy, "configure_ddp"):
        raise errors.NotSupported(
            f"unfreezing on a schedule does not go with {type(trainer.strategy).__name__}",
            cause="it shards what is trainable at first",
            hint='strategy="ddp", or the head first, and then everything in a second run',
        )


def _require_whole_files(trainer: Trainer) -> None:
    """Refuse a strategy whose parameters or checkpoints are not those of the model, each by its name."""
    settings = vars(trainer.strategy)
    if settings.get("_save_distributed_checkpoint") or settings.get("_state_dict_type") == "sharded":
        raise errors.UsageError(
            "the best weights of a run are read from one file, and this strategy writes a folder of parts",
            hint="ModelParallelStrategy(save_distributed_checkpoint=False), or FSDPStrategy(state_dict_type='full')",
        )
    if not settings.get("kwargs", {}).get("use_orig_params", True):
        raise errors.UsageError(
            "this strategy makes one parameter of all those in a module",
            cause="use_orig_params=False: one parameter has one learning rate and one decay, or none",
            hint="leave use_orig_params out",
        )


def _require_options(trainer: Trainer, options: Options) -> None:
    """Refuse options that need all parameters in each process."""
    name = type(trainer.strategy).__name__
    if options.ema is not None:
        raise errors.NotSupported(
            f"averaged weights do not go with {name}",
            cause="each process holds a part of the parameters, and Lightning's average needs all of them",
            hint='leave ema out, or strategy="ddp"',
        )
    if options.lr is None:
        raise errors.NotSupported(
            f"a learning rate is not found with {name}",
            cause="Lightning's finder trains and goes back to a checkpoint, which this strategy does not load again",
            hint='lr=0.001, or the rate that a run with strategy="ddp" found',
        )

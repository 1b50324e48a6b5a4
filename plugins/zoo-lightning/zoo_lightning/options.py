"""How a model is fine-tuned: every option of a run, and which values it may have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo_core import errors
from zoo_lightning.data import DATA_OF

_NOT_FOR = {
    "classification": (),
    "detection": ("mixup", "label_smoothing", "balance", "head_epochs"),
    "segmentation": ("mixup", "head_epochs"),
}
"""Options that mean nothing for the data of a task."""
_LEAST = {"epochs": 0, "head_epochs": 0, "workers": 0, "seed": 0, "batch_size": 1, "accumulate": 1, "adapter_rank": 1}
_AT_LEAST_0, _SHARE = (0.0, 3e38), (0.0, 1.0)
"""No tensor of single precision holds a number much greater than 3e38."""
_BELOW_1 = 0.999999
"""The greatest decay of averaged weights: at 1 they would stay as they were before the training."""
_BOUNDS = {
    **dict.fromkeys(("lr", "head_lr", "weight_decay", "mixup"), _AT_LEAST_0),
    **dict.fromkeys(("layer_decay", "label_smoothing"), _SHARE),
    "ema": (0.0, _BELOW_1),
}


@dataclass(frozen=True)
class Options:
    """How a model is trained in a run; every one is a keyword of :func:`zoo_lightning.finetune`.

    Attributes:
        weights: What a model that is named begins with: a tag, the path of a file, or None for an untrained one.
        epochs: Passes over the data.
        batch_size: Images of a batch, on each process.
        lr: Learning rate of the backbone; None finds one.
        head_lr: Learning rate of the head; None for that of the backbone.
        layer_decay: Factor on the learning rate for each stage away from the head.
        weight_decay: Of weights, not of biases and norms.
        freeze: Part or parts that stay as they are: ``"backbone"``, stages, patterns; ``"until=layer4"`` for all that
            comes before a part.
        unfreeze_at: Part to epoch: when a frozen part begins to train.
        adapter: ``"lora"`` freezes the backbone and trains low-rank adapters of it (``zoo-core[lora]``); None for none.
        adapter_rank: Inner size of the adapters.
        head_epochs: Epochs of the head alone on cached features, before all else; the backbone is frozen meanwhile.
        augment: ``"none"``, ``"light"``, ``"standard"`` or ``"strong"``.
        mixup: Strength of MixUp; 0 for none.
        label_smoothing: From 0 to 1.
        balance: Weigh classes by the inverse of how many images they have.
        patience: Epochs without a better score after which training stops; None for never.
        ema: Decay of an exponential moving average of the weights; None for none.
        precision: As ``lightning.Trainer`` takes it: ``"32-true"``, ``"bf16-mixed"``, ``"16-mixed"``.
        accumulate: Batches whose gradients are added up before a step.
        workers: Processes that decode images.
        val: Share of the images to validate with, where the data has no split of its own.
        seed: Of the new head, the split, the order and the augmentations.
    """

    weights: str | None = "default"
    epochs: int = 10
    batch_size: int = 32
    lr: float | None = 1e-3
    head_lr: float | None = None
    layer_decay: float | None = None
    weight_decay: float = 0.05
    freeze: str | Sequence[str] = ()
    unfreeze_at: Mapping[str, int] | None = None
    adapter: str | None = None
    adapter_rank: int = 8
    head_epochs: int = 0
    augment: str = "standard"
    mixup: float = 0.0
    label_smoothing: float = 0.0
    balance: bool = False
    patience: int | None = None
    ema: float | None = None
    precision: str = "32-true"
    accumulate: int = 1
    workers: int = 0
    val: float = 0.2
    seed: int = 0


def checked(options: Mapping[str, Any]) -> Options:
    """The options of a run, from the keywords of :func:`zoo_lightning.finetune`.

    Raises:
        UsageError: One is unknown or impossible.

    Example:
        >>> checked({"epochs": 3, "freeze": "backbone"}).freeze
        ('backbone',)
    """
    known = Options.__dataclass_fields__
    if unknown := sorted(set(options) - set(known)):
        raise errors.UsageError(f"finetune has no option {unknown[0]!r}", expected=", ".join(known))
    freeze = options.get("freeze", ())
    chosen = Options(**{**options, "freeze": (freeze,) if isinstance(freeze, str) else tuple(freeze)})
    _require_numbers(chosen)
    if not chosen.epochs + chosen.head_epochs:
        raise errors.UsageError("there is no epoch to train", expected="epochs or head_epochs of at least 1")
    if chosen.adapter not in (None, "lora"):
        raise errors.UsageError(f"adapter cannot be {chosen.adapter!r}", expected="'lora' or None")
    return chosen


def _require_numbers(options: Options) -> None:
    """Refuse options of a run whose numbers are out of bounds."""
    for name, least in _LEAST.items():
        value = getattr(options, name)
        if type(value) is not int or value < least:
            raise errors.UsageError(f"{name} cannot be {value!r}", expected=f"an integer of at least {least}")
    for name, (low, high) in _BOUNDS.items():
        value = getattr(options, name)
        if value is None and name in ("lr", "head_lr", "layer_decay", "ema"):
            continue
        if not isinstance(value, int | float) or not low <= value <= high:
            raise errors.UsageError(f"{name} cannot be {value!r}", expected=f"a number from {low:g} to {high:g}")
    for part, epoch in (options.unfreeze_at or {}).items():
        if type(epoch) is not int or not 0 <= epoch < options.epochs:
            last = options.epochs - 1
            raise errors.UsageError(
                f"unfreeze_at cannot be {epoch!r} for {part!r}",
                expected=f"an integer from 0 to {last}" if options.epochs else "epochs of at least 1",
                hint="increase epochs, or unfreeze the part in an earlier one",
            )
    if options.patience is not None and (type(options.patience) is not int or options.patience < 1):
        raise errors.UsageError(f"patience cannot be {options.patience!r}", expected="an integer of at least 1")


def require_options(task: str, options: Mapping[str, Any]) -> None:
    """Refuse options that mean nothing for a task.

    Raises:
        UsageError: One is set.
    """
    if wrong := [name for name in _NOT_FOR[task] if options[name]]:
        raise errors.UsageError(f"{wrong[0]} is not for {DATA_OF[task]}", hint="leave it out")

"""``FineTune``: a pretrained model in training, as an ordinary ``LightningModule``."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy, MultilabelAveragePrecision
from torchmetrics.functional.classification import binary_average_precision
from torchmetrics.utilities import dim_zero_cat
from torchvision.transforms import v2

import zoo_core as zoo
from zoo_core import errors
from zoo_lightning.augment import mixed_seed
from zoo_lightning.strategies import require_schedule

METRIC = "val_score"
"""Accuracy, or mean average precision where an image has several classes."""
_AUXILIARY = 0.3
"""What the loss of an auxiliary head counts (https://arxiv.org/abs/1409.4842)."""


class LabelPrecision(MultilabelAveragePrecision):
    """The score that the module logs on several labels an image: mean average precision of those that occur.

    torchmetrics counts the others as 0.

    Args:
        num_labels: How many labels there are.

    Example:
        >>> score = LabelPrecision(2)
        >>> score.update(torch.tensor([[0.9, 0.2], [0.1, 0.3]]), torch.tensor([[1, 0], [0, 0]]))
        >>> float(score.compute())
        1.0
    """

    def compute(self) -> Tensor:  # type: ignore[override]  # torchmetrics' own class does so too
        """The mean; 0 where no image has a label."""
        preds, target = dim_zero_cat(self.preds), dim_zero_cat(self.target)
        present = [label for label in range(target.shape[1]) if (target[:, label] == 1).any()]
        values = [binary_average_precision(preds[:, label], target[:, label]) for label in present]
        return torch.stack([value for value in values if value is not None]).mean() if values else preds.new_zeros(())


class FineTune(LightningModule):
    """A ``LightningModule``, a model in training: AdamW on :func:`zoo_core.param_groups`, warm-up, cosine decay.

    Subclass it for another loss (:meth:`loss`) or another optimizer (``configure_optimizers``).

    Args:
        model: A classifier from ``zoo.get``, with as many outputs as there are classes.
        lr: Learning rate of the backbone.
        head_lr: Learning rate of the head; None for that of the backbone.
        layer_decay: Factor on the learning rate for each stage away from the head; None for none.
        weight_decay: Of weights, not of biases and norms.
        label_smoothing: From 0 to 1.
        class_weights: A factor for the loss of each class.
        mixup: Strength of MixUp (https://arxiv.org/abs/1710.09412); 0 for none.
        multi_label: Whether an image has any number of classes.
        warmup: Share of all steps over which the learning rate rises.
        unfreeze_at: Stage or part to epoch: what is frozen at first becomes trainable when that epoch begins.
        seed: Of everything drawn at random in training.

    Raises:
        UnknownPart: A part in ``unfreeze_at`` is not there.
        UsageError: The number of class weights is not that of the classes, or an option is for one label an image.

    Example:
        >>> import zoo_core as zoo
        >>> module = FineTune(zoo.get("tiny/glyphnet", num_classes=9, freeze="backbone"), lr=1e-3)
        >>> module(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 9])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float = 1e-3,
        head_lr: float | None = None,
        layer_decay: float | None = None,
        weight_decay: float = 0.05,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        mixup: float = 0.0,
        multi_label: bool = False,
        warmup: float = 0.05,
        unfreeze_at: Mapping[str, int] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.lr, self.head_lr, self.layer_decay, self.weight_decay = lr, head_lr, layer_decay, weight_decay
        self.label_smoothing, self.multi_label, self.warmup, self.seed = label_smoothing, multi_label, warmup, seed
        self.unfreeze_at = dict(unfreeze_at or {})
        for part in self.unfreeze_at:
            parameters_unfrozen_by(model, part)  # raises now, and not when its epoch begins
        main = zoo.anatomy(model).main
        if main is None or not main.num_classes:
            raise errors.NotSupported(
                "a model without a classifier cannot be fine-tuned", hint="zoo.get(..., num_classes=9)"
            )
        if main.num_classes == 1 and not multi_label:
            raise errors.UsageError(
                "a model with one output has no class to choose",
                hint="zoo.swap_head(model, 2) for yes and no; multi_label=True where the one label may be absent",
            )
        if multi_label and (mixup or label_smoothing):
            raise errors.UsageError(
                f"{'mixup' if mixup else 'label_smoothing'} is for images of one class each",
                cause="these have several labels",
                hint="leave it out",
            )
        if class_weights is not None and len(class_weights) != main.num_classes:
            raise errors.UsageError(f"{len(class_weights)} class weights for {main.num_classes} classes")
        weights = torch.tensor(class_weights) if class_weights is not None else None
        self.register_buffer("class_weights", weights, persistent=False)
        self._before_sharding: tuple[zoo.Anatomy, list[dict[str, Any]]] | None = None
        self.mix = v2.MixUp(alpha=mixup, num_classes=main.num_classes) if mixup else None
        self.score: Any = (
            LabelPrecision(main.num_classes) if multi_label else MulticlassAccuracy(main.num_classes, average="micro")
        )

    @property
    def anatomy(self) -> Any:
        """The anatomy of the model; the one that it had before Lightning's ``FSDPStrategy`` put wrappers into it."""
        return self._before_sharding[0] if self._before_sharding else zoo.anatomy(self.model)

    def forward(self, images: Tensor) -> Tensor:
        """Scores ``[N, num_classes]`` of images ``[N, C, H, W]``."""
        return self.heads(images)[0]

    def heads(self, images: Tensor) -> list[Tensor]:
        """The scores, and after them those of auxiliary heads, which Inception and GoogLeNet have in training."""
        output: Any = self.anatomy.scores_in(self.model(images))
        several = [each for each in output if each is not None] if isinstance(output, tuple) else [output]
        if not several or not all(isinstance(each, Tensor) and each.shape == several[0].shape for each in several):
            raise errors.NotSupported(
                f"a model that gives a {type(output).__name__} is not fine-tuned on one set of classes",
                cause="it has several outputs, or is for another task",
                hint="subclass FineTune with a training_step of your own",
            )
        return several

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, or binary cross-entropy where an image has several classes."""
        weights: Any = self.class_weights
        if self.multi_label:
            return functional.binary_cross_entropy_with_logits(scores, targets, pos_weight=weights)
        return functional.cross_entropy(scores, targets, weight=weights, label_smoothing=self.label_smoothing)

    def setup(self, stage: str) -> None:  # noqa: ARG002 - Lightning's signature
        """Look at the model while its parameters are whole: ``FSDPStrategy`` makes a vector of each."""
        if isinstance(self.trainer.strategy, FSDPStrategy):
            self._before_sharding = zoo.anatomy(self.model), self._groups()

    def teardown(self, stage: str) -> None:  # noqa: ARG002 - Lightning's signature
        """Forget what was looked at in :meth:`setup`."""
        self._before_sharding = None

    def configure_model(self) -> None:
        """Shard the parameters where Lightning's ``ModelParallelStrategy`` asks for it, as ``fully_shard`` does."""
        if self.device_mesh is not None and not hasattr(self.model, "unshard"):
            fully_shard(self.model, mesh=self.device_mesh["data_parallel"])

    def on_fit_start(self) -> None:
        """Refuse what has nothing to train, and what several processes would do wrongly without an error."""
        require_trainable(self.model, [name for name, epoch in self.unfreeze_at.items() if not epoch])
        if self.unfreeze_at:
            require_schedule(self.trainer)

    def on_train_epoch_start(self) -> None:
        """Unfreeze what is due, and train in the mode for it: Lightning leaves a model that came in eval mode there."""
        self.model.train()
        if due := [name for name, epoch in self.unfreeze_at.items() if epoch <= self.current_epoch]:
            zoo.unfreeze(self.model, *due)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002 - Lightning's signature
        """Seed, so that a resumed run draws what an uninterrupted one draws, whatever else took random numbers."""
        place = (self.current_epoch << 32) + batch_idx * self.trainer.world_size + self.global_rank
        torch.manual_seed(mixed_seed(self.seed, place))

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """One batch."""
        images, targets = self.mix(*batch) if self.mix else batch
        main, *auxiliary = self.heads(images)
        loss = self.loss(main, targets)
        for scores in auxiliary:
            loss = loss + _AUXILIARY * self.loss(scores, targets)
        self.log("train_loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(images))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """One batch."""
        images, targets = batch
        scores = self(images)
        self.score(scores, targets.int())
        self.log("val_loss", self.loss(scores, targets), sync_dist=True, batch_size=len(images), prog_bar=True)
        self.log(METRIC, self.score, prog_bar=True, batch_size=len(images))

    def test_step(self, batch: Any, index: int) -> None:
        """One batch of ``Trainer.test``, measured as one to validate with, under the same names."""
        self.validation_step(batch, index)

    def predict_step(self, batch: Any, _: int) -> Any:
        """What the model gives for a batch of ``Trainer.predict``: images alone, or with their targets."""
        return self(batch[0] if isinstance(batch, (tuple, list)) else batch)

    def configure_optimizers(self) -> Any:
        """AdamW and a schedule. What is frozen is in the groups too: without a gradient it is passed over."""
        groups = self._before_sharding[1] if self._before_sharding else self._groups()
        optimizer = torch.optim.AdamW(groups, lr=self.lr)
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):  # until it is stopped: there is no end to decay towards
            return optimizer
        steps = int(steps)
        rises = max(1, round(self.warmup * steps))

        def factor(step: int) -> float:
            if step < rises:
                return (step + 1) / rises
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rises) / max(1, steps - rises))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _groups(self) -> list[dict[str, Any]]:
        """The parameter groups of the optimizer, of what is frozen too: it has its group when it is unfrozen later."""
        frozen = [parameter for parameter in self.model.parameters() if not parameter.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(True)  # noqa: FBT003 - torch's own signature
        try:
            return zoo.param_groups(
                self.model,
                lr=self.lr,
                head_lr=self.head_lr,
                layer_decay=self.layer_decay,
                weight_decay=self.weight_decay,
            )
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)  # noqa: FBT003 - torch's own signature


def require_trainable(model: nn.Module, unfrozen: Sequence[str] = ()) -> None:
    """Refuse a model of which the ``LightningModule`` has nothing to train.

    Args:
        model: The model.
        unfrozen: Parts that begin to train before the first batch.

    Raises:
        UsageError: Everything is frozen.
    """
    if not unfrozen and not any(parameter.requires_grad for parameter in model.parameters()):
        raise errors.UsageError(
            "nothing of this model trains",
            cause="every parameter of it is frozen, the head too",
            hint="freeze='backbone' leaves the head; zoo.unfreeze(model, 'head') lets it train again",
        )


def parameters_unfrozen_by(model: nn.Module, part: str) -> set[str]:
    """Names of the parameters that the module ``FineTune`` trains once it unfreezes a part; the model stays as it is.

    Raises:
        UnknownPart: There is no such part.

    Example:
        >>> sorted(parameters_unfrozen_by(zoo.get("tiny/glyphnet"), "head"))
        ['fc.bias', 'fc.weight']
    """
    own = {id(each): nn.Parameter(each.detach(), requires_grad=False) for each in model.parameters()}
    twin = copy.deepcopy(model, own | {id(each): each for each in model.buffers()})  # of the same values
    zoo.unfreeze(twin, part)
    return {name for name, parameter in twin.named_parameters() if parameter.requires_grad}


def require_frozen(model: nn.Module, unfreeze_at: Mapping[str, int]) -> None:
    """Refuse an ``unfreeze_at`` of the module ``FineTune`` for what is trained from the first epoch on.

    Raises:
        UsageError: A part of it is not frozen.
    """
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for part, epoch in unfreeze_at.items():
        if epoch and parameters_unfrozen_by(model, part) <= trains:
            raise errors.UsageError(
                f"{part!r} is not frozen, so that there is nothing to unfreeze in epoch {epoch}",
                cause="it trains from the first epoch on",
                hint="freeze='backbone' (--freeze backbone) freezes it until then; or leave it out of unfreeze_at",
            )

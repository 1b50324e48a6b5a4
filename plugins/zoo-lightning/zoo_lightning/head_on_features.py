"""The head alone, on cached features: many epochs for about one pass of the backbone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import zoo_core as zoo
from zoo_core import errors
from zoo_lightning.augment import transform_for
from zoo_lightning.callbacks import require_finite
from zoo_lightning.datasets import ImageDataset

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from zoo_lightning.data import ImageData
    from zoo_lightning.module import FineTune
    from zoo_lightning.options import Options


def train_head(
    module: FineTune, dataset: Dataset[Any], *, epochs: int, batch_size: int, workers: int, folder: Path, device: str
) -> list[float]:
    """Train the head first, alone, on features of the frozen backbone that are computed once.

    Args:
        module: Whose head learns, at its ``head_lr``, or ``lr`` where that is None.
        dataset: Images and targets, without augmentation: each image has one feature.
        epochs: How often the features are gone through.
        batch_size: Features of a batch.
        workers: Processes that decode images in the one pass.
        folder: Where the features are kept.
        device: Where the backbone and the head run.

    Returns:
        The mean loss of each epoch.

    Raises:
        NotSupported: Something of the backbone is trainable, and its features would change.
    """
    backbone, head = zoo.split(module.model)
    if any(parameter.requires_grad for parameter in backbone.parameters()):
        raise errors.NotSupported(
            "features can be cached of a frozen backbone only",
            cause="parameters of the backbone are trainable",
            hint="freeze it: --freeze backbone, or zoo.freeze(model, 'backbone')",
        )
    features = zoo.cached_features(
        backbone.to(device), dataset, folder=folder, batch_size=batch_size, num_workers=workers, device=device
    )
    parameters = [parameter for parameter in head.to(device).parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=module.head_lr or module.lr, weight_decay=module.weight_decay)
    lonely = len(features) > 1 == len(features) % batch_size  # batch norm in a head takes no batch of one
    batches = features.batches(batch_size, device=device, shuffle=True, seed=module.seed, drop_last=lonely)
    torch.manual_seed(module.seed)  # for dropout in the head
    losses = []
    head.train()
    for epoch in range(epochs):
        total = 0.0
        for inputs, targets in batches:
            optimizer.zero_grad(set_to_none=True)
            loss = module.loss(head(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types there
            optimizer.step()
            total += loss.item() * len(inputs)
        losses.append(total / len(features))
        require_finite({"loss of the head": losses[-1]}, epoch)
    return losses


def begin_with_head(module: FineTune, data: ImageData, options: Options, work: Path) -> None:
    """Train the head first in a run, the whole backbone frozen; afterwards what was trainable is so again."""
    before = {name: parameter.requires_grad for name, parameter in module.model.named_parameters()}
    zoo.freeze(module.model, "backbone")
    width = len(data.class_names) if data.multi_label else 0
    dataset = ImageDataset(data.train, transform_for(module.model, "none"), width, options.seed)
    train_head(
        module,
        dataset,
        epochs=options.head_epochs,
        batch_size=options.batch_size,
        workers=options.workers,
        folder=work / "features",
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
    if thawed := [name for name, trains in before.items() if trains]:
        zoo.unfreeze(module.model, *thawed)

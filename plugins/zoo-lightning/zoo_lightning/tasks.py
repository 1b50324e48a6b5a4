"""What differs by task: which models suit the data, how they are trained, and what is made of the validation images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, Dataset
from torchvision.models import segmentation

import zoo_core as zoo
from zoo_core import errors
from zoo_lightning.augment import sides_of
from zoo_lightning.classify import evaluate_classifier
from zoo_lightning.data import DATA_OF, ImageData
from zoo_lightning.data_loaders import collate_for, val_batch
from zoo_lightning.detect import (
    DETECTORS,
    FineTuneDetector,
    evaluate_detector,
    parts_of,
    require_masks,
)
from zoo_lightning.module import FineTune
from zoo_lightning.segment import FineTuneSegmenter, evaluate_segmenter

if TYPE_CHECKING:
    from torch import nn

    from zoo_lightning.report import Evaluation

_MODULES: dict[str, type[FineTune]] = {
    "classification": FineTune,
    "detection": FineTuneDetector,
    "segmentation": FineTuneSegmenter,
}
_SEGMENTERS = (segmentation.FCN, segmentation.DeepLabV3, segmentation.LRASPP)


def build(name: str, data: ImageData, seed: int, *, weights: str | None = "default", values: bool = True) -> nn.Module:
    """Build a model by its name for the task and classes of the data; without values it is on the meta device.

    One that is untrained, or has weights of the user's own, sees images as the default weights of its name do.

    Raises:
        UsageError: It is for another task.
    """
    task = require_name(name, data)
    more: dict[str, Any] = {"num_keypoints": data.num_keypoints} if task == "keypoints" else {}
    if task == "keypoints" and not data.num_keypoints:
        raise errors.UsageError(
            f"{name} learns keypoints, and the data has none", expected="categories with a list of keypoints"
        )
    if weights != "default":
        more["weights"] = weights
    if not values:
        more["device"] = "meta"
        is_file = weights is not None and ("/" in weights or Path(weights).suffix != "" or Path(weights).exists())
        if task and not is_file:  # a tag is looked up, and nothing is downloaded
            zoo.info(name if weights in (None, "default") else f"{name}@{weights}")
            name, more["weights"] = name.partition("@")[0], None
    model = zoo.get(name, num_classes=len(data.class_names), seed=seed, **more)
    if "weights" in more and task:
        try:
            zoo.preprocessing(model)
        except errors.NotSupported:
            zoo.set_preprocessing(model, name.partition("@")[0])
    return model


def require_name(name: str, data: ImageData) -> str:
    """The task of a model that is named; empty where it is known only when the model is built.

    Raises:
        UsageError: The data is for another task.
    """
    if is_save(name):
        return ""
    task = zoo.info(name).task
    _require_task(name, task, data)
    return task


def is_save(name: str) -> bool:
    """Whether the task of a model is known only when it is built: its name is a folder, or a repository on the hub.

    Example:
        >>> is_save("./flowers"), is_save("hf://me/flowers"), is_save("timm/resnet18")
        (True, True, False)
    """
    return "://" in name or name.startswith(("./", "../", "/", "~/")) or name.endswith("/")


def suited(model: nn.Module, data: ImageData) -> nn.Module:
    """The model, if its task is that of the data; one of pixels sees whole images from now on, as it will to predict.

    Raises:
        UsageError: It is for another task, or has other outputs than there are classes.
    """
    kinds = {"detection": DETECTORS, "segmentation": _SEGMENTERS}
    task = next((task for task, classes in kinds.items() if isinstance(model, classes)), None)
    if task or data.task == "detection":
        _require_task(type(model).__name__, task or "classification", data)
    main, count = zoo.anatomy(model).main, len(data.class_names)
    if main is not None and main.num_classes != count:
        more = "" if data.task == "classification" else ", the background among them"
        raise errors.UsageError(
            f"the model has {main.num_classes} outputs, and the data {count} classes{more}",
            hint=f"zoo.swap_head(model, {count})",
        )
    if data.task == "detection" and "masks" in parts_of(model):
        require_masks(data)
    if data.task == "segmentation" and zoo.preprocessing(model).crop:
        whole = replace(zoo.preprocessing(model), crop=None, resize=sides_of(model), fit="squash")
        zoo.set_preprocessing(model, whole)
    return model


def _require_task(name: str, task: str, data: ImageData) -> None:
    """Refuse a model whose task is not that of the data."""
    task = "detection" if task == "keypoints" else task
    if task != data.task:
        raise errors.UsageError(
            f"{name} is for {task}, and the data is {DATA_OF[data.task]}",
            expected=DATA_OF.get(task, f"a model for {data.task}"),
            hint=f"zoo list --task {data.task} has the models for it",
        )


def module_for(model: nn.Module, data: ImageData, **options: Any) -> FineTune:
    """The model in training, as its task is trained."""
    return _MODULES[data.task](model, **options)


def evaluation_of(
    module: FineTune, dataset: Dataset[Any], data: ImageData, *, batch_size: int, workers: int
) -> Evaluation:
    """Evaluate the model of a run on the validation images, as models of its task are."""
    batches: DataLoader[Any] = DataLoader(
        dataset, batch_size=val_batch(data.task, batch_size), num_workers=workers, collate_fn=collate_for(data.task)
    )
    if isinstance(module, FineTuneDetector):
        return evaluate_detector(module, batches)
    if isinstance(module, FineTuneSegmenter):
        return evaluate_segmenter(module, batches, len(data.class_names))
    return evaluate_classifier(module, batches)

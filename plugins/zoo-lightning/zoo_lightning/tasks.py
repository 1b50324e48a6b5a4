"""What differs by task: which models suit the data, how they are trained, and what is made of the validation images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader
from torchvision.models import segmentation

import zoo_core as zoo
from zoo_core import errors
from zoo_lightning.augment import sides_of
from zoo_lightning.data import shortened
from zoo_lightning.data_loaders import collate_for, val_batch
from zoo_lightning.datasets import parts_of
from zoo_lightning.detect import DETECTORS, FineTuneDetector
from zoo_lightning.evaluate import (
    DetectionEvaluation,
    Evaluation,
    SegmentationEvaluation,
    evaluate,
    evaluate_detector,
    evaluate_segmenter,
)
from zoo_lightning.module import FineTune
from zoo_lightning.segment import FineTuneSegmenter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn
    from torch.utils.data import Dataset

    from zoo_lightning.data import ImageData

AnyEvaluation = Evaluation | DetectionEvaluation | SegmentationEvaluation

_MODULES: dict[str, type[FineTune]] = {
    "classification": FineTune,
    "detection": FineTuneDetector,
    "segmentation": FineTuneSegmenter,
}
_DATA = {
    "classification": "images with classes",
    "detection": "images with boxes",
    "segmentation": "images with masks",
}
_SEGMENTERS = (segmentation.FCN, segmentation.DeepLabV3, segmentation.LRASPP)
_NOT_FOR = {
    "classification": (),
    "detection": ("mixup", "label_smoothing", "balance", "head_epochs"),
    "segmentation": ("mixup", "head_epochs"),
}


def require_options(task: str, options: Mapping[str, Any]) -> None:
    """Refuse options that mean nothing for a task.

    Raises:
        UsageError: One is set.
    """
    if wrong := [name for name in _NOT_FOR[task] if options[name]]:
        raise errors.UsageError(f"{wrong[0]} is not for {_DATA[task]}", hint="leave it out")


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
        if task and (weights is None or not is_file(weights)):  # a tag is looked up, and nothing is downloaded
            zoo.info(name if weights in (None, "default") else f"{name}@{weights}")
            name, more["weights"] = name.partition("@")[0], None
    model = zoo.get(name, num_classes=len(data.class_names), seed=seed, **more)
    if "weights" in more and task:
        try:
            zoo.preprocessing(model)
        except errors.NotSupported:
            zoo.set_preprocessing(model, name.partition("@")[0])
    return model


def is_file(weights: str) -> bool:
    """Whether the weights to build a model for a task with are a file of the user's own, and not a tag.

    Example:
        >>> is_file("runs/last.ckpt"), is_file("IMAGENET1K_V1")
        (True, False)
    """
    return "/" in weights or Path(weights).suffix != "" or Path(weights).exists()


def require_name(name: str, data: ImageData) -> str:
    """The task of a model that is named; empty for a save, which says it when it is built.

    Raises:
        UsageError: The data is for another task.
    """
    if is_save(name):
        return ""
    task = zoo.info(name).task
    _require_task(name, task, data)
    return task


def is_save(name: str) -> bool:
    """Whether a name is of a save, a folder or a repository on the hub, whose task is known only when it is built.

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
        _require_masks(data)
    if data.task == "segmentation" and zoo.preprocessing(model).crop:
        whole = replace(zoo.preprocessing(model), crop=None, resize=sides_of(model), fit="squash")
        zoo.set_preprocessing(model, whole)
    return model


def _require_task(name: str, task: str, data: ImageData) -> None:
    """Refuse a model whose task is not that of the data."""
    task = "detection" if task == "keypoints" else task
    if task != data.task:
        raise errors.UsageError(
            f"{name} is for {task}, and the data is {_DATA[data.task]}",
            expected=_DATA.get(task, f"a model for {data.task}"),
            hint=f"zoo list --task {data.task} has the models for it",
        )


def _require_masks(data: ImageData) -> None:
    """Refuse data that does not suit the task of a detector with masks, as some of its objects have none."""
    samples: Any = (*data.train, *data.val)
    without = [sample.name for sample in samples if any(each.shape is None for each in sample.objects)]
    if without:
        raise errors.UsageError(
            f"{len(without)} of {len(samples)} images have objects without a mask, such as {without[0]}",
            cause=shortened(data.notes) or None,
            hint="a detector without masks, such as fasterrcnn_resnet50_fpn, takes boxes alone",
        )


def module_for(model: nn.Module, data: ImageData, **options: Any) -> FineTune:
    """The model in training, as its task is trained."""
    return _MODULES[data.task](model, **options)


def evaluation_of(
    module: FineTune, dataset: Dataset[Any], data: ImageData, *, batch_size: int, workers: int
) -> AnyEvaluation:
    """What a model makes of the validation images, as its task is evaluated."""
    batches: DataLoader[Any] = DataLoader(
        dataset, batch_size=val_batch(data.task, batch_size), num_workers=workers, collate_fn=collate_for(data.task)
    )
    if isinstance(module, FineTuneDetector):
        return evaluate_detector(module, batches)
    if isinstance(module, FineTuneSegmenter):
        return evaluate_segmenter(module, batches, len(data.class_names))
    return evaluate(module, batches)

"""``zoo.predict``: from images of any kind to named results, with any model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.errors import ImageError, NotSupported, UsageError, ZooWarning
from zoo_core.images.loading import Loaded, in_batches, load_images, sources_of
from zoo_core.images.preprocessing import numbers_of, resized, transforms
from zoo_core.images.read import read
from zoo_core.images.video import read_clip
from zoo_core.prediction.results import Prediction, Reading
from zoo_core.recipe.open_model import open_model, require_results, running_on
from zoo_core.surgery.head.scores import Outputs
from zoo_core.surgery.head.scores import class_names as names_of
from zoo_core.surgery.metadata import anatomy_of, metadata_of, unwrap
from zoo_core.utils.arguments import check_count, strict_arguments
from zoo_core.utils.eval_mode import inferring

_WHOLE = {"detection", "keypoints"}
"""Tasks whose models take a list of images of any size."""
_NAMED_AT_MOST = 3
_EVEN = 0.5
"""The least probability of a label that an image is taken to have."""


@strict_arguments
def predict(
    model: nn.Module | str | os.PathLike[str],
    image: Any,
    *,
    top: int = 5,
    threshold: float | None = None,
    class_names: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    size: int | Sequence[int] | None = None,
    weights: str | os.PathLike[str] | None = "default",
    device: str | torch.device | None = None,
    batch_size: int = 16,
    num_workers: int | None = None,
) -> Any:
    """What ``model`` says of an image, or of many, by name.

    The image is prepared as :func:`transforms` says, after it was turned upright by its EXIF data. The model runs in
    eval mode and without gradients, and is afterwards in the mode it was in.

    Args:
        model: A model, its name, or the folder of a save.
        image: A path, glob or folder; bytes; a PIL image; an array ``[H, W, C]``; a tensor ``[C, H, W]`` of uint8 or of
            floats from 0 to 1, not normalized; or many: a batch, or an iterable of any of these. For a video model a
            clip: the path of a video, or ``[T, C, H, W]``.
        top: How many classes of a classifier, the most probable first.
        threshold: Of a classifier with several labels: every class of at least this probability, each by itself; 0.5
            unless given where the model was saved as ``multi_label``. Of a detector: the least score, 0.5 unless given.
        class_names: What the classes are called, instead of what the model knows; for several heads a dict of these.
        size: Height and width that the model sees, instead of those of its weights.
        weights: As for :func:`get`, where ``model`` is a name.
        device: Where the model goes when it is named or saved.
        batch_size: Images in one pass, where they have one shape.
        num_workers: Threads that read images; None for one a core.

    Returns:
        For a classifier a list of ``(name, probability)``; for a detector :class:`Detections`, with ``.boxes``,
        ``.names``, ``.scores``, and ``.masks`` or ``.keypoints``; for segmentation a :class:`Segmentation`, with
        ``.mask``, ``.legend`` and ``.save(path)``; for several heads a dict of these, in which a head without
        scores has its embedding, a tensor. For many images a list of those,
        in which an :class:`ImageError` is in the place of each that could not be read. Classes without a name are
        called by their number. Class 0 of detectors and segmentation is the background.

    Raises:
        ImageError: The one image cannot be read; or a folder or glob has none.
        NotSupported: Nothing says how images are prepared for the model, or its output has no names.
        UsageError: An argument is impossible.

    Warns:
        ZooWarning: Some of many images could not be read; their names are in it. Or one was not taken as it is, such as
            the first frame of an animated one.

    Example:
        >>> import numpy as np, zoo_core as zoo
        >>> black = np.zeros((32, 32), dtype=np.uint8)
        >>> [name for name, probability in zoo.predict("tiny/glyphnet", black, top=2)]
        ['!', '(']
    """
    if weights is None:
        msg = f"{model} is untrained: its results mean nothing"
        warnings.warn(msg, ZooWarning, stacklevel=3)
    runner = Predictor.of(
        open_model(model, weights=weights, device=device),
        top=top,
        threshold=threshold,
        class_names=class_names,
        size=size,
        batch_size=batch_size,
        num_workers=num_workers,
    )
    several, predictions = runner.several(image)
    if not several:
        only = next(predictions)
        if only.error is not None:
            raise only.error
        _warn_of_notes([only])
        return only.result
    result = list(predictions)
    _warn_of_notes(result)
    _warn_of_failed([each for each in result if each.error is not None], len(result))
    return [each.result if each.error is None else each.error for each in result]


def _warn_of_failed(failed: Sequence[Prediction], total: int) -> None:
    """Warn that ``zoo.predict`` gives no result for some images, but the error in their place."""
    if failed:
        names = ", ".join(each.name for each in failed[:_NAMED_AT_MOST])
        more = ", ..." if len(failed) > _NAMED_AT_MOST else ""
        msg = f"{len(failed)} of {total} images have no result, but the error in their place: {names}{more}"
        warnings.warn(msg, ZooWarning, stacklevel=4)


def _warn_of_notes(predictions: Sequence[Prediction]) -> None:
    """Warn of what ``zoo.predict`` did to images before it predicted them, where users may not expect it."""
    noted = [f"{each.name}: {each.note}" for each in predictions if each.note]
    if noted:
        more = f"; and {len(noted) - _NAMED_AT_MOST} more" if len(noted) > _NAMED_AT_MOST else ""
        warnings.warn("; ".join(noted[:_NAMED_AT_MOST]) + more, ZooWarning, stacklevel=4)


@dataclass(frozen=True)
class Predictor:
    """A model that is ready to predict, and how."""

    model: nn.Module
    prepare: Any
    task: str
    reading: Reading
    batch_size: int
    num_workers: int | None
    keep: bool = False
    frames: int = 16

    @classmethod
    def of(
        cls,
        model: nn.Module,
        *,
        top: int = 5,
        threshold: float | None = None,
        class_names: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        size: int | Sequence[int] | None = None,
        batch_size: int = 16,
        num_workers: int | None = None,
        keep: bool = False,
    ) -> Predictor:
        """Ready to predict with these settings; ``keep`` keeps images to draw on.

        Raises:
            NotSupported: Nothing says how images are prepared for the model, or its results have no names.
            UsageError: An argument is impossible.
        """
        check_count("top", top)
        check_count("batch_size", batch_size)
        if num_workers is not None:
            check_count("num_workers", num_workers, least=0)
        _check_threshold(threshold)
        card = metadata_of(model).card
        task = card.task if card else "classification"
        if task == "optical_flow":
            raise NotSupported(
                "optical flow has no classes to name", hint="model(first, second) on two images from zoo.transforms"
            )
        require_results(model)
        outputs = Outputs.of(model)
        if threshold is None and outputs.multi_label:
            threshold = _EVEN
        names = names_of(model) if class_names is None else _checked_names(class_names, model, task, outputs)
        return cls(
            model,
            _pipeline(model, size),
            task,
            Reading(names, top, threshold, card.task if card else "", outputs),
            batch_size,
            num_workers,
            keep,
            frames=card.input_size[1] if card and task == "video" else 16,
        )

    def several(self, images: object) -> tuple[bool, Iterator[Prediction]]:
        """Whether these are several images by their kind, and what the model says of each, as they are taken.

        Raises:
            ImageError: A folder or a glob has no images.
        """
        sources, several = sources_of(images, video=self.task == "video")
        return several, self.run(sources)

    def run(self, sources: Iterable[Any]) -> Iterator[Prediction]:
        """What the model says of each image, in order; an image that cannot be read is one with an error."""
        reader = (lambda item, name: read_clip(item, name, self.frames)) if self.task == "video" else read
        loaded = load_images(
            sources,
            reader,
            self.prepare,
            num_workers=self.num_workers,
            ahead=2 * self.batch_size,
            keep=self.keep,
        )
        for batch in in_batches(loaded, self.batch_size, any_shape=self.task in _WHOLE):
            yield from self._batch(batch)

    def _batch(self, batch: list[Loaded]) -> Iterator[Prediction]:
        good = [each for each in batch if each.tensor is not None]
        results = iter(self._results(good))
        for each in batch:
            found = None if each.tensor is None else next(results)
            error = found if isinstance(found, ImageError) else each.error
            result = None if error is not None else found
            yield Prediction(each.name, result, each.note, error, each.original)

    def _results(self, batch: list[Loaded]) -> list[Any]:
        if not batch:
            return []
        try:
            with running_on(batch[0].name), inferring(unwrap(self.model)):
                output = self.reading.outputs.read(self.model(self._input(batch)))
                return list(self.reading.results(output, batch))
        except ImageError as error:
            if len(batch) == 1:
                return [error]
            return [result for each in batch for result in self._results([each])]  # one of them may be to blame

    def _input(self, batch: list[Loaded]) -> Any:
        like = next((p for p in self.model.parameters() if p.is_floating_point()), torch.empty(0))
        tensors: list[Tensor] = [each.tensor.to(like.device, like.dtype) for each in batch if each.tensor is not None]
        return tensors if self.task in _WHOLE else torch.stack(tensors)


def _check_threshold(threshold: float | None) -> None:
    """Raise UsageError for a threshold of predictions that is neither None nor a probability."""
    is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    if threshold is not None and not (is_number and 0 <= threshold <= 1):
        raise UsageError(f"threshold cannot be {threshold!r}", expected="a probability from 0 to 1")


def _checked_names(
    names: Sequence[str] | Mapping[str, Sequence[str]], model: nn.Module, task: str, outputs: Outputs
) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
    """The class names that a user gives for predictions, checked against the heads and the number of classes."""
    if isinstance(names, Mapping):
        return {head: _checked_head_names(each, model, "") for head, each in names.items()}
    if outputs.heads:
        raise UsageError(
            f"class_names is one list, and the model has the heads {', '.join(outputs.heads)}",
            expected="a dict with a list for a head",
            hint="zoo.save(model, folder, class_names={...}) keeps such names with the model",
        )
    return _checked_head_names(names, model, task)


def _checked_head_names(names: Sequence[str], model: nn.Module, task: str) -> tuple[str, ...]:
    """The ``class_names=`` of ``zoo.predict`` for one head, checked against the number of classes."""
    names = names if isinstance(names, str) else tuple(names)
    if isinstance(names, str) or not all(isinstance(each, str) for each in names):
        raise UsageError(f"class_names cannot be {names!r:.60}", expected="a string for each class")
    count = next((site.num_classes for site in anatomy_of(model).heads if site.role == "main"), len(names))
    if task in _WHOLE and len(names) not in (count - 1, count):  # what is not in the first image would go unnoticed
        raise UsageError(
            f"{len(names)} class names for a model of {count} classes",
            expected=f"{count - 1}, or {count} with the background first",
        )
    return tuple(str(each) for each in names)  # NumPy's strings print otherwise


def _pipeline(model: nn.Module, size: int | Sequence[int] | None) -> nn.Module:
    """The transforms before a prediction; for segmentation nothing is cut off."""
    from zoo_core.images.transform_steps import compose

    numbers = numbers_of(model)
    if numbers.task != "segmentation" or not numbers.preprocessing.crop:
        return transforms(model, size=size)
    result = resized(numbers, size)  # every pixel gets a label, so nothing is cut off
    sides = result.resize if result.fit == "squash" else result.crop or ()
    whole = replace(result, crop=None, resize=sides, fit="squash")
    return compose(whole, numbers.task, train=False)

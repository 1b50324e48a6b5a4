"""Objects in images: a JSON file of COCO's format, and the images beside it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchvision import tv_tensors

import zoo_core as zoo
from zoo_core import errors
from zoo_lightning.data import (
    SIDES,
    Faults,
    ImageData,
    Sample,
    Sides,
    divided,
    readable,
    require_both,
    shortened,
    used_sides,
)

if TYPE_CHECKING:
    import numpy as np

_BACKGROUND = "background"
_KEYS = frozenset({"images", "annotations", "categories"})
_CORNERS, _POLYGON, _TRIPLE = 4, 6, 3
_PIXEL = 1.0


@dataclass(frozen=True)
class Object:
    """One object in an image, as COCO's annotations have it.

    Attributes:
        label: Index into the class names.
        box: Left, top, right and bottom, in pixels.
        shape: Polygons, or a run-length encoding, as the file has them; None for none.
        keypoints: x, y and visibility of each; empty for none.
        is_crowd: Whether it is a group: measured with, and not trained on.
    """

    label: int
    box: tuple[float, float, float, float]
    shape: Any = None
    keypoints: tuple[float, ...] = ()
    is_crowd: bool = False


@dataclass(frozen=True)
class ObjectSample(Sample):
    """An image and the objects in it, from annotations of COCO.

    Attributes:
        objects: What is in it.
        size: Height and width that the objects were drawn at; None where the file does not say.
        num_keypoints: Keypoints of an object; 0 for none.
    """

    objects: tuple[Object, ...] = ()
    size: tuple[int, int] | None = None
    num_keypoints: int = 0

    def fault(self) -> str:
        """Why the image cannot be used; empty if it can."""
        if not isinstance(self.source, Path) or not os.path.isfile(self.source):  # noqa: PTH113 - pathlib's raises for a long name
            return "it is not there"
        if fault := super().fault():
            return fault
        height, width = size_of(self.image())
        if self.size not in (None, (height, width)):
            return f"it is {width}x{height}, and its boxes were drawn at {self.size[1]}x{self.size[0]}"
        return ""

    def target(
        self, size: tuple[int, int], parts: Collection[str] = (), *, with_crowds: bool = False
    ) -> dict[str, Any]:
        """What torchvision's detectors train on, as ``tv_tensors``.

        Args:
            size: Height and width of the image.
            parts: ``"masks"`` and ``"keypoints"``, as far as the model learns them.
            with_crowds: Whether groups are in it, as to measure with.
        """
        chosen = [each for each in self.objects if with_crowds or not each.is_crowd]
        boxes = torch.tensor([each.box for each in chosen]).reshape(-1, _CORNERS)
        result: dict[str, Any] = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "labels": torch.tensor([each.label for each in chosen], dtype=torch.int64),
        }
        if with_crowds:
            result["iscrowd"] = torch.tensor([each.is_crowd for each in chosen], dtype=torch.int64)
        if "masks" in parts:
            masks = [torch.from_numpy(decoded(each.shape, size)) for each in chosen]
            result["masks"] = tv_tensors.Mask(torch.stack(masks) if masks else torch.zeros(0, *size, dtype=torch.uint8))
        if "keypoints" in parts:
            empty = (0.0,) * (_TRIPLE * self.num_keypoints)
            points = torch.tensor([each.keypoints or empty for each in chosen]).reshape(-1, self.num_keypoints, _TRIPLE)
            result["keypoints"] = tv_tensors.KeyPoints(points[..., :2], canvas_size=size)
            result["visible"] = (points[..., 2] > 0).float()
        return result


def decoded(shape: Any, size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Decode the shape of a COCO object, polygons or a run-length encoding, to a mask ``[H, W]`` of uint8."""
    from pycocotools import mask

    if isinstance(shape, dict):
        encoded = mask.frPyObjects(shape, *size) if isinstance(shape["counts"], list) else shape
    else:
        encoded = mask.merge(mask.frPyObjects(shape, *size))
    result: np.ndarray[Any, Any] = mask.decode(encoded)
    return result


def find_coco(path: Path) -> dict[Path, str]:
    """The annotation files of a COCO dataset, with the split of each; empty where there are none.

    Args:
        path: An annotation file, or a folder with some in it, in ``annotations``, or in the folders of its splits.

    Raises:
        UsageError: Several files are of one split, and none is called ``instances``.
    """
    if path.is_file():
        return _with_val(path) if path.suffix.lower() == ".json" else {}
    folders = [path, path / "annotations", *(each for each in sorted(path.iterdir()) if each.name.lower() in SIDES)]
    files = [file for folder in folders if folder.is_dir() for file in sorted(folder.glob("*.json")) if _is_coco(file)]
    by_side: dict[str, list[Path]] = {}
    for file in files:
        by_side.setdefault(_split_of(file, path), []).append(file)
    for side, same in by_side.items():
        if len(same) > 1:
            by_side[side] = [file for file in same if file.name.startswith("instances")] or same
        if len(by_side[side]) > 1:
            raise errors.UsageError(
                f"{path} has several annotation files", got=", ".join(file.name for file in same), hint="name one"
            )
    return {same[0]: side for side, same in by_side.items()}


def _with_val(path: Path) -> dict[Path, str]:
    """A COCO file, and that of the split beside it: ``instances_train2017.json`` and ``instances_val2017.json``."""
    side = _split_of(path, path.parent)
    others = (path.with_name(path.name.replace("train", other)) for other in ("val", "valid", "test"))
    other = next((file for file in others if file.is_file() and file != path), None)
    return {path: "train", other: "val"} if side == "train" and other else {path: ""}


def _split_of(file: Path, root: Path) -> str:
    """Split, such as train, that a COCO file is of, by the words in its path; empty where none is one."""
    words = re.findall(r"[a-z]+", str(file.relative_to(root).with_suffix("")).lower())
    return next((SIDES[word] for word in words if word in SIDES), "")


def _is_coco(file: Path) -> bool:
    """Whether a JSON file looks like COCO's annotations by its start and its end; the rest of it is not read."""
    with file.open("rb") as opened:
        head = opened.read(1 << 20)
        opened.seek(max(0, file.stat().st_size - (1 << 20)))
        tail = opened.read()
    return (
        any(f'"{key}"'.encode() in head + tail for key in ("annotations", "categories")) and head.lstrip()[:1] == b"{"
    )


def read_coco(path: Path, files: Mapping[Path, str], *, val: float, seed: int, workers: int) -> ImageData:
    """Read images and the objects in them from annotations of COCO.

    Args:
        path: What the user named.
        files: The annotation files, with the split of each.
        val: Share of the images to validate with, where there is no split.
        seed: Decides which.
        workers: Threads that decode each image once; 0 for no check.

    Raises:
        UsageError: A file is not of COCO's format, or no object is left to train on.
    """
    notes: list[str] = []
    sides = used_sides({str(file): side for file, side in files.items()}, notes)
    read = {Path(file): _Annotations(Path(file), path) for file in sides}
    names = _class_names(read.values(), notes)
    if _BACKGROUND in names:
        raise errors.UsageError(
            f"{path} has objects of a category that is called {_BACKGROUND}",
            cause="that is the name of the first class of every detector, which no box has",
            hint="rename the category, or take its objects out",
        )
    counts = {each.num_keypoints(names) for each in read.values()} - {0}
    if len(counts) > 1:
        raise errors.UsageError(f"{path} has classes of {sorted(counts)} keypoints", expected="one number for all")
    faults = Faults()
    samples: Sides = []
    for file, side in sides.items():
        samples += [(sample, side) for sample in read[Path(file)].samples(names, max(counts, default=0), faults)]
    notes += faults
    if workers:
        samples = readable(samples, notes, workers)
    train, held_out = divided(samples, val, seed, by_class=False)
    for what, chosen in (("train on", train), ("validate with", held_out)):
        if chosen and not any(sample.labels for sample in chosen):
            raise errors.UsageError(
                f"{path} has no object to {what}", cause=shortened(notes) or "its annotations are empty"
            )
    data = ImageData(
        train,
        held_out,
        (_BACKGROUND, *names),
        notes=tuple(notes),
        task="detection",
        num_keypoints=max(counts, default=0),
    )
    if missing := [name for name, count in data.counts().items() if not count]:
        note = f"classes without an object to train on, which will not be seen: {', '.join(missing)}"
        data = replace(data, notes=(*data.notes, note))
    return require_both(path, data, workers)


def _class_names(read: Iterable[_Annotations], notes: list[str]) -> tuple[str, ...]:
    """The classes that have an object in the annotations, in the order of their numbers; two of one name are one."""
    used: dict[str, Any] = {}
    unused: dict[str, Any] = {}
    for file in read:
        counted = Counter(each.get("category_id") for each in file.objects)
        for number, name in file.names.items():
            (used if counted[number] else unused).setdefault(name, number)
    if empty := sorted(set(unused) - set(used)):
        notes.append(f"classes without an object, which were left out: {', '.join(empty)}")
    return tuple(sorted(used, key=lambda name: used[name] if isinstance(used[name], int) else 0))


class _Annotations:
    """One file of COCO's annotations, checked as far as all that follows needs."""

    def __init__(self, file: Path, root: Path) -> None:
        self.file, self.root = file, root
        try:
            content = json.loads(file.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise errors.UsageError(f"{file} cannot be read as JSON", cause=str(error)) from error
        lists = content if isinstance(content, dict) else {}
        if missing := [key for key in sorted(_KEYS) if not isinstance(lists.get(key), list)]:
            raise errors.UsageError(
                f"{file} is not of COCO's format: it has no list {missing[0]!r}",
                expected=", ".join(sorted(_KEYS)),
                got=", ".join(map(str, lists)) or f"a {type(content).__name__}",
            )
        self.images, self.objects, categories = (
            [_with_ids(each) for each in lists[key] if isinstance(each, dict)]
            for key in ("images", "annotations", "categories")
        )
        self.categories = {each.get("id"): each for each in categories}
        if len(self.categories) < len(categories):
            twice = Counter(each.get("id") for each in categories).most_common(1)[0][0]
            raise errors.UsageError(
                f"{file} has several categories of the id {twice}",
                got=", ".join(str(each.get("name")) for each in categories if each.get("id") == twice),
                hint="give each category an id of its own, and its objects the same one as category_id",
            )
        self.names = {number: str(each.get("name", number)).strip() for number, each in self.categories.items()}
        boxes = [numbers for each in self.objects if (numbers := _numbers(each.get("bbox")))]
        if boxes and all(max(box) <= 1 for box in boxes):
            raise errors.UsageError(
                f"{file} has boxes that are shares of the image",
                expected="left, top, width and height in pixels",
                got=f"{boxes[0]}, and none above 1",
                hint="multiply them by the width and the height of their image",
            )

    def num_keypoints(self, names: Sequence[str]) -> int:
        """How many keypoints an object of the classes that are used has."""
        counts = {
            len(each.get("keypoints") or ()) for number, each in self.categories.items() if self.names[number] in names
        }
        return max(counts, default=0)

    def samples(self, names: Sequence[str], num_keypoints: int, faults: Faults) -> list[ObjectSample]:
        """The images in order, with what is in them; what is wrong is left out, and noted."""
        own: dict[Any, list[dict[str, Any]]] = {image.get("id"): [] for image in self.images}
        for each in self.objects:
            if each.get("image_id") in own:
                own[each["image_id"]].append(each)
            else:
                faults.add("objects of an image that the file does not list", f"image_id {each.get('image_id')}")
        index = {number: names.index(name) + 1 for number, name in self.names.items() if name in names}
        result: dict[str, ObjectSample] = {}
        for image in self.images:
            name = str(image.get("file_name", ""))
            if not name or name in result:
                faults.add(
                    f"images {'that are listed again' if name else 'without a file_name'}, which were left out", name
                )
                continue
            path = self._path(name)
            size = _size(image) or _size_in(path)
            read = [_object_of(each, index, size, name, faults) for each in own[image.get("id")]]
            objects = tuple(_with_keypoints(each, num_keypoints, name, faults) for each in read if each is not None)
            labels = tuple(each.label for each in objects if not each.is_crowd)
            result[name] = ObjectSample(path, labels, name, objects, size, num_keypoints)
        return list(result.values())

    def _path(self, name: str) -> Path:
        """Where an image is: beside the file, or in a folder that is usually called so."""
        stem = self.file.stem.rpartition("_")[2]
        side = self.file.parent
        roots = [self.root if self.root.is_dir() else side, side, side.parent]
        folders = [
            root / each for root in dict.fromkeys(roots) for each in ("", "images", stem, f"images/{stem}", "data")
        ]
        return next((folder / name for folder in folders if os.path.isfile(folder / name)), side / name)  # noqa: PTH113 - pathlib's raises where a name is too long


def _with_ids(record: dict[str, Any]) -> dict[str, Any]:
    """A record of COCO's, with None for an id that is neither an integer nor a text."""
    broken = {key for key in ("id", "image_id", "category_id") if not isinstance(record.get(key), int | str)}
    return {**record, **dict.fromkeys(broken)}


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width that COCO's record of an image has; None where it has none."""
    height, width = image.get("height"), image.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) and height and width else None


def _size_in(path: Path) -> tuple[int, int] | None:
    """Height and width of an image whose record has none; None where it cannot be read."""
    with contextlib.suppress(errors.ImageError):
        return size_of(zoo.read_image(path))
    return None


def _object_of(
    each: Mapping[str, Any], index: Mapping[Any, int], size: tuple[int, int] | None, name: str, faults: Faults
) -> Object | None:
    """The object of one COCO annotation; None where it cannot be used, as the faults then say."""
    if each["category_id"] not in index:
        faults.add("objects with a category_id that the file does not list, which were left out", name)
        return None
    shape = _shape(each.get("segmentation"), size, name, faults)
    box = each.get("bbox")
    if not box and shape is not None and size is not None:
        from pycocotools import mask

        box = mask.toBbox(mask.encode(decoded(shape, size).copy(order="F"))).tolist()
    clipped = _box(box, size, name, faults)
    if clipped is None:
        return None
    points = tuple(_numbers(each.get("keypoints")) or ())
    return Object(index[each["category_id"]], clipped, shape, points, bool(each.get("iscrowd")))


def _numbers(values: Any) -> list[float] | None:
    """A list of numbers in COCO's annotations; None for what is no such list."""
    if not isinstance(values, list):
        return None
    fine = all(isinstance(each, int | float) and math.isfinite(each) for each in values)
    return [float(each) for each in values] if fine else None


def _box(
    values: Any,
    size: tuple[int, int] | None,
    name: str,
    faults: Faults,
) -> tuple[float, float, float, float] | None:
    """The corners in the image of COCO's box of left, top, width and height."""
    numbers = _numbers(values)
    if numbers is None or len(numbers) != _CORNERS:
        faults.add("boxes that are not four numbers, which were left out", name)
        return None
    x, y, width, height = numbers
    if width <= 0 or height <= 0:
        faults.add("boxes without area, which were left out", name)
        return None
    limit = size or (math.inf, math.inf)
    corners = max(x, 0.0), max(y, 0.0), min(x + width, float(limit[1])), min(y + height, float(limit[0]))
    if corners[0] >= corners[2] or corners[1] >= corners[3]:
        faults.add("boxes outside of their image, which were left out", name)
        return None
    if any(abs(after - before) >= _PIXEL for after, before in zip(corners, (x, y, x + width, y + height), strict=True)):
        faults.add("boxes (left, top, width, height) that reach out of their image, and were cut off at its edge", name)
    return corners


def _shape(shape: Any, size: tuple[int, int] | None, name: str, faults: Faults) -> Any:
    """The shape of a COCO annotation: polygons with an area, or a run-length encoding of the image's size."""
    if not shape:
        return None
    if isinstance(shape, dict):
        height, width = size or shape.get("size") or (0, 0)
        if shape.get("size") != [height, width]:
            faults.add("masks of another size than their image, which were left out", name)
        elif _num_pixels(shape.get("counts")) != height * width:  # pycocotools leaves the others as memory had them
            faults.add("masks whose run lengths do not cover their image, which were left out", name)
        else:
            return shape
        return None
    polygons = [_numbers(each) for each in shape] if isinstance(shape, list) else []
    fine = [each for each in polygons if each and len(each) >= _POLYGON and len(each) % 2 == 0]
    if not fine:
        faults.add("masks that are no polygons of three points, which were left out", name)
    return fine or None


def _num_pixels(counts: Any) -> int:
    """How many pixels the run lengths of a COCO mask cover, as a list or compressed; -1 where they are none.

    Example:
        >>> _num_pixels([100, 200]), _num_pixels("d2"), _num_pixels([-1, 1])
        (300, 84, -1)
    """
    runs = counts if isinstance(counts, list) else []
    value = shift = 0
    for character in counts if isinstance(counts, str) else "":
        bits = ord(character) - ord("0")  # five of them, and whether more follow; the last says the sign
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            before = runs[-2] if len(runs) > 2 else 0  # noqa: PLR2004 - differences from the fourth on
            runs.append(before + value - ((bits >> 4 & 1) << shift))
            value = shift = 0
    return sum(runs) if all(type(run) is int and run >= 0 for run in runs) else -1


def _with_keypoints(each: Object, count: int, name: str, faults: Faults) -> Object:
    """The object of COCO's, without keypoints that are not as many as there should be."""
    if not each.keypoints or len(each.keypoints) == _TRIPLE * count:
        return each
    faults.add(f"keypoints that are not {count} triples of x, y and visibility, which were left out", name)
    return replace(each, keypoints=())


def size_of(image: Any) -> tuple[int, int]:
    """Height and width of an image, for the annotated objects in it."""
    if hasattr(image, "shape"):
        return int(image.shape[-2]), int(image.shape[-1])
    return image.height, image.width


def with_visibility(image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """Put COCO's visibility back into the keypoints of a target, ``[N, K, 3]``: transforms know x and y alone."""
    if "visible" in target:
        target["keypoints"] = torch.cat([target["keypoints"], target.pop("visible")[..., None]], dim=-1)
    return image, target

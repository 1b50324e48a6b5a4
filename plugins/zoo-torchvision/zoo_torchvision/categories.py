"""The class names of the data sets that torchvision's weights were trained on, one text file each. No torch here.

Those of ImageNet are in ``zoo_core.contract.labels``, where other families find them too.
"""

from __future__ import annotations

from importlib.resources import files


def kinetics_400() -> tuple[str, ...]:
    """The 400 categories of actions in Kinetics-400.

    Example:
        >>> kinetics_400()[:2]
        ('abseiling', 'air drumming')
    """
    return _read_categories("kinetics_400")


def coco() -> tuple[str, ...]:
    """The 91 categories of COCO as torchvision's detectors number them, 11 unused and called ``"N/A"``; 0 is nothing.

    Example:
        >>> coco()[:3]
        ('__background__', 'person', 'bicycle')
    """
    return _read_categories("coco")


def voc() -> tuple[str, ...]:
    """The 20 categories of Pascal VOC after the background, in the order of a segmentation's channels.

    Example:
        >>> voc()[:3]
        ('__background__', 'aeroplane', 'bicycle')
    """
    return _read_categories("voc")


def coco_person() -> tuple[str, ...]:
    """The two categories of torchvision's keypoint detector.

    Example:
        >>> coco_person()
        ('no person', 'person')
    """
    return _read_categories("coco_person")


def coco_keypoints() -> tuple[str, ...]:
    """The names of the 17 points of a person, in the order of the maps of torchvision's keypoint detector.

    Example:
        >>> coco_keypoints()[:2]
        ('nose', 'left_eye')
    """
    return _read_categories("coco_keypoints")


def _read_categories(name: str) -> tuple[str, ...]:
    """Read one of torchvision's lists of categories from the text file of this name."""
    text = files("zoo_torchvision").joinpath("labels", f"{name}.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())

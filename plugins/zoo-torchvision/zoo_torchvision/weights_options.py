"""What torchvision's constructors do in code when they are given weights, as data: each row with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo_core.plugin import Preprocessing

_VIT_IMAGE_SIZE = 224

FIXED_PREPROCESSING = {
    # The detector resizes and normalizes by itself; an image only becomes numbers from 0 to 1.
    "ObjectDetection": Preprocessing(crop=None, resize=(), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    # Both images, from -1 to 1.
    "OpticalFlow": Preprocessing(crop=None, resize=(), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
}

INPUT_SIDE = {
    # The size to which the detector itself brings its images; their entries do not say.
    **dict.fromkeys(("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "fcos_resnet50_fpn"), 800),
    **dict.fromkeys(("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2", "keypointrcnn_resnet50_fpn"), 800),
    **dict.fromkeys(("retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_fpn"), 800),
    "fasterrcnn_mobilenet_v3_large_320_fpn": 320,
    "ssd300_vgg16": 300,
    "ssdlite320_mobilenet_v3_large": 320,
}

FILE_CONVERT = {
    "DenseNet": "zoo_torchvision.checkpoints:densenet",
    # Trained with quantisation in mind, and converted after it was loaded.
    "QuantizableMobileNetV3": "zoo_torchvision.build_quantizable:trained_quantised",
}

# The constructor sets these when it is given weights.
_FILE_OPTIONS: dict[str, Mapping[str, object]] = {
    "GoogLeNet": {"aux_logits": False, "transform_input": True, "init_weights": False},
    "Inception3": {"transform_input": True, "init_weights": False},
    "QuantizableGoogLeNet": {"aux_logits": False, "transform_input": True, "init_weights": False},
    "QuantizableInception3": {"aux_logits": False, "transform_input": True},
    "VGG": {"init_weights": False},
    "FCN": {"aux_loss": True},
    "DeepLabV3": {"aux_loss": True},
}

_DETECTORS = {"FasterRCNN", "MaskRCNN", "KeypointRCNN", "RetinaNet", "FCOS", "SSD"}

_OLD_EPSILON = {
    # Trained before https://github.com/pytorch/vision/pull/2933, when frozen norms had no epsilon.
    "FasterRCNN_ResNet50_FPN_Weights.COCO_V1",
    "KeypointRCNN_ResNet50_FPN_Weights.COCO_V1",
    "MaskRCNN_ResNet50_FPN_Weights.COCO_V1",
    "RetinaNet_ResNet50_FPN_Weights.COCO_V1",
}


def model_options(kind: str, task: str) -> Mapping[str, object]:
    """Exceptions of a class of torchvision: arguments for every model of it, with weights or without.

    Args:
        kind: Name of the class that the constructor returns.
        task: What the model does.
    """
    if task in {"segmentation", "detection"}:
        # Otherwise the library downloads weights for the backbone, past every check of zoo's.
        return {"weights_backbone": None}
    if kind in {"GoogLeNet", "Inception3", "QuantizableGoogLeNet", "QuantizableInception3"}:
        # The library's default, said aloud: it warns when it has to choose for itself.
        return {"init_weights": True}
    return {}


def file_options(entry: Any, kind: str) -> Mapping[str, object]:
    """Exceptions of one file of torchvision's: arguments that the constructor needs for it.

    Args:
        entry: A member of one of torchvision's weights enums.
        kind: Name of the class that the constructor returns.
    """
    if kind == "VisionTransformer" and entry.meta["min_size"][0] != _VIT_IMAGE_SIZE:
        return {"image_size": entry.meta["min_size"][0]}
    if kind in _DETECTORS:
        return {"trained": True, **({"epsilon": 0.0} if str(entry) in _OLD_EPSILON else {})}
    if "backend" in entry.meta:
        return {"quantize": True, "backend": entry.meta["backend"], **_FILE_OPTIONS.get(kind, {})}
    return _FILE_OPTIONS.get(kind, {})


def file_ignore(kind: str) -> tuple[str, ...]:
    """Option of the weights of a class of torchvision: glob patterns of tensors in their files that its models lack.

    Args:
        kind: Name of the class that the constructor returns.
    """
    if kind in {"GoogLeNet", "QuantizableGoogLeNet"}:
        # The auxiliary heads were never trained; the library loads them and takes them off again.
        return ("aux1.*", "aux2.*")
    if kind == "Inception3":  # for those who build it with ``aux_logits=False``; the library takes them off again too
        return ("AuxLogits.*",)
    # A norm that was frozen in training has lost its counter, and the library drops what the file says.
    return ("*.num_batches_tracked",) if kind in _DETECTORS else ()

"""The family keeps its promises: one encoder of each architecture, and whole models."""

from zoo_core.testing import Conformance


class TestSegmentationModels(Conformance):
    family = "segmentation_models"
    models = (
        "densenet121",
        "dpn68",
        "efficientnet-b0",
        "inceptionresnetv2",
        "inceptionv4",
        "mit_b0",
        "mobilenet_v2",
        "mobileone_s0",
        "resnet18",
        "se_resnet50",
        "timm-efficientnet-b0",
        "timm-skresnet18",
        "timm-tf_efficientnet_lite0",
        "vgg11_bn",
        "xception",
    )
    tasks = ("encoder",)
    shapes_above = 15_000_000  # the larger half is looked at without values


class TestWhole(Conformance):
    family = "segmentation_models"
    models = ("unet-mobilenet_v2",)
    tasks = ("segmentation",)

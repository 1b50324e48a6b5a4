"""The family keeps its promises: one encoder of each architecture."""

from zoo_core.testing import Conformance


class TestSegmentationModels(Conformance):
    family = "segmentation_models"
    models = ("resnet18", "efficientnet-b0", "mobilenet_v2", "mobileone_s0", "vgg11_bn")
    tasks = ("encoder",)

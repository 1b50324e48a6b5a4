"""The family keeps its promises: one encoder of each architecture."""

from zoo_core.testing import Conformance


class TestSegmentationModels(Conformance):
    family = "segmentation_models"
    models = ("resnet18", "efficientnet-b0", "mobilenet_v2", "vgg11_bn", "se_resnet50", "mobileone_s0")
    tasks = ("encoder",)

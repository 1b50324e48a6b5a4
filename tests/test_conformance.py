"""Every installed family keeps its promises: one model of each kind quickly, all of them with `-m full`."""

from __future__ import annotations

import pytest

from zoo_core.testing import Conformance


class TestTiny(Conformance):
    family = "tiny"


class TestTorchvision(Conformance):
    family = "torchvision"
    shapes_above = 30_000_000  # AlexNet, VGG, MaxViT and ViT have their values in the full sweep
    models = (
        "alexnet",
        "convnext_tiny",
        "densenet121",
        "efficientnet_b0",
        "efficientnet_v2_s",
        "googlenet",
        "inception_v3",
        "maxvit_t",
        "mnasnet0_5",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "regnet_x_400mf",
        "regnet_y_400mf",
        "resnet18",
        "resnet50",
        "shufflenet_v2_x0_5",
        "squeezenet1_1",
        "swin_t",
        "swin_v2_t",
        "vgg11",
        "vgg11_bn",
        "vit_b_32",
    )


@pytest.mark.full
class TestEveryTorchvisionClassifier(Conformance):
    family = "torchvision"

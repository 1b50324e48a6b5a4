"""The family keeps its promises: one small model of each layout quickly, all of them with `-m full`."""

import pytest

from zoo_core.testing import Conformance


class TestTimm(Conformance):
    family = "timm"
    models = (
        *("test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_byobnet", "test_mambaout"),
        *("levit_128s", "repvit_m0_9", "deit_tiny_distilled_patch16_224", "swiftformer_xs", "efficientvim_m1"),
        *("dla46_c", "resnetv2_18", "efficientvit_m0", "efficientvit_b0", "shvit_s1", "mobilenetv3_small_050"),
        *("eva02_tiny_patch14_224", "xcit_nano_12_p16_224"),
    )


@pytest.mark.full
class TestEveryModelOfTimm(Conformance):
    family = "timm"

"""The family keeps its promises: one small model of each layout quickly, all of them with `-m full`."""

from dataclasses import replace

import pytest

import zoo_core as zoo
from zoo_core.testing import Conformance, check_stages, check_swap, shapes_above


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


def test_layers_that_are_by_chance_as_wide_as_the_head_are_not_taken_for_heads():
    own = zoo.Zoo()
    card = own.resolve("timm/test_vit")[0]
    wide = replace(card, num_classes=64, options={**card.options, "num_classes": 64}, weights=(), default=None)
    own.member("timm").cards["test_vit"] = wide
    with zoo.use(own):
        model = zoo.get("timm/test_vit", weights=None)
        assert model.blocks[0].attn.proj.out_features == zoo.anatomy(model).main.num_classes
        check_swap(wide)


def test_a_last_step_that_fits_in_part_does_not_make_a_stride_wrong():
    with shapes_above(0):
        check_stages(zoo.info("timm/levit_conv_128s"))  # 224 pixels, which it needs, are three and a half steps of 64

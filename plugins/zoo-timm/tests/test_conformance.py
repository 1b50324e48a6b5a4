"""The family keeps its promises on some small models; `tests/test_conformance.py` goes through one of each kind."""

from dataclasses import replace

import zoo_core as zoo
from zoo_core.testing import Conformance, check_stages, check_swap, shapes_above


class TestTimm(Conformance):
    family = "timm"
    models = (
        *("test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_byobnet", "test_mambaout"),
        *("levit_128s", "dla46_c"),
    )


def test_layers_that_are_by_chance_as_wide_as_the_head_are_not_taken_for_heads():
    own = zoo.Zoo()
    card = own.resolve("timm/test_vit")[0]
    wide = replace(card, num_classes=64, options={**card.options, "num_classes": 64}, weights=(), default=None)
    own.add(wide)
    with zoo.use(own):
        model = zoo.get("timm/test_vit", weights=None)
        assert model.blocks[0].attn.proj.out_features == zoo.anatomy(model).main.num_classes
        check_swap(wide)


def test_a_last_step_that_fits_in_part_does_not_make_a_stride_wrong():
    with shapes_above(0):
        check_stages(zoo.info("timm/levit_conv_128s"))  # 224 pixels, which it needs, are three and a half steps of 64

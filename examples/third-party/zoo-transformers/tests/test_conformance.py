"""The family keeps its promises: tokens with two heads, maps, a backbone, and more by their shapes."""

import torch

import zoo_core as zoo
from zoo_core.testing import Conformance


class TestTransformers(Conformance):
    family = "transformers"
    models = ("deit-tiny-distilled-*", "MobileNetV1ForImageClassification", "TextNetBackbone")
    tasks = ("classification", "encoder")


class TestOthersByShapes(Conformance):
    """Tokens read beside maps of the same numbers, a stage of each layer, windows as a batch, and closures as hooks."""

    family = "transformers"
    models = ("swin-tiny-*", "SwinBackbone", "RfDetrDinov2Backbone", "PvtV2ForImageClassification", "BitBackbone")
    tasks = ("classification", "encoder")
    shapes_above = 0


def test_each_stage_of_swin_is_read_as_tokens():
    model = zoo.get("transformers/SwinBackbone", weights=None, device="meta").eval()
    found = zoo.features(model, torch.zeros(1, 3, 224, 224, device="meta"))
    assert [tuple(each.shape[1:]) for each in found.values()] == [(3136, 96), (784, 192), (196, 384), (49, 768)]

"""The family keeps its promises: a model of tokens with two heads, one of maps, and a backbone."""

from zoo_core.testing import Conformance


class TestTransformers(Conformance):
    family = "transformers"
    models = ("deit-tiny-distilled-*", "MobileNetV1ForImageClassification", "TextNetBackbone")
    tasks = ("classification", "encoder")

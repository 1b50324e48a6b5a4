"""The family keeps its promises: the smallest model of each kind, the library's output objects included."""

from zoo_core.testing import Conformance


class TestTransformers(Conformance):
    family = "transformers"
    models = ("deit-tiny-*", "swin-tiny-*", "convnext-tiny-*")

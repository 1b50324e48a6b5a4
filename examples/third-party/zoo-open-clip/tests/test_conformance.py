"""The family keeps its promises: one tower of each kind."""

from zoo_core.testing import Conformance


class TestOpenClip(Conformance):
    family = "open_clip"
    models = ("ViT-S-32-alt", "RN50", "PE-Core-T-16-384")
    tasks = ("embedding",)
    shapes_above = 30_000_000  # RN50 is looked at without values

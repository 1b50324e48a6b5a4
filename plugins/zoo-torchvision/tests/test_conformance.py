"""What is no classifier keeps its promises: one small model of each task quickly, all of them with `-m full`."""

import pytest

from zoo_core.testing import Conformance


class TestOtherTasks(Conformance):
    family = "torchvision"
    tasks = ("detection", "keypoints", "optical_flow", "segmentation")
    models = ("ssdlite320_mobilenet_v3_large", "raft_small", "lraspp_mobilenet_v3_large")
    checks = ("stem", "in_features", "stages", "split", "swap", "in_channels", "freeze", "norms")


@pytest.mark.full
class TestEveryModelOfOtherTasks(Conformance):
    family = "torchvision"
    tasks = ("detection", "keypoints", "optical_flow", "segmentation", "video")
    shapes_above = 30_000_000

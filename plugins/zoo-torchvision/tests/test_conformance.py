"""What is no classifier keeps its promises; `tests/test_conformance.py` goes through one of each kind."""

from zoo_core.testing import Conformance


class TestOtherTasks(Conformance):
    family = "torchvision"
    tasks = ("detection", "keypoints", "optical_flow", "segmentation")
    models = ("ssdlite320_mobilenet_v3_large", "raft_small", "lraspp_mobilenet_v3_large")
    checks = ("stem", "in_features", "stages", "split", "swap", "in_channels", "freeze", "norms")

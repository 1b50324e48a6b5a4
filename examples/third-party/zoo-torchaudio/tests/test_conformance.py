"""The family keeps its promises, looked at by shapes alone."""

from zoo_core.testing import CHECKS, Conformance

_LEFT_OUT = ("training", "twins")


class TestTorchaudio(Conformance):
    family = "torchaudio"
    models = ("wav2letter",)
    tasks = ("speech",)
    shapes_above = 0


class TestEncoders(Conformance):
    """In train mode encoders drop layers by chance, and torch does not pickle their parametrized convolution."""

    family = "torchaudio"
    models = ("wav2vec2_base",)
    tasks = ("embedding",)
    checks = tuple(check.__name__ for check in CHECKS if check.__name__.removeprefix("check_") not in _LEFT_OUT)
    shapes_above = 0

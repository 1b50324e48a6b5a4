"""torch.export and ONNX Runtime on models that surgery has changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.tools import MODELS, batch, model

import zoo_core as zoo

TOOL = ("onnxruntime", "onnx", "torch")
pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_with_a_new_head_and_a_frozen_backbone_is_exported(name):
    inner = zoo.swap_head(model(name, freeze="backbone"), 3).eval()
    exported = torch.export.export(inner, (batch(name),)).module()
    torch.testing.assert_close(exported(batch(name)), inner(batch(name)), atol=1e-5, rtol=1e-4)


def test_onnx_runtime_gives_the_scores_of_several_heads(tmp_path):
    import onnxruntime

    name = "tiny/glyphnet"
    inner = zoo.swap_head(model(name), {"colour": 2, "shape": 3}).eval()
    torch.onnx.export(inner, (batch(name),), tmp_path / "net.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    found = session.run(None, {session.get_inputs()[0].name: batch(name).numpy()})
    for each, expected in zip(found, inner(batch(name)).values(), strict=True):
        assert np.abs(each - expected.detach().numpy()).max() < 1e-4

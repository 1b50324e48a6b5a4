"""pytorch-grad-cam on the layer that the anatomy names, before and after surgery."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.tools import MODELS, batch, model

import zoo_core as zoo

TOOL = "grad-cam"
pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore")]
MAPS = [name for name in MODELS if name not in {"timm/test_vit", "pretrainedmodels/squeezenet1_1"}]


@pytest.mark.parametrize("name", MAPS)
def test_the_last_stage_is_a_layer_that_it_takes_before_and_after_surgery(name):
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    inner, x = model(name).eval(), batch(name, 1)
    for _ in range(2):
        layer = inner.get_submodule(zoo.anatomy(inner).stages[-1].output)
        with GradCAM(model=inner, target_layers=[layer]) as cam:
            drawn = cam(input_tensor=x, targets=[ClassifierOutputTarget(1)])
        assert drawn.shape == (1, *x.shape[2:])
        assert np.isfinite(drawn).all()
        zoo.swap_head(inner, 3)


@pytest.mark.parametrize("name", ["timm/test_vit", "tiny/glyphnet"])
def test_a_model_that_is_frozen_needs_an_image_that_requires_a_gradient(name):
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    inner = zoo.freeze(model(name).eval(), "all")
    layer = inner.get_submodule(zoo.anatomy(inner).stages[-2].output)
    x = batch(name, 1).requires_grad_()

    def as_map(tokens):
        return tokens[:, 1:].reshape(1, 10, 10, -1).permute(0, 3, 1, 2) if tokens.dim() == 3 else tokens

    with GradCAM(model=inner, target_layers=[layer], reshape_transform=as_map) as cam:
        drawn = cam(input_tensor=x, targets=[ClassifierOutputTarget(1)])
    assert drawn.shape == (1, *x.shape[2:])


def test_zoo_draws_the_same_as_the_library():
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    inner = zoo.get("tiny/glyphnet").eval()
    image = (torch.rand(32, 32, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8).numpy()
    x = zoo.transforms(inner)(torch.from_numpy(image)[None])[None]
    layer = inner.get_submodule(zoo.anatomy(inner).stages[-1].output)
    with GradCAM(model=inner, target_layers=[layer]) as cam:
        expected = cam(input_tensor=x, targets=[ClassifierOutputTarget(5)])[0]
    found = zoo.cam(inner, image, target=5)
    assert np.abs(np.asarray(found.heatmap) - expected).max() < 1e-5

"""Decoders of segmentation_models_pytorch over an encoder of zoo, and its models under zoo's verbs."""

from __future__ import annotations

import pytest
import torch
from support.tools import MODELS, batch, model, trainable

import zoo_core as zoo

TOOL = "segmentation-models-pytorch"
pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore")]
HIERARCHICAL = [name for name in MODELS if name not in {"timm/test_vit", "tiny/glyphnet"}]


class Unet(torch.nn.Module):
    """The library's own decoder and head over the maps of an encoder."""

    def __init__(self, encoder, classes):
        super().__init__()
        from segmentation_models_pytorch.base import SegmentationHead
        from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

        steps = len(encoder.channels)
        self.encoder = encoder
        channels = [16 * 2**each for each in reversed(range(steps))]
        self.decoder = UnetDecoder((3, *encoder.channels), channels, n_blocks=steps)
        self.head = SegmentationHead(channels[-1], classes)

    def forward(self, x):
        return self.head(self.decoder([x, *self.encoder(x)]))


@pytest.mark.parametrize("name", [name for name in HIERARCHICAL if "squeezenet" not in name])
def test_its_unet_decoder_trains_over_an_encoder_that_is_frozen(name):
    bare = model(name, freeze="backbone")
    net = Unet(zoo.encoder(bare), classes=2).train()
    before = {each: tensor.clone() for each, tensor in bare.state_dict().items()}
    scores = net(batch(name))
    assert scores.shape == (2, 2, 64, 64)
    scores.square().mean().backward()
    assert all(each.grad is not None for each in net.decoder.parameters())
    assert zoo.drift(bare, before) == {}


def test_a_model_of_the_library_is_adopted_frozen_and_given_other_classes():
    smp = pytest.importorskip("segmentation_models_pytorch")
    net = smp.Unet("resnet18", encoder_weights=None, classes=2)
    zoo.adopt(net, example=torch.randn(1, 3, 64, 64))
    zoo.freeze(net)
    assert {each.rpartition(".")[0] for each in trainable(net)} == {zoo.anatomy(net).main.path}
    zoo.swap_head(net, 5)
    assert net.eval()(torch.randn(1, 3, 64, 64)).shape == (1, 5, 64, 64)

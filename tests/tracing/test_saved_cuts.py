"""A cut model whose forward cannot go on without what was cut off is saved and loaded."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import zoo_core as zoo

X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def block(inputs, outputs, stride):
    first = nn.Conv2d(inputs, outputs, 3, stride, 1)
    return nn.Sequential(first, nn.BatchNorm2d(outputs), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = block(3, 8, 1), block(8, 16, 2), block(16, 32, 2)
        self.up_b, self.up_a, self.out = block(48, 16, 1), block(24, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        a = self.a(x)
        b = self.b(a)
        up = functional.interpolate(self.c(b), scale_factor=2)
        up = functional.interpolate(self.up_b(torch.cat([up, b], 1)), scale_factor=2)
        return self.out(self.up_a(torch.cat([up, a], 1)))


@pytest.mark.parametrize("cut", [lambda net: zoo.truncate(net, after="b"), lambda net: zoo.encoder(net, at=["b"])])
def test_front_of_a_unet_is_saved_and_loaded(cut, tmp_path):
    zoo.register("own/unet", input_size=(3, 32, 32))(UNet)
    front = cut(zoo.get("own/unet", weights=None, seed=0)).eval()
    loaded = zoo.load(zoo.save(front, tmp_path / "front"))
    torch.testing.assert_close(loaded(X), front(X), rtol=0, atol=0)

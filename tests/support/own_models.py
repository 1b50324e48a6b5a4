"""Modules that no plugin declares, as people write them: what ``zoo.adopt(model, example=...)`` is tried on."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from zoo_core.plugin import Card


def lenet_sequential():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


class LeNetList(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)])
        self.layers = nn.ModuleList([nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)])

    def forward(self, x):
        for convolution in self.convolutions:
            x = functional.max_pool2d(functional.relu(convolution(x)), 2)
        x = x.view(x.size(0), -1)
        for layer in self.layers[:-1]:
            x = functional.dropout(functional.relu(layer(x)), 0.5, training=self.training)
        return functional.log_softmax(self.layers[-1](x), dim=1)


class LeNetDict(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.parts = nn.ModuleDict(
            {
                "c1": nn.Conv2d(1, 6, 5, padding=2),
                "pool": nn.MaxPool2d(2),
                "c3": nn.Conv2d(6, 16, 5),
                "f5": nn.Linear(400, 84),
                "out": nn.Linear(84, classes),
            }
        )

    def forward(self, x):
        x = self.parts["pool"](torch.tanh(self.parts["c1"](x)))
        x = self.parts["pool"](torch.tanh(self.parts["c3"](x)))
        x = torch.tanh(self.parts["f5"](torch.flatten(x, 1)))
        return self.parts["out"](x)


def double(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.down3 = double(3, 8), double(8, 16), double(16, 32)
        self.up2, self.up1 = nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)
        self.merge2, self.merge1 = double(32, 16), double(16, 8)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        one = self.down1(x)
        two = self.down2(functional.max_pool2d(one, 2))
        three = self.down3(functional.max_pool2d(two, 2))
        x = self.merge2(torch.cat([two, self.up2(three)], 1))
        x = self.merge1(torch.cat([one, self.up1(x)], 1))
        return self.out(x)


class AutoEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(16, 8, 2, 2), nn.ReLU(), nn.ConvTranspose2d(8, 1, 2, 2), nn.Sigmoid()
        )

    def forward(self, x):
        return self.decoder(self.encoder(x))


class TwoTowers(nn.Module):
    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.image_out = nn.Linear(8, 16)
        self.words = nn.EmbeddingBag(50, 12)
        self.words_out = nn.Linear(12, 16)
        self.scale = nn.Parameter(torch.ones([]))

    def forward(self, image, words):
        one = functional.normalize(self.image_out(self.image(image)), dim=-1)
        two = functional.normalize(self.words_out(self.words(words)), dim=-1)
        return self.scale.exp() * one @ two.t()


class Block1d(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(inputs, outputs, 3, stride, 1), nn.BatchNorm1d(outputs)
        self.conv2, self.bn2 = nn.Conv1d(outputs, outputs, 3, 1, 1), nn.BatchNorm1d(outputs)
        self.short = nn.Conv1d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.short(x))


class ResNet1d(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(2, 8, 7, 2, 3), nn.BatchNorm1d(8), nn.ReLU())
        self.body = nn.ModuleList([Block1d(8, 8, 1), Block1d(8, 16, 2), Block1d(16, 32, 2)])
        self.out = nn.Linear(32, 5)

    def forward(self, x):
        x = self.stem(x)
        for block in self.body:
            x = block(x)
        return self.out(x.mean(-1))


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.embed = nn.Linear(8, 16)
        self.compare = nn.Linear(16, 1)

    def forward(self, one, two):
        one, two = (self.embed(self.net(each)) for each in (one, two))
        return torch.sigmoid(self.compare((one - two).abs()))


IMAGE = torch.zeros(1, 1, 28, 28)
CASES = {
    "sequential": (lenet_sequential, IMAGE),
    "list": (LeNetList, IMAGE),
    "dict": (LeNetDict, IMAGE),
    "unet": (UNet, torch.zeros(1, 3, 32, 32)),
    "autoencoder": (AutoEncoder, torch.zeros(1, 1, 32, 32)),
    "towers": (TwoTowers, (torch.zeros(1, 3, 32, 32), torch.zeros(1, 4, dtype=torch.long))),
    "resnet1d": (ResNet1d, torch.zeros(1, 2, 128)),
    "siamese": (Siamese, (torch.zeros(1, 1, 28, 28), torch.zeros(1, 1, 28, 28))),
}


def cards():
    """The catalogue of a family that leaves its anatomy to tracing."""
    return [Card("acme", "net", build="support.own_models:LeNetDict", input_size=(1, 28, 28), num_classes=10)]

"""Small networks that are unlike the one in toys.py, with their anatomies: tokens, large strides, a detector."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy, interpolate, pixel_unshuffle

from support import toys
from zoo_core import Anatomy, Head, Stage


class Tokens(nn.Module):
    """A class token and one for each 8 by 8 pixels; images of any size."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 8, stride=8)
        self.first = nn.Parameter(torch.randn(1, 1, 6))
        self.block = nn.LayerNorm(6)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, x):
        places = self.embed(x).flatten(2).transpose(1, 2)
        return self.fc(self.block(torch.cat([self.first.expand(len(x), -1, -1), places], 1)).mean(1))


class OneSize(Tokens):
    """Images of 64 pixels a side, and of no other size."""

    def forward(self, x):
        assert x.shape[-1] == 64
        return super().forward(x)


class Resizing(Tokens):
    """Images of any size, which it sees at 224 pixels a side."""

    def forward(self, x):
        return super().forward(interpolate(x, (224, 224)))


class Remembering(Tokens):
    """It keeps, in a buffer that is in no file, where the tokens of the last image lie."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.register_buffer("places", torch.zeros(1), persistent=False)

    def forward(self, x):
        self.places = torch.linspace(0, 1, x[0, 0].numel() // 64, device=x.device)
        return super().forward(x)


def tokens(stride=8):
    def anatomy(model):
        return Anatomy(
            heads=(Head("fc", in_features=6, num_classes=model.fc.out_features),),
            stem=("embed",),
            stages=(Stage("block", ("block",), 6, stride),),
            layout="NLC",
        )

    return anatomy


class Unshuffled(nn.Module):
    """Its first layer sees the four pixels of a block side by side."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(12, 6, 1)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, x):
        return self.fc(self.conv1(pixel_unshuffle(x, 2)).mean((2, 3)))


class Mixed(Unshuffled):
    """It sees sums of two channels, so that no input comes from one of them."""

    def forward(self, x):
        return super().forward(x + x.roll(1, 1))


def unshuffled(model):
    return Anatomy(
        heads=(Head("fc", in_features=6, num_classes=model.fc.out_features),),
        stem=("conv1",),
        stages=(Stage("first", ("conv1",), 6, 2),),
    )


class Blind(toys.Toy):
    """Its scores do not depend on the image before it is trained."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        nn.init.zeros_(self.conv1.weight)


class Faint(toys.Toy):
    """What it sees is lost in rounding before it is trained."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        for layer in (self.conv1, self.layer1[0], self.layer2[0]):
            nn.init.normal_(layer.weight, std=3e-5)
            nn.init.zeros_(layer.bias)


class Weighted(toys.Toy):
    """Its scores are weighted by how bright the image is."""

    def forward(self, x):
        scores = super().forward(x)
        return scores if self.training else scores * x.mean((1, 2, 3)).unsqueeze(1)


class NormedPatches(nn.Module):
    """The numbers of each patch of the image are normalized before its first linear layer."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.first, self.embed = nn.LayerNorm(192), nn.Linear(192, 6)
        self.block, self.fc = nn.LayerNorm(6), nn.Linear(6, num_classes)

    def forward(self, x):
        places = pixel_unshuffle(x, 8).flatten(2).transpose(1, 2)
        return self.fc(self.block(self.embed(self.first(places))).mean(1))


class Sound(nn.Module):
    """Signals of one axis."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 4, 9, stride=4, padding=4), nn.Conv1d(4, 6, 9, stride=4, padding=4)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, x):
        return self.fc(self.second(self.first(x)).mean(2))


def sound(model):
    return Anatomy(
        heads=(Head("fc", in_features=6, num_classes=model.fc.out_features),),
        stem=("first",),
        stages=(Stage("second", ("second",), 6, 16),),
    )


class Deep(nn.Module):
    """Two convolutions of a stride of 8 each, or of other strides for rows and columns."""

    strides = (8, 8)

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 7, stride=self.strides, padding=3)
        self.second = nn.Conv2d(4, 6, 7, stride=8, padding=3)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, x):
        return self.fc(self.second(self.first(x)).mean((2, 3)))


class Flat(Deep):
    """Rows shrink more than columns."""

    strides = (16, 8)


def deep(stride=64):
    def anatomy(model):
        return Anatomy(
            heads=(Head("fc", in_features=6, num_classes=model.fc.out_features),),
            stem=("first",),
            stages=(Stage("second", ("second",), 6, stride),),
        )

    return anatomy


class Detector(nn.Module):
    """One box an image: its scores, and four numbers for each class. It resizes its images to 64 pixels a side."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.mean = [0.5, 0.5, 0.5]
        self.conv1 = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.scores = nn.Linear(4, num_classes)
        self.boxes = nn.Linear(4, 4 * num_classes)

    def forward(self, images, targets=None):
        mean = torch.tensor(self.mean, device=images[0].device)[:, None, None]
        x = torch.stack([interpolate((each - mean)[None], (64, 64))[0] for each in images])
        seen = self.bn1(self.conv1(x)).mean((2, 3))
        scores, boxes = self.scores(seen), self.boxes(seen).view(len(seen), self.num_classes, 4)
        if not self.training:
            return [{"scores": each.softmax(0), "boxes": box} for each, box in zip(scores, boxes, strict=True)]
        labels = torch.cat([target["labels"] for target in targets])
        expected = torch.cat([target["boxes"] for target in targets])
        chosen = boxes[torch.arange(len(labels)), labels]
        return {"classes": cross_entropy(scores, labels), "boxes": (chosen - expected).abs().mean()}


class Restless(Detector):
    """Whatever is frozen trains again with ``train()``."""

    def train(self, mode=True):
        super().train(mode)
        return self.requires_grad_() if mode else self


def detector(*, boxes=True, attributes=("num_classes",), stride=2, per_channel=("mean",)):
    def anatomy(model):
        count = model.scores.out_features
        heads = [Head("scores", in_features=4, num_classes=count, attributes=attributes)]
        if boxes:
            heads.append(Head("boxes", in_features=4, num_classes=count, role="box", per_class=4))
        return Anatomy(
            heads=tuple(heads),
            stem=("conv1",),
            stages=(Stage("first", ("conv1", "bn1"), 4, stride),),
            indivisible="a detector scores boxes, and not one vector an image",
            per_channel=per_channel,
        )

    return anatomy

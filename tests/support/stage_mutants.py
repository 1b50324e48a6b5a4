"""Plugins whose stages begin, end or are called as those of no right one, and whose features are no last map."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from support.mutants import Mutant
from zoo_core import Anatomy, Chain, Head, Stage, flatten


class Block(nn.Module):
    """A residual block."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(inputs, outputs, 3, stride, 1), nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.short = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        return self.conv2(self.conv1(x).relu()) + self.short(x)


class Blocks(nn.Module):
    """Three stages of two blocks each."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, 2, 1)
        self.layer1 = nn.Sequential(Block(4, 6, 2), Block(6, 6, 1))
        self.layer2 = nn.Sequential(Block(6, 8, 2), Block(8, 8, 1))
        self.layer3 = nn.Sequential(Block(8, 12, 2), Block(12, 12, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(12, num_classes)

    def forward(self, x):
        return self.fc(self.pool(self.layer3(self.layer2(self.layer1(self.conv1(x))))).flatten(1))


FIRST, SECOND, THIRD = (
    Stage(f"layer{number}", (f"layer{number}",), channels, stride)
    for number, channels, stride in ((1, 6, 4), (2, 8, 8), (3, 12, 16))
)


def blocks(*stages, **changes):
    """The right anatomy of Blocks, but for stages or other fields."""

    def anatomy(model):
        right = Anatomy(
            heads=(Head("fc", 12, model.fc.out_features),),
            stem=("conv1",),
            stages=(FIRST, SECOND, THIRD),
            features=Chain("conv1", "layer1", "layer2", "layer3"),
            pool=Chain("pool", flatten),
        )
        return replace(right, **({"stages": stages} if stages else {}), **changes)

    return anatomy


def _stages(check, says, *stages, **changes):
    return Mutant(check, says, blocks(*stages, **changes), {"build": "support.stage_mutants:Blocks"})


def turned(model, output):
    return output.transpose(-1, -2)


MUTANTS = {
    "block of stage 3 counted to stage 2": _stages(
        "borders",
        "stage layer2 goes on after its resolution changes: ['layer2'] gives larger maps than 'layer3.0'",
        FIRST,
        Stage("layer2", ("layer2", "layer3.0"), 12, 16),
        Stage("layer3", ("layer3.1",), 12, 16),
    ),
    "block between stages that no stage names": _stages(
        "borders",
        "stage layer2 ends before ['layer2.1'], which gives a map of as many channels",
        FIRST,
        replace(SECOND, modules=("layer2.0",)),
        THIRD,
    ),
    "blocks of a stage in another order": _stages(
        "borders",
        "stage layer2: ['layer2.1'] runs after 'layer2.0', which is named last",
        FIRST,
        replace(SECOND, modules=("layer2.1", "layer2.0")),
        THIRD,
    ),
    "stage that ends inside a block": _stages(
        "borders",
        "stage layer2 ends inside 'layer2.1': stage layer3 is computed from",
        FIRST,
        replace(SECOND, modules=("layer2.0", "layer2.1.conv1", "layer2.1.conv2")),
        THIRD,
    ),
    "two stages with each other's names": _stages(
        "stages",
        "a stage cannot be called 'layer2': that is the path of a module of stage layer1",
        replace(FIRST, name="layer2"),
        replace(SECOND, name="layer1"),
        THIRD,
    ),
    "stage whose rows and columns are exchanged": _stages(
        "stages", "gives a map whose rows are the columns of the image", FIRST, replace(SECOND, read=turned), THIRD
    ),
    "features with the pool": _stages(
        "split",
        "Anatomy.features gives [1, 12, 1, 1], and no map or tokens",
        features=Chain("conv1", "layer1", "layer2", "layer3", "pool"),
        pool=Chain(flatten),
    ),
    "features without the last stage": _stages(
        "split",
        "Anatomy.features leaves out stage layer3",
        features=Chain("conv1", "layer1", "layer2"),
        pool=Chain("layer3", "pool", flatten),
    ),
    "split that is there, and a reason for none": _stages(
        "split",
        "and tracing splits it, bit for bit",
        features=None,
        pool=None,
        indivisible="I did not know how to write it",
    ),
}

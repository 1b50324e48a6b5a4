"""Decoders that give more outputs when they train, after an encoder that gives the maps of all its stages."""

import pytest
import torch
from torch import nn

import zoo_core as zoo

X = torch.zeros(1, 3, 32, 32)


def block(i, o, stride=1):
    return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1), nn.BatchNorm2d(o), nn.ReLU())


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.levels = nn.Conv2d(3, 4, 3, 1, 1), nn.ModuleList()
        for width, down in ((4, nn.Conv2d(4, 8, 3, 2, 1)), (8, nn.Conv2d(8, 16, 3, 2, 1)), (16, nn.Identity())):
            self.levels.append(nn.ModuleDict({"blocks": block(width, width), "down": down}))

    def forward(self, x):
        x, maps = self.first(x), []
        for level in self.levels:
            maps.append(level["blocks"](x))
            x = level["down"](maps[-1])
        return maps


class Decoding(nn.Module):
    """As MONAI's SegResNetDS: each level of the decoder has a head, of which all but the last only train."""

    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.ups = nn.ModuleList(
            nn.ModuleDict({"up": nn.ConvTranspose2d(2 * w, w, 2, 2), "blocks": block(w, w), "head": nn.Conv2d(w, 5, 1)})
            for w in (8, 4)
        )

    def forward(self, x):
        *maps, x = self.encoder(x)
        scores = []
        for level in self.ups:
            x = level["blocks"](level["up"](x) + maps.pop())
            scores.insert(0, level["head"](x))
        return scores if self.training else scores[0]


@pytest.fixture
def net():
    torch.manual_seed(0)
    return zoo.adopt(Decoding(), example=X)


def test_the_parts_of_a_model_with_more_outputs_in_training_give_the_main_ones(net):
    x = torch.randn(2, 3, 32, 32)
    backbone, head = zoo.split(net.train())
    wanted = net(x)[0]
    assert torch.allclose(head(backbone(x)), wanted, atol=1e-6)


def test_stages_of_an_encoder_that_gives_all_its_maps_are_those_levels(net):
    stages = zoo.anatomy(net).stages
    assert [(stage.output, stage.channels, stage.stride) for stage in stages] == [
        ("encoder.levels.0.blocks", 4, 1),
        ("encoder.levels.1.blocks", 8, 2),
        ("encoder.levels.2.blocks", 16, 4),
    ]


def test_the_encoder_of_such_a_model_holds_no_parameter_that_its_maps_do_not_need(net):
    encoder = zoo.encoder(net.train())
    sum(each.sum() for each in encoder(torch.randn(2, 3, 32, 32))).backward()
    assert [name for name, each in encoder.named_parameters() if each.grad is None] == []


class Exchanging(nn.Module):
    """As a module of HRNet: two resolutions run side by side and are joined."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse, self.down = block(8, 8), block(16, 16), nn.Conv2d(8, 16, 3, 2, 1)

    def forward(self, maps):
        fine, coarse = self.fine(maps[0]), self.coarse(maps[1])
        return [fine + nn.functional.interpolate(coarse[:, :8], scale_factor=2.0), coarse + self.down(fine)]


class SideBySide(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.first, self.down = nn.Conv2d(3, 8, 3, 2, 1), block(8, 8), nn.Conv2d(8, 16, 3, 2, 1)
        self.second, self.fc = nn.Sequential(Exchanging(), Exchanging()), nn.Linear(24, 5)

    def forward(self, x):
        x = self.first(self.stem(x))
        return self.fc(torch.cat([each.mean((2, 3)) for each in self.second([x, self.down(x)])], 1))


def test_a_module_whose_parts_give_maps_of_several_resolutions_is_one_stage():
    stages = zoo.trace(SideBySide(), X).anatomy.stages
    assert [stage.output for stage in stages][-1] == "second"

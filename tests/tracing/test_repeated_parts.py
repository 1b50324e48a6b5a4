"""Networks that call a part twice, or add what a part gives to what it was given: stages are what modules give."""

import pytest
import torch
from torch import nn

import zoo_core as zoo

IMAGE = torch.zeros(1, 3, 32, 32)


def conv(inputs, outputs, stride=1):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU())


def found(model, x=IMAGE):
    return [(stage.modules, stage.channels, stage.stride) for stage in zoo.trace(model, x).anatomy.stages]


class SumsOutside(nn.Module):
    """Its forward adds the residuals itself, as the ResNet-9 of DAWNBench does, or in another way."""

    def __init__(self, join):
        super().__init__()
        self.join, self.norm, self.scale = join, nn.BatchNorm2d(16), nn.Parameter(torch.ones(1, 16, 1, 1))
        self.one, self.two, self.residual = conv(3, 8), conv(8, 16, 2), nn.Sequential(conv(16, 16), conv(16, 16))
        self.three, self.four, self.fc = conv(16, 32, 2), conv(32, 64, 2), nn.Linear(64, 10)

    def forward(self, x):
        x = self.two(self.one(x))
        x = self.join(self, x)
        return self.fc(self.four(self.three(x)).amax((2, 3)))


class Pair(nn.Module):
    """One trunk for two images."""

    def __init__(self):
        super().__init__()
        self.trunk, self.fc = nn.Sequential(conv(3, 8, 2), conv(8, 16, 2)), nn.Linear(16, 2)

    def forward(self, x, y):
        return self.fc((self.trunk(x).mean((2, 3)) - self.trunk(y).mean((2, 3))).abs())


class HeadOnTwoMaps(nn.Module):
    """One head scores the last map first, and then the one before it."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.side = conv(3, 8, 2), conv(8, 16, 2), nn.Conv2d(8, 16, 1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = self.one(x)
        return self.fc(self.two(x).mean((2, 3))) + self.fc(self.side(x).mean((2, 3)))


class ImageAndAge(nn.Module):
    """A number goes to the head directly."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.fc = conv(3, 8, 2), conv(8, 16, 2), nn.Linear(17, 4)

    def forward(self, x, age):
        return self.fc(torch.cat([self.two(self.one(x)).mean((2, 3)), age], 1))


@pytest.mark.parametrize(
    ("join", "third"),
    [
        (lambda model, x: model.residual(x) + x, ("three",)),
        (lambda model, x: x - model.scale * model.residual(x).relu(), ("three",)),
        (lambda model, x: x + model.residual(model.norm(x)), ("norm", "three")),  # the norm is registered before all
    ],
)
def test_a_residual_that_forward_adds_itself_ends_no_stage(join, third):
    assert found(SumsOutside(join)) == [(("two",), 16, 2), (third, 32, 4), (("four",), 64, 8)]


def test_a_residual_between_stages_is_frozen_with_the_stage_before_it():
    model = zoo.freeze(zoo.adopt(SumsOutside(lambda model, x: model.residual(x) + x), example=IMAGE), until="three")
    trained = {name.partition(".")[0] for name, each in model.named_parameters() if each.requires_grad}
    assert trained == {"three", "four", "fc"}


def test_no_stage_of_a_trunk_that_runs_twice_is_inside_another():
    assert found(Pair(), (IMAGE, IMAGE)) == [(("trunk.1",), 16, 4)]


class TwoScales(nn.Module):
    """One trunk for an image, and for the same at half its size."""

    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two, self.fc = conv(3, 8), conv(8, 8, 2), conv(8, 16, 2), nn.Linear(16, 2)

    def forward(self, x):
        large, small = (self.two(self.one(self.stem(each))) for each in (x, nn.functional.avg_pool2d(x, 2)))
        return self.fc(large.mean((2, 3)) + small.mean((2, 3)))


@pytest.mark.parametrize(
    "verb",
    [
        lambda model: zoo.features(model, IMAGE),
        lambda model: zoo.truncate(model, after="two")(IMAGE),
        lambda model: zoo.encoder(model, at=["two"])(IMAGE),
    ],
    ids=["features", "truncate", "encoder"],
)
def test_a_stage_with_a_map_for_each_of_several_inputs_is_refused_by_name(verb):
    model = zoo.adopt(TwoScales().eval(), example=IMAGE)
    with pytest.raises(zoo.errors.NotSupported, match=r"forward runs '(one|two)' 2 times, each time on another input"):
        verb(model)


def test_a_part_that_runs_on_several_inputs_is_adopted_alone_as_the_error_advises():
    part, x = TwoScales().eval().two, torch.randn(1, 8, 16, 16)
    zoo.adopt(part, example=x)
    assert torch.equal(zoo.truncate(part, after=zoo.anatomy(part).stages[-1].name)(x), part(x))


class AgainAndAgain(nn.Module):
    """One block three times, each time on what it gave before."""

    def __init__(self):
        super().__init__()
        self.stem, self.body, self.down, self.fc = conv(3, 8, 2), conv(8, 8), conv(8, 16, 2), nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x)
        for _ in range(3):
            x = x + self.body(x)
        return self.fc(self.down(x).mean((2, 3)))


def test_a_stage_that_runs_on_what_it_gave_itself_has_the_last_map():
    model = zoo.adopt(AgainAndAgain().eval(), example=IMAGE, stages=["body", "down"])
    x, maps = torch.randn(1, 3, 32, 32), []
    model.body.register_forward_hook(lambda _module, _args, output: maps.append(output.clone()))
    assert torch.equal(zoo.features(model, x)["body"], maps[-1])
    assert torch.equal(zoo.encoder(model, at=["body"])(x)[0], maps[2])


def test_stages_of_a_head_that_runs_twice_lead_to_the_deepest_map_of_both():
    assert found(HeadOnTwoMaps()) == [(("two",), 16, 4)]


def test_a_head_that_is_given_an_input_itself_is_no_stem():
    anatomy = zoo.trace(ImageAndAge(), (IMAGE, torch.zeros(1, 1))).anatomy
    assert (anatomy.stem, anatomy.main.path) == (("one.0",), "fc")
    assert zoo.trace(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), torch.zeros(1, 3, 2, 2)).anatomy.stem == ("1",)

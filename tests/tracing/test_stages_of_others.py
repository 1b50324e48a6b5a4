"""Kinds of networks of other libraries of which stages, or a head, were found where there are none."""

import weakref

import pytest
import torch
from torch import nn

import zoo_core as zoo
from zoo_core.errors import AnatomyError, NotSupported
from zoo_core.tracing.recording import record

IMAGE = torch.zeros(1, 3, 16, 16)


class Residual(nn.Module):
    """A layer of which the output is added to its input by the module around it."""

    def __init__(self, width, depth):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(2)]) for _ in range(depth)
        )

    def forward(self, x):
        for one, two in self.layers:
            x = x + one(x)
            x = x + two(x)
        return x


class Patches(nn.Module):
    """Patches as tokens, and what turns them."""

    def __init__(self, body, channels=3, extra=0):
        super().__init__()
        self.patches, self.body, self.out = nn.Linear(16 * channels, 8), body, nn.Linear(8, 4)
        self.extra = nn.Parameter(torch.zeros(1, extra, 8))

    def forward(self, x):
        x = nn.functional.unfold(x, 4, stride=4).transpose(1, 2)
        x = torch.cat([self.extra.expand(len(x), -1, -1), self.patches(x)], 1)
        return self.out(self.body(x).mean(1))


class Attention(nn.Module):
    """Attention of which the keys and values are of a lower resolution, added to its input."""

    def __init__(self):
        super().__init__()
        self.query, self.keys = nn.Conv2d(8, 8, 1), nn.Sequential(nn.Conv2d(8, 8, 2, 2), nn.BatchNorm2d(8))

    def forward(self, x):
        keys = self.keys(x).flatten(2)
        weights = (self.query(x).flatten(2).transpose(1, 2) @ keys).softmax(-1)
        return x + (weights @ keys.transpose(1, 2)).transpose(1, 2).reshape(x.shape)


class Lines(nn.Module):
    """Features of steps in time, the features last, and convolved over time where ``turned``."""

    def __init__(self, turned):
        super().__init__()
        self.turned = turned
        layers = [nn.Linear(64, 32), nn.Linear(32, 16)]
        if turned:
            layers = [nn.Conv1d(64, 32, 3, 2, 1), nn.Conv1d(32, 16, 3, 2, 1)]
        self.one, self.two, self.out = (*layers, nn.Linear(16, 4))

    def forward(self, x):
        x = self.two(self.one(x.transpose(1, 2) if self.turned else x).relu())
        return self.out(x.mean(2 if self.turned else 1))


class Stage(nn.Module):
    """A layer that lowers the resolution, and a block."""

    def __init__(self, inputs, outputs, by):
        super().__init__()
        self.down = nn.Conv2d(inputs, outputs, by, by)
        self.block = Block(outputs)

    def forward(self, x):
        return self.block(self.down(x))


class Block(nn.Module):
    """Two convolutions, added to their input."""

    def __init__(self, width):
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x):
        return x + self.two(self.one(x).relu())


def pooled(*layers, width):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))


def steps(model, x):
    return [(each.output, each.channels, each.stride) for each in zoo.trace(model, x).anatomy.stages]


def test_what_is_added_to_its_input_elsewhere_is_no_stage():
    assert steps(Patches(Residual(8, 2)), IMAGE) == [("body", 8, 4)]


def test_a_stride_divides_the_image_whatever_tokens_are_put_beside():
    assert {stride for _, _, stride in steps(Patches(Residual(8, 2), extra=2), IMAGE)} <= {4}


class Mlp(nn.Module):
    """Two linear layers, added to their input."""

    def __init__(self, width):
        super().__init__()
        self.one, self.two = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        return x + self.two(self.one(x).relu())


class FixedGrid(nn.Module):
    """Patches that overlap, or leave a rest of the image out, and class tokens; of one size of images alone."""

    def __init__(self, size, patch, stride, tokens):
        super().__init__()
        steps = (size - patch) // stride + 1
        self.patches = nn.Conv2d(3, 8, patch, stride)
        self.position = nn.Parameter(torch.zeros(1, steps**2, 8))
        self.classes = nn.Parameter(torch.zeros(1, tokens, 8))
        self.blocks = nn.Sequential(Mlp(8), Mlp(8))
        self.out = nn.Linear(8, 4)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        tokens = torch.cat([self.classes.expand(len(x), -1, -1), tokens], 1)
        return self.out(self.blocks(tokens)[:, 0])


@pytest.mark.parametrize(("size", "patch", "stride", "tokens"), [(384, 14, 14, 1), (224, 14, 7, 1), (224, 14, 7, 2)])
def test_a_grid_that_does_not_divide_the_image_has_the_stride_of_its_convolution(size, patch, stride, tokens):
    model = FixedGrid(size, patch, stride, tokens)
    assert {each for _, _, each in steps(model, torch.zeros(1, 3, size, size))} == {stride}


def test_the_two_tokens_of_a_distilled_model_are_no_map():
    model = zoo.get("timm/pit_ti_distilled_224", weights=None, device="meta")
    found = zoo.trace(model, torch.zeros(1, 3, 224, 224)).anatomy.stages
    assert [(stage.channels, stage.stride) for stage in found] == [(64, 8), (128, 16), (256, 32)]


def test_keys_of_a_lower_resolution_are_no_stage():
    model = pooled(nn.Conv2d(3, 8, 4, 4), Stage(8, 8, 1), Attention(), width=8)
    assert [stride for _, _, stride in steps(model, torch.zeros(1, 3, 32, 32))] == [4]


def test_features_of_steps_in_time_are_channels_and_not_a_resolution():
    assert steps(Lines(turned=False), torch.zeros(1, 32, 64)) == []


def test_a_signal_that_is_turned_before_it_is_convolved_is_measured_along_time():
    assert steps(Lines(turned=True), torch.zeros(1, 32, 64)) == [("one", 32, 2), ("two", 16, 4)]


def test_a_first_stage_of_the_kind_of_the_others_is_no_stem():
    model = pooled(Stage(3, 8, 4), Stage(8, 12, 2), Stage(12, 16, 2), width=16)
    assert steps(model, torch.zeros(1, 3, 64, 64)) == [("0", 8, 4), ("1", 12, 8), ("2", 16, 16)]


class Ensemble(nn.Module):
    """Scores of several networks, averaged."""

    def __init__(self):
        super().__init__()
        self.members = nn.ModuleList(pooled(nn.Conv2d(3, 8, 3, 2, 1), width=8) for _ in range(2))

    def forward(self, x):
        return sum(member(x) for member in self.members) / 2


def test_stages_of_one_network_of_several_are_not_those_of_all():
    trace = zoo.trace(Ensemble(), IMAGE)
    assert trace.anatomy.stages == ()
    assert "beside or after the last stage" in trace.missing["stages"]


class Embedding(nn.Module):
    """A vector of length one."""

    def __init__(self):
        super().__init__()
        self.body, self.out = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        return nn.functional.normalize(self.out(self.body(x).relu()))


def test_an_embedding_has_no_head_unless_the_user_names_it():
    x = torch.randn(2, 8)
    assert zoo.trace(Embedding(), x).missing["head"] == "out: forward calls normalize with what it gives"
    assert zoo.swap_head(zoo.adopt(Embedding(), example=x, head="out"), 3)(x).shape == (2, 3)


class Encoder(Patches):
    """Gives a vector for each patch."""

    def forward(self, x):
        return self.out(self.body(self.patches(nn.functional.unfold(x, 4, stride=4).transpose(1, 2))))


def test_the_last_layer_of_an_encoder_of_tokens_is_no_head_unless_the_user_names_it():
    trace = zoo.trace(Encoder(Residual(8, 2)), IMAGE)
    assert (trace.anatomy.heads, trace.candidates) == ((), ("out",))
    assert zoo.swap_head(zoo.adopt(Encoder(Residual(8, 2)), example=IMAGE, head="out"), 3)(IMAGE).shape == (1, 16, 3)


class Recognizer(nn.Module):
    """Reads text: scores for each column of an image."""

    def __init__(self):
        super().__init__()
        self.columns, self.rnn = nn.Conv2d(3, 8, (16, 4), stride=4), nn.LSTM(8, 6, batch_first=True)
        self.out = nn.Linear(6, 11)

    def forward(self, x):
        return self.out(self.rnn(self.columns(x).flatten(2).transpose(1, 2))[0])


@pytest.mark.parametrize("build", [lambda: Encoder(Residual(8, 2)), Recognizer])
def test_a_last_layer_of_tokens_is_no_part_of_a_stage_and_a_head_where_it_is_named(build):
    model = zoo.adopt(build().eval(), example=IMAGE)
    with pytest.raises(NotSupported, match="head= may be 'out'"):
        zoo.swap_head(model, 3)
    named = zoo.adopt(build().eval(), example=IMAGE, head="out")
    assert zoo.anatomy(model).stages == zoo.anatomy(named).stages
    assert zoo.swap_head(zoo.freeze(named), 3)(IMAGE).shape[-1] == 3


class Cosine(nn.Linear):
    """Compares directions: a plain layer in its place would compare lengths too."""

    def forward(self, x):
        return super().forward(nn.functional.normalize(x))


class Plain(nn.Linear):
    """A layer with a method more."""


@pytest.mark.parametrize(("kind", "paths"), [(Cosine, []), (Plain, ["1"])])
def test_a_layer_that_computes_more_is_not_replaced_by_a_plain_one(kind, paths):
    trace = zoo.trace(nn.Sequential(nn.Linear(8, 8), kind(8, 4)), torch.randn(2, 8))
    assert [head.path for head in trace.anatomy.heads] == paths


def test_a_model_that_fails_with_values_alone_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.LayerNorm(8), nn.Flatten(), nn.Linear(8 * 196, 4))
    with pytest.raises(AnatomyError, match="does not run on the example"):
        zoo.adopt(model, example=IMAGE)


class Replacing(nn.Module):
    """Puts another tensor in the place of its buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("grid", torch.zeros(1))

    def forward(self, x):
        before = weakref.ref(self.grid)
        self.grid = torch.zeros(2)
        self.is_kept = before() is not None
        return x + 1


def test_the_id_of_a_buffer_that_forward_replaces_stays_taken_while_it_is_recorded():
    model = Replacing()
    record(model, (torch.zeros(2, 8),), {})
    assert model.is_kept

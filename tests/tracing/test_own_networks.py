"""Networks as people write them, of the kinds that tracing took wrongly once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

import pytest
import torch

import zoo_core as zoo
from zoo_core.errors import AnatomyError, NotSupported, UsageError


class Answers(torch.nn.Module):
    """Returns the class and no scores."""

    def __init__(self):
        super().__init__()
        self.body, self.out = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)

    def forward(self, x):
        return self.out(self.body(x).relu()).argmax(1)


def test_the_head_that_an_error_names_is_taken_when_the_user_says_it():
    model = zoo.adopt(Answers(), example=torch.zeros(1, 8))
    with pytest.raises(NotSupported, match="head= may be 'out'"):
        zoo.swap_head(model, 9)
    model = zoo.adopt(Answers(), example=torch.zeros(1, 8), head="out")
    zoo.swap_head(model, 9)
    assert model.out.out_features == 9
    assert model(torch.randn(2, 8)).shape == (2,)


class Prior(torch.nn.Module):
    """Scores with a prior for each class, and a vector beside them."""

    def __init__(self):
        super().__init__()
        self.body, self.out, self.beside = (torch.nn.Linear(8, width) for width in (8, 4, 6))
        self.register_buffer("prior", torch.ones(4))

    def forward(self, x):
        x = self.body(x).relu()
        return self.out(x) + self.prior.log(), self.beside(x)


def test_an_output_that_can_be_proven_is_not_the_main_one_beside_one_that_cannot():
    model = zoo.adopt(Prior(), example=torch.zeros(1, 8))
    assert zoo.anatomy(model).heads == ()
    with pytest.raises(NotSupported, match="an output beside the others may be the main one"):
        zoo.swap_head(model, 3)


class Signal(torch.nn.Sequential):
    """Scores for each step of a signal, averaged."""

    def __init__(self):
        super().__init__(
            torch.nn.Conv1d(4, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv1d(8, 5, 1), torch.nn.AdaptiveAvgPool1d(1)
        )


@pytest.mark.parametrize("head", [3, zoo.mlp_head(3, hidden=(6,), batch_norm=True)], ids=["number", "mlp"])
def test_a_head_that_is_a_convolution_over_a_signal_is_swapped(head):
    model = zoo.adopt(Signal().eval(), example=torch.zeros(1, 4, 32))
    backbone, classifier = zoo.split(zoo.swap_head(model, head))
    x = torch.randn(2, 4, 32)
    assert model(x).shape == (2, 3, 1)
    assert torch.equal(classifier(backbone(x)), model(x))


class Remembers(torch.nn.Module):
    """Keeps what it computed, a lock, and how often it ran."""

    def __init__(self):
        super().__init__()
        self.body, self.out = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)
        self.lock, self.activation, self.calls = threading.Lock(), None, 0

    def forward(self, x):
        self.calls += 1
        self.activation = self.body(x).relu()
        return self.out(self.activation)


def test_a_model_that_keeps_its_activations_is_adopted_and_keeps_them():
    model = Remembers()
    model(torch.randn(2, 8))
    activation = model.activation
    zoo.adopt(model, example=torch.zeros(1, 8))
    assert model.activation is activation
    assert model.calls == 1
    assert zoo.anatomy(model).main.path == "out"


def test_lazy_layers_take_their_shapes_from_the_example():
    net = torch.nn.Sequential(torch.nn.LazyConv2d(4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(5))
    model = zoo.adopt(net.eval(), example=torch.zeros(1, 3, 8, 8))
    assert zoo.anatomy(model).main == zoo.Head("3", 144, 5)
    backbone, head = zoo.split(zoo.swap_head(model, 2))
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(head(backbone(x)), model(x))


class OneBatch(torch.nn.Module):
    """Takes batches of two only, as an unrolled loop may."""

    def __init__(self):
        super().__init__()
        self.body, self.out = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)

    def forward(self, x):
        one, two = self.body(x).relu()
        return self.out(torch.stack([one, two]))


def test_a_model_of_one_batch_size_is_adopted():
    model = zoo.adopt(OneBatch(), example=torch.zeros(2, 8))
    assert zoo.swap_head(model, 3)(torch.randn(2, 8)).shape == (2, 3)


class Named(torch.nn.Module):
    """Takes its inputs by name."""

    def __init__(self):
        super().__init__()
        self.image, self.table, self.out = torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(5, 6), torch.nn.Linear(14, 4)

    def forward(self, image, table):
        return self.out(torch.cat([self.image(image).relu().mean((2, 3)), self.table(table)], 1))


def test_a_model_that_takes_inputs_by_name_is_split():
    x = {"image": torch.randn(2, 3, 8, 8), "table": torch.randn(2, 5)}
    model = zoo.adopt(Named().eval(), example=x)
    backbone, head = zoo.split(model)
    assert torch.equal(head(backbone(x)), model(**x))


class Tokens(torch.nn.Module):
    """As a ViT, with an attribute for a norm after its blocks."""

    def __init__(self):
        super().__init__()
        self.patches, self.out = torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Linear(8, 4)
        self.blocks = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)
        )

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.out(x.mean(1))


def test_an_encoder_ends_with_the_last_stage_where_forward_is_no_chain():
    model = zoo.adopt(Tokens().eval(), example=torch.zeros(1, 3, 16, 16))
    x = torch.randn(2, 3, 16, 16)
    (found,) = zoo.encoder(model)(x)
    tokens = list(zoo.features(model, x).values())[-1]
    assert torch.equal(found.flatten(2).transpose(1, 2), tokens)


class Spectrogram(torch.nn.Module):
    """A wave in, convolutions over its spectrogram."""

    def __init__(self):
        super().__init__()
        self.convolution, self.out = torch.nn.Conv2d(1, 8, 3, 2), torch.nn.Linear(8, 4)
        self.register_buffer("window", torch.hann_window(64))

    def forward(self, x):
        x = torch.stft(x.squeeze(1), 64, 32, window=self.window, return_complex=True).abs().unsqueeze(1)
        return self.out(self.convolution(x).relu().mean((2, 3)))


def test_the_stem_is_the_first_layer_after_a_transform_without_parameters():
    model = zoo.adopt(Spectrogram(), example=torch.zeros(1, 1, 1000))
    assert zoo.anatomy(model).stem == ("convolution",)


class Transitions(torch.nn.Sequential):
    """Stages, with a layer between two that belongs to neither."""

    def __init__(self):
        super().__init__(
            OrderedDict(stem=conv(3, 4), one=conv(4, 8), between=conv(8, 8), two=conv(8, 8), out=conv(8, 2))
        )


def conv(inputs, outputs):
    return torch.nn.Conv2d(inputs, outputs, 3, 2, 1)


def test_a_layer_between_two_stages_is_frozen_with_what_comes_before_the_second():
    stages = (zoo.Stage("one", ("one",), 8, 4), zoo.Stage("two", ("two",), 8, 16))
    model = zoo.adopt(Transitions(), anatomy=zoo.Anatomy((zoo.Head("out", 8, 2, "conv"),), ("stem",), stages))
    zoo.freeze(model, until="two")
    frozen = {name.partition(".")[0] for name, each in model.named_parameters() if not each.requires_grad}
    assert frozen == {"stem", "one", "between"}


class Joined(torch.nn.Module):
    """The scores of two heads, one after the other."""

    def __init__(self):
        super().__init__()
        self.body, self.one, self.two = (torch.nn.Linear(8, width) for width in (8, 4, 6))

    def forward(self, x):
        x = self.body(x).relu()
        return torch.cat([self.one(x), self.two(x)], 1)


def test_of_heads_whose_scores_are_joined_the_user_says_which_is_meant():
    model = zoo.adopt(Joined(), example=torch.zeros(1, 8))
    with pytest.raises(NotSupported, match=r"head= may be '(one|two)' or '(one|two)'"):
        zoo.swap_head(model, 3)
    model = zoo.swap_head(zoo.adopt(Joined().eval(), example=torch.zeros(1, 8), head="one"), 3)
    backbone, head = zoo.split(model)
    x = torch.randn(2, 8)
    assert model(x).shape == (2, 9)
    assert torch.equal(head(backbone(x)), model(x))


def test_a_class_is_refused_with_the_call_that_makes_a_model():
    with pytest.raises(UsageError, match=r"Joined\(\) makes one"):
        zoo.adopt(Joined, example=torch.zeros(1, 8))


class Tower(torch.nn.Module):
    """Maps of images, averaged."""

    def __init__(self, channels=3):
        super().__init__()
        self.conv, self.out = torch.nn.Conv2d(channels, 8, 3, 2, 1), torch.nn.Linear(8, 6)

    def forward(self, x):
        return self.out(self.conv(x).relu().mean((2, 3)))


class TwoTowers(torch.nn.Module):
    """Two images, each through a tower of its own."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.out = Tower(), Tower(1), torch.nn.Linear(12, 4)

    def forward(self, x, y):
        return self.out(torch.cat([self.one(x), self.two(y)], 1).relu())


PAIR = (torch.randn(2, 3, 16, 16), torch.randn(2, 1, 8, 8))


@pytest.mark.parametrize("call", [lambda run: run(*PAIR), lambda run: run(PAIR[0], y=PAIR[1])], ids=["place", "name"])
def test_the_backbone_of_a_model_of_two_images_is_called_as_the_model_is(call):
    model, seen = zoo.adopt(TwoTowers().eval(), example=PAIR), []
    model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(len(args) + len(kwargs)), with_kwargs=True)
    backbone, head = zoo.split(model)
    assert torch.equal(head(call(backbone)), model(*PAIR))
    assert seen == [2, 2]


def test_stages_of_one_tower_of_two_are_not_those_of_the_model():
    trace = zoo.trace(TwoTowers(), PAIR)
    assert trace.anatomy.stages == ()
    assert "not computed from all images that forward takes (1 missing)" in trace.missing["stages"]
    model = zoo.adopt(TwoTowers(), example=PAIR, stages={"tower": ["one.conv", "two.conv"]})
    zoo.freeze(model, until="head")
    assert {name for name, each in model.named_parameters() if each.requires_grad} == {"out.weight", "out.bias"}


class Siamese(torch.nn.Module):
    """How far two images are apart after one tower."""

    def __init__(self):
        super().__init__()
        self.tower = Tower()

    def forward(self, x, y):
        return torch.nn.functional.pairwise_distance(self.tower(x), self.tower(y))


def test_the_stages_of_a_siamese_pair_are_those_of_its_tower():
    x = torch.randn(2, 3, 16, 16)
    assert [stage.modules for stage in zoo.trace(Siamese(), (x, x)).anatomy.stages] == [("tower.conv",)]


class Batched(torch.nn.Module):
    """Takes a dict as its one argument."""

    def __init__(self):
        super().__init__()
        self.tower, self.table, self.out = Tower(), torch.nn.Linear(5, 6), torch.nn.Linear(12, 4)

    def forward(self, batch):
        return self.out(torch.cat([self.tower(batch["image"]), self.table(batch["table"])], 1).relu())


def test_a_dict_is_the_one_argument_of_a_forward_without_arguments_of_its_names():
    x = {"image": torch.randn(2, 3, 16, 16), "table": torch.randn(2, 5)}
    model = zoo.swap_head(zoo.adopt(Batched().eval(), example=x), 9)
    backbone, head = zoo.split(model)
    assert model(x).shape == (2, 9)
    assert torch.equal(head(backbone(x)), model(x))
    assert zoo.features(model, x)["conv"].shape == (2, 8, 8, 8)


class Sliced(torch.nn.Module):
    """Goes on with a part of what its last layer gives."""

    def __init__(self):
        super().__init__()
        self.tower, self.out = Tower(), torch.nn.Linear(6, 8)

    def forward(self, x):
        return self.out(self.tower(x).relu())[:, :4]


def test_a_layer_of_whose_scores_forward_drops_some_is_no_head():
    x = torch.zeros(1, 3, 16, 16)
    with pytest.raises(NotSupported, match=r"none of its last layers can be one(?s:.*)anatomy=zoo.Anatomy"):
        zoo.swap_head(zoo.adopt(Sliced(), example=x), 3)
    with pytest.raises(AnatomyError, match="forward goes on with 4 of its 8"):
        zoo.adopt(Sliced(), example=x, head="out")


class Graph(torch.nn.Module):
    """Features of nodes, each averaged over its neighbours."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.out = torch.nn.Linear(5, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)

    def forward(self, x, neighbours):
        return self.out((neighbours @ self.two((neighbours @ self.one(x)).relu())).relu().mean(1))


def test_the_stem_ends_where_an_input_weights_features():
    assert zoo.trace(Graph(), (torch.randn(2, 7, 5), torch.rand(2, 7, 7))).anatomy.stem == ("one",)


class Clips(torch.nn.Module):
    """Tokens of several frames."""

    def __init__(self):
        super().__init__()
        self.patches, self.out = torch.nn.Conv3d(3, 8, (2, 4, 4), (2, 4, 4)), torch.nn.Linear(8, 4)
        self.blocks = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)
        )

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.out(x.mean(1))


def test_tokens_of_several_frames_say_no_stride():
    trace = zoo.trace(Clips(), torch.zeros(1, 3, 4, 16, 16))
    assert trace.anatomy.main.path == "out"
    assert not any("blocks" in path for stage in trace.anatomy.stages for path in stage.modules)


class Embedder(torch.nn.Module):
    """Gives an embedding, through a projection that is a layer or a parameter, and has a place for a head."""

    def __init__(self, *, is_layer):
        super().__init__()
        self.conv1, self.conv2 = torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.Conv2d(8, 16, 3, 2, 1)
        self.projection = torch.nn.Linear(16, 12) if is_layer else torch.nn.Parameter(torch.randn(16, 12))
        self.head = torch.nn.Identity()

    def forward(self, x):
        x = self.conv2(self.conv1(x).relu()).relu().mean((2, 3))
        return self.head(self.projection(x) if callable(self.projection) else x @ self.projection)


@pytest.mark.parametrize("is_layer", [True, False])
def test_a_place_that_is_said_gets_the_head_of_a_model_that_gives_embeddings(is_layer):
    x = torch.randn(2, 3, 32, 32)
    model = zoo.adopt(Embedder(is_layer=is_layer), example=x[:1], head="head").eval()
    embeddings = model(x)
    zoo.swap_head(model, 9)
    backbone, head = zoo.split(model)
    assert torch.equal(backbone(x), embeddings)
    assert torch.equal(head(backbone(x)), model(x))
    assert model(x).shape == (2, 9)


def test_a_branch_has_the_parameters_that_its_pool_uses():
    x = torch.randn(2, 3, 32, 32)
    model = zoo.adopt(Embedder(is_layer=False), example=x[:1], head="head").eval()
    stage = zoo.anatomy(model).stages[-1].name
    assert {name: scores.shape for name, scores in zoo.branch(model, at=stage, heads={"a": 3})(x).items()} == {
        "a": (2, 3)
    }


class Pool(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.values, self.weights = torch.nn.Conv2d(8, 8, 1), torch.nn.Parameter(torch.randn(8, 1, 1))

    def forward(self, x):
        values = self.values(x)
        return (values * (values * self.weights).sigmoid()).mean((2, 3))


class Pooled(torch.nn.Module):
    """No chain, and its last map is made inside its pool."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (torch.nn.Conv2d(c, 8, 3, 2, 1) for c in (3, 8, 8))
        self.pool, self.head = Pool(), torch.nn.Linear(8, 10)

    def forward(self, x):
        x = self.conv2(self.conv1(x).relu())
        x = x + x.tanh()
        x = self.conv3(x)
        return self.head(self.pool(x + x.tanh()))


def test_a_model_is_cut_before_the_module_that_its_features_end_with():
    x = torch.randn(2, 3, 32, 32)
    model = zoo.adopt(Pooled(), example=x[:1]).eval()
    assert zoo.anatomy(model).features.path == "pool.values"
    expected = model.conv1(x)
    assert torch.equal(zoo.truncate(model, after="stage1")(x), expected)


def test_a_layer_that_gave_scores_is_the_head_and_not_the_place_after_it():
    model = zoo.adopt(Embedder(is_layer=True), example=torch.zeros(1, 3, 32, 32))
    assert zoo.anatomy(model).main.path == "projection"


class Body(torch.nn.Module):
    """A vector, and a layer that scores it."""

    def __init__(self):
        super().__init__()
        self.body, self.out = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)


class TwoWays(Body):
    """Which layer gives the scores depends on the input."""

    def __init__(self):
        super().__init__()
        self.other = torch.nn.Linear(8, 4)

    def forward(self, x):
        return self.out(self.body(x)) if x.sum() > 0 else self.other(self.body(x))


def test_a_head_that_other_values_would_not_reach_is_refused_unless_it_is_named():
    model = zoo.adopt(TwoWays().eval(), example=torch.zeros(2, 8))
    with pytest.raises(NotSupported, match=r"other ones out may give .*head= may be 'other'"):
        zoo.swap_head(model, 3)
    assert zoo.trace(TwoWays(), torch.zeros(2, 8), head="other").anatomy.main.path == "other"


class Scaled(Body):
    """Multiplies its scores by a number that it takes from the input."""

    def forward(self, x):
        return self.out(self.body(x)) * (1 + int(x[0].argmax()))


def test_a_number_that_forward_takes_from_its_input_is_not_written_into_a_split():
    model = zoo.adopt(Scaled().eval(), example=torch.zeros(2, 8))
    with pytest.raises(NotSupported, match="takes values of its input"):
        zoo.split(model)


class Checked(Body):
    """Looks at its input before it runs."""

    def forward(self, x):
        if torch.isnan(x).any():
            raise ValueError("nan")
        return self.out(self.body(x))


def test_a_model_that_looks_at_its_input_is_split_by_its_own_forward():
    model = zoo.adopt(Checked().eval(), example=torch.zeros(2, 8))
    backbone, head = zoo.split(model)
    x = torch.randn(3, 8)
    assert torch.equal(head(backbone(x)), model(x))
    with pytest.raises(ValueError, match="nan"):
        backbone(x * torch.nan)


class Edges(Body):
    """Features of nodes, and the edges between them."""

    def forward(self, x, edges):
        x = self.body(x)
        return self.out(torch.zeros_like(x).index_add_(0, edges[1], x[edges[0]]))


def test_an_example_that_is_no_batch_is_taken_as_it_is():
    graph = torch.randn(6, 8), torch.tensor([[0, 1, 4], [5, 2, 3]])
    model = zoo.swap_head(zoo.adopt(Edges().eval(), example=graph), 3)
    backbone, head = zoo.split(model)
    assert model(*graph).shape == (6, 3)
    assert torch.equal(head(backbone(graph)), model(*graph))
    one = zoo.adopt(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)), example=torch.zeros(8))
    assert zoo.swap_head(one, zoo.mlp_head(3, hidden=(5,)))(torch.randn(8)).shape == (3,)


class Output(NamedTuple):
    scores: torch.Tensor
    loss: torch.Tensor | None


class Packed(torch.nn.Module):
    """A signal of several lengths, and an output of several fields."""

    def __init__(self):
        super().__init__()
        self.cells, self.out = torch.nn.LSTM(6, 8, batch_first=True), torch.nn.Linear(8, 4)

    def forward(self, x, lengths):
        x = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return Output(self.out(self.cells(x)[1][0][-1]), None)


def test_named_tuples_go_into_layers_and_come_out():
    x = torch.randn(2, 5, 6), torch.tensor([5, 3])
    model = zoo.adopt(Packed().eval(), example=x)
    backbone, head = zoo.split(zoo.swap_head(model, 3))
    assert torch.equal(head(backbone(x)), model(*x).scores)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
def test_what_torchscript_hides_is_said():
    hidden = torch.nn.Sequential(torch.jit.script(torch.nn.Linear(8, 8)), torch.nn.Linear(8, 4))
    for model in (hidden, torch.jit.script(torch.nn.Linear(8, 4))):
        with pytest.raises(NotSupported, match="ScriptModule, which hides"):
            zoo.swap_head(zoo.adopt(model, example=torch.zeros(2, 8)), 3)


def test_a_convolution_over_a_whole_map_is_swapped():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.Conv2d(8, 1, 16), torch.nn.Flatten())
    model = zoo.swap_head(zoo.adopt(net, example=torch.zeros(1, 3, 32, 32)), 5)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 5)


class Gate(Body):
    """Which expert runs depends on a layer that gives no scores."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts = torch.nn.Linear(8, 2), torch.nn.ModuleList(torch.nn.Linear(8, 4) for _ in range(2))

    def forward(self, x):
        chosen, result = self.gate(x).argmax(1), x.new_zeros(len(x), 4)
        for index, expert in enumerate(self.experts):
            result[chosen == index] = expert(x[chosen == index])
        return result


class Tied(torch.nn.Module):
    """An autoencoder that decodes with the weights that it encodes with."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(8, 4)

    def forward(self, x):
        return torch.nn.functional.linear(self.body(x).relu(), self.body.weight.t())


@pytest.mark.parametrize("kind", [Gate, Tied])
def test_a_layer_whose_scores_are_not_the_output_is_no_candidate(kind):
    assert not zoo.trace(kind(), torch.randn(2, 8)).candidates


class Bare(Body):
    """Its head is a parameter."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4, 8))

    def forward(self, x):
        return torch.nn.functional.linear(self.body(x), self.weight)


def test_a_head_that_is_a_parameter_is_refused_with_what_can_be_done():
    model = zoo.adopt(Bare(), example=torch.zeros(2, 8))
    with pytest.raises(NotSupported, match="weight is no layer") as caught:
        zoo.freeze(model, "backbone")
    assert "zoo.freeze(model, ...) takes paths" in str(caught.value)
    assert "weight" in {name for name, each in zoo.freeze(model, "body").named_parameters() if each.requires_grad}


class Both(Body):
    """Gives the scores and their softmax, or scores of two inputs by one layer."""

    def forward(self, x, y):
        one, two = self.out(self.body(x)), self.out(self.body(y))
        return {"scores": one, "others": two, "softmax": one.softmax(1)}


def test_outputs_of_one_layer_follow_it_together():
    x = torch.randn(2, 8), torch.randn(2, 8)
    model = zoo.swap_head(zoo.adopt(Both(), example=x), 3)
    assert [tuple(each.shape) for each in model(*x).values()] == [(2, 3)] * 3


def test_layers_inside_a_compiled_one_are_tapped():
    body = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh())
    model = torch.nn.Sequential(torch.compile(body, backend="eager"), torch.nn.Linear(8, 4)).eval()
    x = torch.randn(2, 8)
    maps = zoo.features(zoo.adopt(model, example=x), x, at="0._orig_mod.0")
    assert torch.allclose(maps["0._orig_mod.0"], body[0](x))


class Masked(torch.nn.Module):
    """Words of which some are hidden from the others by a mask that is given beside them."""

    def __init__(self):
        super().__init__()
        self.words, self.attention = torch.nn.Embedding(9, 8), torch.nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = torch.nn.Linear(8, 3)

    def forward(self, words, mask):
        x = self.words(words)
        return self.out(self.attention(x, x, x, key_padding_mask=mask == 0)[0][:, 0])


def test_a_layer_that_is_given_a_mask_is_no_stem():
    found = zoo.trace(Masked(), (torch.ones(2, 4, dtype=torch.long), torch.ones(2, 4, dtype=torch.long)))
    assert (found.anatomy.stem, found.anatomy.main.path) == (("words",), "out")


@pytest.mark.parametrize(
    "computed",
    [
        lambda: torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(8, 4, bias=False)),
        lambda: torch.nn.utils.spectral_norm(torch.nn.Linear(8, 4)),
    ],
)
def test_a_swapped_head_whose_weight_was_computed_says_that_the_new_one_is_plain(computed):
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), computed())
    model = zoo.adopt(net, example=torch.zeros(2, 6))
    with pytest.warns(zoo.ZooWarning, match="is plain, without"):
        zoo.swap_head(model, 3)
    assert model(torch.zeros(2, 6)).shape == (2, 3)


class Calibrated(Body):
    """A number for each class stands in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("prior", torch.zeros(4))

    def forward(self, x):
        return self.out(self.body(x)) + self.prior


class Rows(Body):
    """Images and classes are one axis of what it gives."""

    def forward(self, x):
        return self.out(self.body(x)).flatten()


class Gated(Body):
    """What is said to be its head weighs the scores of another layer."""

    def forward(self, x):
        return self.body(x) * self.out(x).mean(1, keepdim=True)


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        (Calibrated, "RuntimeError: The size"),
        (Rows, r"their shapes so: \[\(\(8,\), \(10,\)"),
        (Gated, "their shapes so: not at all"),
    ],
)
def test_a_head_that_is_described_by_hand_is_proven_where_there_is_an_example(kind, cause):
    x, anatomy = torch.zeros(2, 8), zoo.Anatomy((zoo.Head("out", 8, 4),))
    plain = torch.nn.Sequential(OrderedDict(out=torch.nn.utils.spectral_norm(torch.nn.Linear(8, 4))))  # no warning
    assert zoo.anatomy(zoo.adopt(plain, example=x, anatomy=anatomy)).main.path == "out"
    with pytest.raises(AnatomyError, match=cause):
        zoo.adopt(kind(), example=x, anatomy=anatomy)
    assert zoo.freeze(zoo.adopt(kind(), example=x, anatomy=zoo.Anatomy(())), "body").out.weight.requires_grad


def test_a_layer_that_is_named_as_head_is_refused_with_what_comes_after_it():
    with pytest.raises(AnatomyError, match="forward: prior is no layer"):
        zoo.adopt(Calibrated(), example=torch.zeros(2, 8), head="out")


class ScaleNorm(torch.nn.Module):
    """A norm of the network's own, with a scale for each feature."""

    def __init__(self, features):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(features))

    def forward(self, x):
        return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-5) * self.weight


def test_a_norm_that_the_network_wrote_itself_is_among_those_of_its_trace():
    net = torch.nn.Sequential(torch.nn.Linear(8, 6), ScaleNorm(6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 3))
    assert zoo.trace(net, torch.randn(2, 8)).norms == ("1", "2")

"""Whether signals vanish or explode, beside the hooks that people write for the same."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

import zoo_core as zoo
from zoo_core import errors
from zoo_core.inspect.activation_stats import activation_stats


@pytest.fixture
def model():
    return zoo.get("tiny/glyphnet", weights=None, num_classes=9, seed=0)


@pytest.fixture
def x():
    return torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))


class OnlyTheFirst(nn.Sequential):
    """A model with layers that its forward never calls."""

    def forward(self, x):
        return self[0](x)


def deep(gain):
    """Twelve linear layers whose signal changes by about ``gain`` at each."""
    net = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(12)))
    return zoo.init_weights(net, "normal", options={"std": gain / 8}, seed=0)


def test_the_figures_are_those_of_hand_written_hooks(model, x):
    model.eval()
    stds = {}
    handles = [
        module.register_forward_hook(lambda _, __, y, name=name: stds.update({name: y.std().item()}))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    ours = {row.layer: row.std for row in activation_stats(model, x).rows if row.kind in {"Conv2d", "Linear"}}
    assert ours == stds


def test_layers_come_in_the_order_in_which_they_run(model, x):
    stats = activation_stats(model, x, layers=["stem.0", "fc", "layer*.conv2"])
    assert [row.layer for row in stats.rows] == ["stem.0", "layer1.conv2", "layer2.conv2", "layer3.conv2", "fc"]


def test_a_layer_that_runs_twice_has_two_rows(model, x):
    stats = activation_stats(model, x, layers="layer1.relu")
    assert [row.label for row in stats.rows] == ["layer1.relu", "layer1.relu #2"]
    assert stats.rows[0].zeros > 0.2


@pytest.mark.parametrize(("gain", "verdict"), [(0.5, "vanishes"), (1.0, "stays"), (2.0, "explodes")])
def test_signals_that_vanish_or_explode_are_seen(gain, verdict):
    rows = activation_stats(deep(gain), torch.randn(256, 64)).rows
    factor = rows[-1].std / rows[0].std
    seen = "vanishes" if factor < 0.1 else "explodes" if factor > 10 else "stays"
    assert seen == verdict


@pytest.mark.parametrize("mode", [True, False])
def test_the_model_is_left_as_it_was(model, x, mode):
    model.train(mode)
    model.fc = nn.Sequential(nn.Dropout(0.5), model.fc)
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    activation_stats(model, x)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training is mode
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_hooks_stay_when_the_model_refuses_its_input(model):
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(errors.UsageError, match=r"1 channels, such as \[N, 1, 32, 32\]"):
        activation_stats(model, torch.zeros(1, 7, 32, 32))
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_attention_is_a_layer_and_its_first_output_counts():
    attention = nn.MultiheadAttention(8, 2)
    tokens = torch.randn(5, 1, 8)
    wrapped = nn.Sequential()
    wrapped.attention = attention
    wrapped.forward = lambda *given: attention(*given)[0]
    stats = activation_stats(wrapped, (tokens, tokens, tokens))
    assert [(row.kind, row.shape) for row in stats.rows] == [("MultiheadAttention", (5, 1, 8))]


def test_a_single_layer_is_a_model_too():
    (row,) = activation_stats(nn.Linear(2, 3), torch.zeros(4, 2)).rows
    assert row.shape == (4, 3)


def test_half_precision_is_measured_without_overflow():
    layer = nn.Identity()
    (row,) = activation_stats(layer, torch.full((64, 64), 6e4, dtype=torch.float16)).rows
    assert row.mean == pytest.approx(6e4, rel=1e-3)


def test_it_looks_through_torch_compile(model, x):
    stats = activation_stats(torch.compile(model, backend="eager"), x)
    assert stats.model == "GlyphNet"
    assert stats.rows[0].layer == "stem.0"


def test_the_table_has_a_line_a_layer_and_aligned_columns(model, x):
    table = str(activation_stats(model, x, layers=["stem.0", "fc"])).splitlines()
    assert table[0].split() == ["layer", "kind", "output", "mean", "std", "peak", "zeros"]
    assert table[1].split()[:3] == ["stem.0", "Conv2d", "4x16x16x16"]
    assert len(table[0]) == len(table[1]) == len(table[2])
    assert table[3].startswith("std from ")


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_plot_is_an_image(model, x, tmp_path, suffix):
    path = activation_stats(model, x).plot(tmp_path / f"depth.{suffix}")
    start = path.read_bytes()[:200]
    assert b"PNG" in start if suffix == "png" else b"<svg" in path.read_bytes()


def test_a_dead_network_and_a_very_deep_one_can_be_plotted(tmp_path):
    dead = nn.Sequential(*(nn.ReLU() for _ in range(60)))
    assert activation_stats(dead, -torch.ones(3, 3)).plot(tmp_path / "dead.png").exists()


def test_matplotlib_is_imported_only_for_a_plot():
    code = (
        "import sys, torch, zoo_core as zoo\n"
        "str(zoo.activation_stats(torch.nn.Linear(2, 2), torch.ones(2, 2)))\n"
        "print('matplotlib' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_a_pattern_that_matches_nothing_names_the_closest(model, x):
    with pytest.raises(errors.UnknownPart, match="did you mean 'layer1'"):
        activation_stats(model, x, layers="layer11")


def test_a_name_stands_for_its_model():
    x = torch.zeros(1, 1, 32, 32)
    found = zoo.activation_stats("tiny/glyphnet", x)
    assert found == zoo.activation_stats(zoo.get("tiny/glyphnet"), x)


def test_layers_that_never_run_are_an_error():
    net = OnlyTheFirst(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(errors.UsageError, match="none of the layers gave anything"):
        activation_stats(net, torch.ones(1, 2), layers="1")


@pytest.mark.parametrize("path", ["nowhere/plot.png", "plot.xyz"])
def test_a_plot_that_cannot_be_written_says_where_to(path, tmp_path):
    pytest.importorskip("matplotlib")
    stats = activation_stats(nn.Linear(2, 2), torch.randn(2, 2))
    with pytest.raises(errors.ZooError, match="cannot write"):
        stats.plot(tmp_path / path)


class Functional(nn.Module):
    """A model that calls its activations as functions."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        x = nn.functional.gelu(self.block(x))
        return torch.sigmoid(self.last(x.relu()))


def test_activations_that_are_called_as_functions_are_layers_too():
    labels = [row.label for row in activation_stats(Functional(), torch.randn(3, 4)).rows]
    assert labels == ["block.0", "block.1", "gelu()", "relu()", "last", "sigmoid()"]


def test_the_first_bad_layer_is_named_marked_and_the_last_one_with_stop(tmp_path):
    model = Functional()
    with torch.no_grad():
        model.last.weight.fill_(torch.nan)
        model.block[0].weight.zero_(), model.block[0].bias.zero_()  # as the last norm of a residual branch begins
    whole, ended = (activation_stats(model, torch.randn(3, 4), stop=stop) for stop in (False, "nan"))
    assert (whole.first_bad.label, whole.first_bad.problem) == ("last", "nan")
    assert [row.label for row in ended.rows] == [row.label for row in whole.rows][:-1]
    assert str(ended).endswith("first bad layer: last, nan")
    assert whole.plot(tmp_path / "depth.png").stat().st_size
    with pytest.raises(errors.UsageError, match="stop cannot be 'inf'"):
        activation_stats(model, torch.randn(3, 4), stop="inf")


@pytest.mark.parametrize(
    ("value", "problem"), [(torch.inf, "infinite"), (0.0, "constant"), (1e-9, "vanishes"), (1e9, "explodes")]
)
def test_what_is_wrong_with_a_layer_has_a_name(value, problem):
    layer = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        layer.weight.fill_(value)
    assert activation_stats(layer, torch.eye(4)[:2] + torch.tensor([[1.0], [2.0]])).first_bad.problem == problem


def test_a_model_without_values_is_refused():
    with pytest.raises(errors.NotSupported, match="meta device"):
        zoo.activation_stats(nn.Linear(2, 2, device="meta"), torch.zeros(1, 2, device="meta"))


class Pair(nn.Module):
    """Takes two vectors."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x, y):
        return self.head(self.body(x) + y)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [(torch.zeros(1, 4), "a Tensor"), ((torch.zeros(1, 4), None), "a tuple of Tensor, NoneType")],
    ids=["one", "none"],
)
def test_an_input_of_other_values_than_the_example_is_named(wrong, named):
    vector = torch.zeros(1, 4)
    model = zoo.adopt(Pair(), example=(vector, vector))
    with pytest.raises(errors.UsageError, match="expected: a tuple of Tensor, Tensor") as caught:
        zoo.activation_stats(model, wrong)
    assert named in str(caught.value)


def test_a_traced_model_that_is_given_no_tensor_says_so():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with pytest.raises(errors.UsageError, match="expected: a Tensor"):
        zoo.activation_stats(zoo.adopt(net, example=torch.zeros(1, 4)), None)


def test_arguments_are_given_by_name_as_to_the_example_of_a_traced_model():
    values = {"x": torch.randn(3, 4), "y": torch.randn(3, 4)}
    model = zoo.adopt(Pair(), example=values)
    assert [row.layer for row in zoo.activation_stats(model, values).rows] == ["body", "head"]

"""Initializing layers afresh, beside the loops over modules that people write for the same."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torchvision.models import VisionTransformer
from torchvision.ops import FrozenBatchNorm2d

import zoo_core as zoo
from zoo_core import errors
from zoo_core.surgery.fine_tuning.init_weights import SCHEMES, init_weights


@pytest.fixture
def model():
    return zoo.get("tiny/glyphnet", num_classes=9, seed=0)


def same(left, right):
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


RECIPES = {
    "xavier_uniform": (nn.init.xavier_uniform_, {}),
    "xavier_normal": (nn.init.xavier_normal_, {"gain": 2.0}),
    "kaiming_uniform": (nn.init.kaiming_uniform_, {"a": 0.1}),
    "kaiming_normal": (nn.init.kaiming_normal_, {"mode": "fan_out", "nonlinearity": "relu"}),
    "trunc_normal": (nn.init.trunc_normal_, {"std": 0.02}),
    "uniform": (nn.init.uniform_, {"a": -0.1, "b": 0.1}),
    "normal": (nn.init.normal_, {"std": 0.01}),
    "constant": (nn.init.constant_, {"val": 0.3}),
    "orthogonal": (nn.init.orthogonal_, {}),
}


@pytest.mark.parametrize("scheme", RECIPES)
def test_a_scheme_gives_the_bits_of_the_loop_over_modules(model, scheme):
    function, options = RECIPES[scheme]
    twin = copy.deepcopy(model)
    torch.manual_seed(7)
    for module in twin.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            function(module.weight, **options)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    init_weights(model, scheme, options=options, seed=7)
    assert same(model, twin)


def test_dcgans_recipe_is_a_mapping_from_classes_of_layers():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, bias=False), nn.Linear(4, 4)
    )
    twin = copy.deepcopy(net)

    def weights_init(module):
        if "Conv" in type(module).__name__:
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif "BatchNorm" in type(module).__name__:
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.constant_(module.bias, 0)

    torch.manual_seed(0)
    twin.apply(weights_init)
    rule = {nn.Conv2d: partial(nn.init.normal_, std=0.02), nn.BatchNorm2d: partial(nn.init.normal_, mean=1.0, std=0.02)}
    init_weights(net, rule, seed=0)
    assert same(net, twin)


def test_identity_hands_on_what_it_is_given():
    net = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.Flatten(), nn.Linear(64, 64)
    )
    x = torch.randn(2, 4, 4, 4)
    assert torch.equal(init_weights(net, "identity")(x), x.flatten(1))


def test_sparse_leaves_the_asked_share_of_zeros_in_layers_of_all_kinds():
    net = nn.Sequential(nn.Conv2d(4, 20, 3), nn.Linear(8, 20))
    init_weights(net, "sparse", options={"sparsity": 0.75}, seed=0)
    assert [(layer.weight == 0).float().mean().item() for layer in net] == [0.75, 0.75]


def test_new_parts_alone_can_be_initialized(model):
    before = copy.deepcopy(model.state_dict())
    init_weights(model, "xavier_normal", where="new", seed=0)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_where_speaks_the_language_of_freezing(model):
    before = copy.deepcopy(model.state_dict())
    init_weights(model, "normal", where=["layer3", "*.conv1.weight"], seed=0)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert "layer1.conv1.weight" in changed
    assert all(name.startswith("layer3.") or name.endswith(".conv1.weight") for name in changed)


def test_the_receipt_says_what_was_initialized(model):
    init_weights(model, "normal", where="layer3")
    names = zoo.receipt(model).names("initialized")
    assert set(names) == {name for name in model.state_dict() if name.startswith(("layer3.", "fc."))}
    assert zoo.receipt(model).tensors["layer1.conv1.weight"] == "loaded"


def test_a_seed_makes_it_reproducible_and_leaves_the_global_state(model):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = init_weights(copy.deepcopy(model), "kaiming_normal", seed=3)
    assert torch.equal(torch.rand(3), expected)
    assert same(first, init_weights(model, "kaiming_normal", seed=3))
    assert not same(first, init_weights(model, "kaiming_normal", seed=4))


def test_a_seed_gives_the_same_values_in_every_memory_format(model):
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    init_weights(model, "orthogonal", seed=0)
    init_weights(last, "orthogonal", seed=0)
    assert same(model, last)
    assert last.layer2.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_frozen_layers_stay_frozen_and_norms_held(model):
    init_weights(zoo.freeze(model), "normal")
    assert not model.layer1.conv1.weight.requires_grad
    assert not model.train().layer1.bn1.training


def test_norms_start_again_and_biases_take_the_constant(model):
    model.train()(torch.randn(4, 1, 32, 32))
    init_weights(model, "normal", bias=-4.6)
    assert torch.equal(model.layer1.bn1.running_mean, torch.zeros(16))
    assert torch.equal(model.layer1.bn1.weight, torch.ones(16))
    assert model.layer1.bn1.num_batches_tracked == 0
    assert torch.equal(model.fc.bias, torch.full((9,), -4.6))


def test_biases_can_be_kept(model):
    before = model.fc.bias.detach().clone()
    assert torch.equal(init_weights(model, "normal", bias=None).fc.bias, before)


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.RMSNorm(4)]
)
def test_norms_of_every_kind_start_again(norm):
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    init_weights(norm, "normal")
    assert torch.equal(norm.weight, torch.ones(4))
    assert getattr(norm, "bias", None) is None or torch.equal(norm.bias, torch.zeros(4))


def test_a_norm_whose_tensors_are_buffers_starts_again():
    norm = FrozenBatchNorm2d(3)
    norm.running_mean += 2
    norm.weight += 2
    init_weights(norm, "normal")
    assert norm.running_mean.tolist() == [0, 0, 0]
    assert norm.weight.tolist() == [1, 1, 1]


def test_the_three_projections_of_attention_are_three_layers():
    attention = nn.MultiheadAttention(8, 2)
    torch.manual_seed(0)
    expected = [nn.init.xavier_uniform_(torch.empty(8, 8)) for _ in range(3)]
    init_weights(attention, "xavier_uniform", seed=0)
    assert torch.equal(attention.in_proj_weight, torch.cat(expected))
    assert attention.in_proj_bias.abs().sum() == 0
    init_weights(attention, "identity")
    assert torch.equal(attention.in_proj_weight, torch.eye(8).repeat(3, 1))


def test_attention_with_keys_and_values_of_other_sizes_is_covered():
    attention = nn.MultiheadAttention(8, 2, kdim=4, vdim=6, add_bias_kv=True)
    init_weights(attention, "constant", options={"val": 0.5})
    assert {name: parameter.unique().tolist() for name, parameter in attention.named_parameters()} == {
        **{name: [0.5] for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight")},
        **{name: [0.0] for name in ("in_proj_bias", "bias_k", "bias_v", "out_proj.bias")},
    }


@pytest.mark.parametrize("groups", [1, 2])
def test_the_fan_in_of_a_transposed_convolution_is_what_goes_in(groups):
    layer = nn.ConvTranspose2d(64, 16, 4, groups=groups)
    init_weights(layer, "kaiming_normal", seed=0)
    assert layer.weight.std().item() == pytest.approx((2 / (64 / groups * 16)) ** 0.5, rel=0.02)
    init_weights(layer, "orthogonal")
    piece = layer.weight[: 64 // groups].transpose(0, 1).flatten(1)
    assert torch.allclose(piece @ piece.T, torch.eye(16 // groups), atol=1e-5)


def test_the_gates_of_recurrent_layers_are_layers():
    lstm = nn.LSTM(8, 8)
    init_weights(lstm, "orthogonal", seed=0)
    for gate in lstm.weight_hh_l0.chunk(4):
        assert torch.allclose(gate @ gate.T, torch.eye(8), atol=1e-5)
    assert lstm.bias_hh_l0.abs().sum() == 0


def test_the_padding_of_an_embedding_stays_zero():
    embedding = nn.Embedding(5, 3, padding_idx=2)
    init_weights(embedding, "constant", options={"val": 1.0})
    assert embedding.weight.sum(1).tolist() == [3, 3, 0, 3, 3]


def test_a_shared_tensor_is_drawn_once():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    torch.manual_seed(0)
    expected = nn.init.normal_(torch.empty(4, 4))
    init_weights(net, "normal", seed=0)
    assert torch.equal(net[0].weight, expected)


def test_a_shared_tensor_is_found_under_any_of_its_names(model):
    model.layer1.conv2.weight = model.layer1.conv1.weight
    before = model.layer1.conv1.weight.detach().clone()
    init_weights(model, "normal", where="layer1.conv2")
    assert not torch.equal(model.layer1.conv1.weight, before)


def test_the_receipt_is_true_even_when_a_scheme_fails_half_way(model):
    with pytest.raises(errors.UsageError, match="cannot fill"):
        init_weights(model, {nn.Conv2d: "normal", nn.BatchNorm2d: "orthogonal"}, seed=0)
    assert zoo.receipt(model).names("initialized") == ("stem.0.weight", "fc.weight", "fc.bias")


def test_parameters_outside_layers_stay():
    vit = VisionTransformer(32, 16, 2, 2, 8, 16, num_classes=3)
    before = vit.encoder.pos_embedding.detach().clone()
    init_weights(vit, "trunc_normal", options={"std": 0.02})
    assert torch.equal(vit.encoder.pos_embedding, before)


def test_a_function_of_ones_own_sees_the_weights_that_are_there(model):
    before = model.layer1.conv1.weight.detach().clone()
    init_weights(model, lambda weight: weight.mul_(0.5))
    assert torch.equal(model.layer1.conv1.weight, before * 0.5)


def test_it_works_through_a_wrapper(model):
    compiled = torch.compile(model, backend="eager")
    assert init_weights(compiled, "constant", where="head", options={"val": 0.25}) is compiled
    assert model.fc.weight.unique().tolist() == [0.25]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scheme": "xavier"}, "did you mean 'xavier_"),
        ({"scheme": 3}, "there is no scheme 3"),
        ({"scheme": "constant"}, "needs a value"),
        ({"scheme": "normal", "options": {"sd": 1}}, "no option 'sd'"),
        ({"scheme": nn.init.normal_, "options": {"std": 1}}, "functools.partial"),
        ({"scheme": {nn.Linear: "normal"}, "options": {"std": 1}}, "several"),
        ({"scheme": {"Linear": "normal"}}, "not a class of layers"),
        ({"scheme": {nn.Conv3d: "normal"}}, "no layer of this GlyphNet was initialized"),
        ({"scheme": {nn.BatchNorm2d: "xavier_normal"}}, r"cannot fill the weight of a BatchNorm2d, of shape \[16\]"),
        ({"scheme": "normal", "where": "layer9"}, "did you mean 'layer"),
        ({"scheme": "normal", "were": "head"}, "did you mean 'where'"),
    ],
    ids=[
        "misspelt",
        "number",
        "constant of what",
        "no such option",
        "options of a function",
        "options of a mapping",
        "class by name",
        "class not there",
        "one axis",
        "no such part",
        "no such argument",
    ],
)
def test_what_cannot_be_done_is_said(model, arguments, message):
    with pytest.raises(errors.UsageError, match=message):
        init_weights(model, **arguments)


def test_asking_for_new_parts_when_there_are_none_says_so():
    with pytest.raises(errors.UsageError, match="nothing in this GlyphNet is new"):
        init_weights(zoo.get("tiny/glyphnet"), "normal", where="new")


def test_parts_of_a_module_that_zoo_does_not_know_need_adopting():
    with pytest.raises(errors.NotAZooModel):
        init_weights(nn.Linear(2, 2), "normal", where="head")


def test_every_usual_scheme_has_a_name():
    kinds = ["xavier", "kaiming", "uniform", "normal", "constant", "identity", "orthogonal", "sparse"]
    assert all(any(kind in name for name in SCHEMES) for kind in kinds)


@pytest.mark.parametrize(("scheme", "value"), [("zeros", 0.0), ("ones", 1.0)])
def test_zeros_and_ones_fill_every_layer(scheme, value):
    layer = zoo.init_weights(nn.Sequential(nn.Linear(3, 3), nn.Conv2d(3, 3, 3)), scheme)
    assert all((each.weight == value).all() for each in layer)


def test_eye_is_for_linear_layers_and_dirac_for_convolutions():
    assert torch.equal(zoo.init_weights(nn.Linear(3, 3), "eye").weight, torch.eye(3))
    expected = nn.init.dirac_(torch.empty(3, 3, 3, 3))
    assert torch.equal(zoo.init_weights(nn.Conv2d(3, 3, 3), "dirac").weight, expected)


def test_the_receipt_takes_the_spelling_of_before_and_no_word_that_it_has_not(model):
    receipt = zoo.receipt(zoo.swap_head(model, 3))
    assert receipt.names("initialised") == receipt.names("initialized") != ()
    with pytest.raises(zoo.errors.UsageError, match="loaded"):
        receipt.names("load")


@pytest.mark.parametrize(
    "computed",
    [
        lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
        nn.utils.spectral_norm,
    ],
    ids=["pruned", "spectral norm"],
)
def test_what_a_weight_is_computed_from_keeps_its_buffers(computed, model):
    layer = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    computed(layer)
    before = {name: tensor.clone() for name, tensor in (*layer.named_buffers(), ("weight_orig", layer.weight_orig))}
    init_weights(model, "xavier_normal")
    assert [name for name, tensor in before.items() if not torch.equal(getattr(layer, name), tensor)] == ["weight_orig"]


@pytest.mark.parametrize(
    "computed",
    [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm],
    ids=["hook", "parametrization"],
)
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_a_weight_with_a_norm_of_its_own_becomes_what_the_scheme_says(computed, model):
    computed(model.fc)
    init_weights(model, nn.init.eye_, where="head")
    model(torch.zeros(1, 1, 32, 32))
    torch.testing.assert_close(model.fc.weight.data, torch.eye(*model.fc.weight.shape))
    assert {name for name, _ in model.fc.named_parameters(prefix="fc")} <= set(zoo.receipt(model).names("initialized"))


def test_a_scheme_that_a_parametrization_cannot_reach_is_refused_and_leaves_the_layer(model):
    nn.utils.parametrizations.weight_norm(model.fc)
    before = model.fc.weight.clone()
    with pytest.raises(errors.UsageError, match="computed, and cannot become what the scheme says"):
        init_weights(model, "zeros", where="head")
    torch.testing.assert_close(model.fc.weight, before)

"""Replacing the classifier."""

from __future__ import annotations

import pytest
import torch
from support.architectures import every_layout, model_under_test
from torch import nn

import zoo_core as zoo
from zoo_core import errors


def resnet18():
    return zoo.get("resnet18", weights=None)


def test_a_number_gives_a_layer_like_the_one_it_replaces():
    model = zoo.swap_head(resnet18(), 9)
    assert repr(model.fc) == "Linear(in_features=512, out_features=9, bias=True)"


def test_everything_outside_the_head_is_the_very_same_tensor():
    model = resnet18()
    before = {name: tensor.data_ptr() for name, tensor in model.state_dict().items() if not name.startswith("fc.")}
    zoo.swap_head(model, 9)
    after = {name: tensor.data_ptr() for name, tensor in model.state_dict().items() if not name.startswith("fc.")}
    assert after == before


def test_the_class_of_the_model_does_not_change():
    model = resnet18()
    kind = type(model)
    assert type(zoo.swap_head(model, 9)) is kind


def test_it_equals_the_recipe_by_hand():
    ours, by_hand = resnet18(), resnet18()
    by_hand.load_state_dict(ours.state_dict())
    torch.manual_seed(3)
    by_hand.fc = nn.Linear(by_hand.fc.in_features, 9)
    zoo.swap_head(ours, 9, seed=3)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours.eval()(x), by_hand.eval()(x))


def test_the_seed_leaves_the_global_random_state_alone():
    model = resnet18()
    state = torch.get_rng_state()
    zoo.swap_head(model, 9, seed=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_auxiliary_heads_follow():
    model = zoo.swap_head(zoo.get("inception_v3", weights=None, options={"init_weights": False}), 9)
    assert (model.fc.out_features, model.AuxLogits.fc.out_features) == (9, 9)


def test_hidden_layers_before_the_head_keep_their_weights():
    model = zoo.get("vgg11", weights=None)
    hidden = model.classifier[3].weight
    zoo.swap_head(model, 9)
    assert model.classifier[3].weight is hidden
    assert model.classifier[6].out_features == 9


def test_a_convolutional_head_is_replaced_by_one_of_its_kind_and_the_count_follows():
    model = zoo.swap_head(zoo.get("squeezenet1_1", weights=None), 9)
    assert isinstance(model.classifier[1], nn.Conv2d)
    assert model.num_classes == 9
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_new_head_has_the_dtype_of_the_old_one(dtype):
    assert zoo.swap_head(resnet18().to(dtype), 9).fc.weight.dtype == dtype


def test_the_new_head_is_born_on_the_device_of_the_old_one():
    assert zoo.swap_head(resnet18().to("meta"), 9).fc.weight.device.type == "meta"


def test_the_new_head_has_the_memory_format_of_the_old_one():
    model = zoo.get("squeezenet1_1", weights=None).to(memory_format=torch.channels_last)
    weight = zoo.swap_head(model, zoo.mlp_head(9, hidden=(32,))).classifier[1][0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("training", [True, False])
def test_the_new_head_is_in_the_mode_of_the_old_one(training):
    model = zoo.swap_head(resnet18().train(training), zoo.mlp_head(9, dropout=0.5, hidden=(8,)))
    assert all(module.training is training for module in model.fc.modules())


def test_the_new_head_trains_even_where_the_old_one_was_frozen():
    model = zoo.freeze(resnet18(), "all")
    assert all(parameter.requires_grad for parameter in zoo.swap_head(model, 9).fc.parameters())


def test_a_head_without_bias_stays_without():
    model = resnet18()
    model.fc = nn.Linear(512, 1000, bias=False)
    assert zoo.swap_head(model, 9).fc.bias is None


def test_a_head_can_be_swapped_again():
    model = zoo.swap_head(zoo.swap_head(resnet18(), zoo.mlp_head(5, hidden=(8,))), 9)
    assert model.fc.out_features == 9
    assert zoo.anatomy(model).main.num_classes == 9


def test_the_receipt_and_the_anatomy_follow():
    model = zoo.swap_head(resnet18(), zoo.mlp_head(9, hidden=(8,)))
    assert set(zoo.receipt(model).names("initialized")) >= {"fc.0.weight", "fc.2.bias"}
    assert "fc.weight" not in zoo.receipt(model).tensors
    assert zoo.anatomy(model).main.num_classes == 9


def test_a_lazy_module_takes_its_input_size_from_the_site():
    model = zoo.swap_head(resnet18(), nn.LazyLinear(9))
    assert model.fc.in_features == 512


def test_a_module_that_does_not_fit_is_refused_with_both_shapes_and_nothing_changes():
    model = resnet18()
    with pytest.raises(errors.HeadMismatch, match=r"takes \[N, 512\](.|\n)*takes \[N, 100\]"):
        zoo.swap_head(model, nn.Linear(100, 9))
    assert model.fc.out_features == 1000


@pytest.mark.parametrize("num_classes", [0, -1, True, 2.0, "9"])
def test_an_impossible_number_of_classes_is_refused(num_classes):
    with pytest.raises(errors.UsageError):
        zoo.swap_head(resnet18(), num_classes)


def test_a_string_of_digits_is_told_to_drop_its_quotes():
    with pytest.raises(errors.UsageError, match="pass 9 without quotes"):
        zoo.get("resnet18", weights=None, num_classes="9")


@pytest.mark.parametrize("number", [2**31, 2**63, 10**30])
@pytest.mark.parametrize("argument", ["num_classes", "in_channels"])
def test_a_count_that_overflows_in_torch_is_refused(number, argument):
    with pytest.raises(errors.UsageError, match=f"{argument} cannot be {number}(.|\n)*and below 2147483648"):
        zoo.get("tiny/glyphnet", weights=None, **{argument: number})


def test_a_module_zoo_knows_nothing_about_is_refused_with_the_way_in():
    with pytest.raises(errors.NotAZooModel, match=r"zoo.adopt"):
        zoo.swap_head(nn.Linear(2, 2), 9)


def test_an_unknown_argument_names_the_close_match():
    with pytest.raises(errors.UnknownArgument, match="did you mean 'seed'"):
        zoo.swap_head(resnet18(), 9, sed=1)


def test_it_works_through_a_compiled_wrapper():
    model = resnet18()
    compiled = torch.compile(model, backend="eager")
    assert zoo.swap_head(compiled, 9) is compiled
    assert model.fc.out_features == 9


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_new_head_is_born_on_the_gpu(dtype):
    model = zoo.swap_head(zoo.get("resnet18", weights=None, device="cuda", dtype=dtype), 9)
    assert (model.fc.weight.device.type, model.fc.weight.dtype) == ("cuda", dtype)


def test_a_function_of_the_width_makes_the_head(tmp_path):
    model = zoo.get("tiny/glyphnet", weights=None, seed=0)
    zoo.swap_head(model, lambda width: nn.Linear(width, 3), seed=0)
    assert (model.fc.in_features, model.fc.out_features) == (64, 3)
    assert zoo.load(zoo.save(model, tmp_path / "save")).fc.out_features == 3
    zoo.swap_head(model, {"a": lambda width: nn.Linear(width, 2), "b": 3})
    assert (model.fc.a.out_features, model.fc.b.out_features) == (2, 3)


@every_layout
def test_on_any_family_a_model_without_head_gives_embeddings_also_when_loaded(name, tmp_path):
    model, x = model_under_test(name)
    head_input = zoo.split(model)[0](x)
    embeddings = zoo.anatomy(model).scores_in(zoo.swap_head(model, None)(x))
    assert embeddings.shape[1] == zoo.anatomy(model).main.in_features or name == "timm/crossvit_tiny_240"
    assert embeddings.shape != head_input.shape or torch.equal(embeddings, head_input)
    assert zoo.class_names(model) == ()
    again = zoo.load(zoo.save(model, tmp_path / "save"))
    assert torch.equal(zoo.anatomy(again).scores_in(again(x)), embeddings)
    assert zoo.anatomy(zoo.swap_head(model, 4)).scores_in(model(x)).shape[:2] == (1, 4)


def test_no_classes_are_embeddings():
    assert zoo.get("tiny/glyphnet", num_classes=0)(torch.zeros(1, 1, 32, 32)).shape == (1, 64)


def test_auxiliary_heads_give_embeddings_as_well():
    model = zoo.swap_head(zoo.get("torchvision/googlenet", weights=None).train(), None)
    assert [each.shape[1] for each in model(torch.zeros(2, 3, 96, 96))] == [1024, 1024, 1024]


def test_an_embedding_beside_scores():
    model = zoo.swap_head(resnet18(), {"embedding": None, "colour": 3})
    assert {name: each.shape[1] for name, each in model(torch.randn(2, 3, 64, 64)).items()} == {
        "embedding": 512,
        "colour": 3,
    }


def test_a_detector_without_head_is_refused():
    model = zoo.get("ssdlite320_mobilenet_v3_large", weights=None, options={"weights_backbone": None}, device="meta")
    with pytest.raises(errors.NotSupported, match="has no output"):
        zoo.swap_head(model, None)


@pytest.mark.parametrize(
    ("name", "x"),
    [
        ("lraspp_mobilenet_v3_large", torch.rand(1, 3, 64, 64)),
        ("ssdlite320_mobilenet_v3_large", [torch.rand(3, 64, 64)]),
    ],
)
def test_where_a_model_gives_no_embeddings_the_error_says_what_does(name, x):
    model = zoo.get(name, weights=None, options={"weights_backbone": None}).eval()
    with pytest.raises(errors.NotSupported) as caught:
        zoo.swap_head(model, None)
    line = caught.value.parts["hint"].partition(" gives")[0]
    assert list(eval(line, {"zoo": zoo, "model": model, "x": x})) == [stage.name for stage in zoo.anatomy(model).stages]


def test_zero_classes_are_told_of_none():
    with pytest.raises(errors.UsageError, match="None takes the head off"):
        zoo.swap_head(resnet18(), 0)


@pytest.mark.parametrize(
    "add",
    [
        lambda layer, hook: layer.register_forward_hook(hook),
        lambda layer, hook: layer.register_forward_pre_hook(hook),
        lambda layer, hook: layer.register_full_backward_hook(hook),
        lambda layer, hook: layer.weight.register_hook(hook),
        lambda layer, hook: layer.weight.register_post_accumulate_grad_hook(hook),
    ],
)
def test_hooks_on_the_old_head_are_said_to_be_gone(add):
    model = zoo.get("tiny/glyphnet", weights=None)
    add(model.fc, lambda *_: None)
    with pytest.warns(errors.ZooWarning, match=r"the hooks on 'fc.*' are not called any more") as said:
        zoo.swap_head(model, 9)
    assert said[0].filename == __file__


def test_hooks_that_stay_are_not_said_to_be_gone():
    model = zoo.get("tiny/glyphnet", weights=None)
    parts, seen = (model, model.stem, model.fc), set()
    for part in parts:
        part.register_forward_hook(lambda part, *_: seen.add(part))
    zoo.swap_head(model, nn.Sequential(model.fc, nn.ReLU()))
    seen.clear()
    model(torch.zeros(1, 1, 32, 32))
    assert seen == {*parts}

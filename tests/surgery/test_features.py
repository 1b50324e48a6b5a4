"""Features of several layers at once."""

from __future__ import annotations

import threading

import pytest
import torch
from support.architectures import every_architecture, model_under_test
from torch import nn

import zoo_core as zoo
from zoo_core import errors
from zoo_core.surgery.features.extract import recorded, tapped

X = torch.randn(2, 3, 64, 64)


def resnet18():
    return zoo.get("resnet18", weights=None, seed=0).eval()


def by_hooks(model, x, paths):
    """The recipe: forward hooks that fill a dict."""
    found, hooks = {}, []
    for path in paths:

        def keep(_module, _given, out, path=path):
            found[path] = out.clone() if isinstance(out, torch.Tensor) else out

        hooks.append(model.get_submodule(path).register_forward_hook(keep))
    model(x)
    for hook in hooks:
        hook.remove()
    return found


def test_it_equals_the_recipe_by_hand():
    model, paths = resnet18(), ["layer1", "layer2.0.conv1", "layer4"]
    expected = by_hooks(model, X, paths)
    found = zoo.features(model, X, at=paths)
    assert list(found) == paths
    assert all(torch.equal(found[path], expected[path]) for path in paths)


@every_architecture
def test_on_any_family_every_stage_is_there(name):
    model, x = model_under_test(name)
    stages = zoo.anatomy(model).stages
    with torch.no_grad():
        expected, found = by_hooks(model, x, [stage.output for stage in stages]), zoo.features(model, x)
    assert list(found) == [stage.name for stage in stages]
    for stage in stages:
        assert torch.equal(found[stage.name], stage.map_in(model, expected[stage.output]))


def test_what_a_later_layer_does_in_place_does_not_show():
    model = zoo.get("mnasnet0_5", weights=None).eval()  # its layers are one row, with a ReLU in place after each norm
    assert zoo.features(model, X, at="layers.1")["layers.1"].min() < 0


def test_the_model_gets_no_hook_and_no_attribute():
    model = resnet18()
    before = {path: set(module.__dict__) for path, module in model.named_modules()}
    zoo.features(model, X)
    assert {path: set(module.__dict__) for path, module in model.named_modules()} == before
    assert not any(module._forward_hooks for module in model.modules())


def test_hooks_of_the_users_own_still_run():
    model, seen = resnet18(), []
    model.layer2.register_forward_hook(lambda *_: seen.append(1))
    zoo.features(model, X, at="layer2")
    assert seen == [1]


def test_a_module_inside_another_can_be_asked_for_with_it():
    found = zoo.features(resnet18(), X, at=["layer4", "layer4.1"])
    assert torch.equal(found["layer4"], found["layer4.1"])


def test_gradients_flow_back_to_the_image():
    x = X.clone().requires_grad_()
    zoo.features(resnet18(), x, at="layer2")["layer2"].sum().backward()
    assert x.grad.abs().sum() > 0


def test_threads_do_not_see_each_others_features():
    model, wrong = resnet18(), []
    images = [torch.full((1, 3, 64, 64), float(value)) for value in range(4)]
    expected = [zoo.features(model, x, at="layer1")["layer1"] for x in images]

    def work(index):
        found = [zoo.features(model, images[index], at="layer1")["layer1"] for _ in range(5)]
        wrong.extend(each for each in found if not torch.equal(each, expected[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_it_looks_through_a_compiled_wrapper():
    model = resnet18()
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(zoo.features(compiled, X, at="layer1")["layer1"], zoo.features(model, X, at="layer1")["layer1"])


def test_a_name_that_does_not_exist_lists_the_stages_and_the_close_match():
    with pytest.raises(errors.UnknownPart, match=r"layer1, layer2, layer3, layer4(.|\n)*did you mean 'layer") as caught:
        zoo.features(resnet18(), X, at=["layer9"])
    assert caught.value.parts == ("layer1", "layer2", "layer3", "layer4")


@pytest.mark.parametrize("at", [3, [3], [None, "layer1"]])
def test_something_else_than_names_is_refused(at):
    with pytest.raises(errors.UsageError, match="at cannot be"):
        zoo.features(resnet18(), X, at=at)


@pytest.mark.parametrize("path", ["layer4", "layer4.0.conv1"])
def test_a_layer_that_branches_took_is_named_with_its_copies(path):
    model = zoo.branch(resnet18(), at="layer4", heads={"colour": 3, "shape": 5})
    copies = f"'fc.colour.body.{path}' or 'fc.shape.body.{path}'"
    with pytest.raises(errors.UnknownPart, match=rf"own stages from 'layer4' on(.|\n)*{copies}"):
        zoo.features(model, X, at=[path])
    found = zoo.features(model, X, at=[f"fc.colour.body.{path}"])
    assert found[f"fc.colour.body.{path}"].shape == (2, 512, 2, 2)


@pytest.mark.parametrize("path", ["layer4", "layer3.0.conv1"])
def test_a_layer_that_was_cut_out_is_said_to_be(path):
    with pytest.raises(errors.UnknownPart, match="the model was cut after 'layer2'"):
        zoo.features(zoo.truncate(resnet18(), after="layer2"), X, at=[path])


def test_a_module_that_does_not_run_is_refused():
    model = zoo.get("googlenet", weights=None).eval()
    with pytest.raises(errors.NotSupported, match="did not run"):
        zoo.features(model, X, at="aux1")


def test_a_module_zoo_knows_nothing_about_is_refused():
    with pytest.raises(errors.NotAZooModel):
        zoo.features(nn.Linear(2, 2), torch.zeros(1, 2))


@pytest.mark.gpu
def test_it_works_on_the_gpu():
    model = zoo.get("resnet18", weights=None, device="cuda")
    assert zoo.features(model, X.cuda(), at="layer1")["layer1"].device.type == "cuda"


def test_an_error_after_the_last_map_is_no_silence():
    def run(body, x):
        body.conv1(x)
        raise RuntimeError("of the library")

    with pytest.raises(RuntimeError, match="of the library"):
        recorded(run, tapped(resnet18(), ["conv1"]), X, ["conv1"])


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(1, 4, 64, 64), r"3 channels, such as .*zoo.adapt_stem\(model, 4\)"),
        (torch.zeros(1, 64, 64, 3), r"x.movedim\(-1, 1\)"),
        (torch.zeros(3, 64), r"a batch, such as \[N, 3, 224, 224\]"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), r"torch.uint8.*zoo.transforms"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.float64), r"torch.float32, as the model has"),
        ("cat.jpg", r"got: a str.*zoo.transforms"),
    ],
)
def test_an_input_that_the_model_does_not_take_is_named(x, words):
    with pytest.raises(errors.UsageError, match=f"(?s){words}"):
        zoo.features(resnet18(), x)

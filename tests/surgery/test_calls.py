"""What surgery made is reentrant, and what tracers, replicas and copies see."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import zoo_core as zoo

X = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def squeezenet():
    return zoo.get("torchvision/squeezenet1_1", weights=None, seed=0).eval()


def test_an_encoder_in_threads_gives_each_the_maps_of_its_own_images():
    encoder, images = zoo.encoder(squeezenet()), [X * i for i in range(4)] * 4
    with torch.no_grad():
        expected = [encoder(x) for x in images]
    with ThreadPoolExecutor(4) as pool, torch.no_grad():
        results = list(pool.map(torch.no_grad()(encoder), images))
    for maps, right in zip(results, expected, strict=True):
        for found, one in zip(maps, right, strict=True):
            torch.testing.assert_close(found, one)


def test_an_encoder_exports_as_torch_does_by_default():
    encoder = zoo.encoder(squeezenet())
    exported = torch.export.export(encoder, (X,)).module()
    assert all(torch.allclose(f, g, atol=1e-5) for f, g in zip(exported(X), encoder(X), strict=True))


def test_fx_sees_the_forward_that_surgery_made():
    front = zoo.truncate(squeezenet(), after=zoo.anatomy(squeezenet()).stages[0].name)
    assert torch.equal(torch.fx.symbolic_trace(front)(X), front(X))


def test_copies_and_pickles_run_the_forward_that_surgery_made():
    front = zoo.truncate(squeezenet(), after=zoo.anatomy(squeezenet()).stages[0].name)
    again = pickle.loads(pickle.dumps(copy.deepcopy(front)))
    assert torch.equal(again(X), front(X))
    assert (type(again), type(again).__name__) == (type(front), "SqueezeNet")


def test_scores_depend_on_the_maps_of_their_own_pass():
    model = squeezenet()
    stage = zoo.anatomy(model).stages[-1].name
    scores, maps = zoo.features(model, X, at=stage, return_output=True)
    assert torch.equal(scores, model(X))
    assert torch.autograd.grad(scores[:, 7].sum(), maps[stage])[0].abs().sum() > 0


@pytest.mark.parametrize(
    "edit", [lambda model: zoo.swap_head(model, 3), lambda model: zoo.adapt_stem(model, 1, policy="random")]
)
@pytest.mark.parametrize("built_in_it", [True, False])
def test_what_is_made_in_inference_mode_can_be_trained(edit, built_in_it):
    with torch.inference_mode(built_in_it):
        model = zoo.get("tiny/glyphnet", weights=None)
    with torch.inference_mode():
        edit(model)
    model(torch.zeros(2, 1, 32, 32)).sum().backward()


@pytest.mark.parametrize("model", [None, 3, "resnet18", [torch.nn.Linear(2, 2)]])
@pytest.mark.parametrize("verb", [lambda it: zoo.swap_head(it, 3), zoo.freeze, zoo.split, zoo.anatomy])
def test_what_is_no_module_is_refused(verb, model):
    with pytest.raises(zoo.errors.NotAZooModel, match=f"zoo knows nothing about this {type(model).__name__}"):
        verb(model)


@pytest.mark.parametrize("verb", [lambda it: zoo.swap_head(it, 3), zoo.freeze, zoo.split, zoo.anatomy])
def test_a_class_is_refused_with_the_call_that_makes_a_model(verb):
    with pytest.raises(zoo.errors.NotAZooModel, match=r"Linear is a class(.|\n)*next step: Linear\(\) makes one"):
        verb(torch.nn.Linear)


@pytest.mark.parametrize(
    "named",
    ["tracing.split_finder.RunTo", "tracing.stage_proof.SeveralMaps", "tracing.program.ItemOf"],
)
def test_pickles_of_before_find_what_a_traced_anatomy_holds(named):
    module, _, name = f"zoo_core.{named}".rpartition(".")
    assert pickle.loads(f"c{module}\n{name}\n.".encode()).__name__ == name

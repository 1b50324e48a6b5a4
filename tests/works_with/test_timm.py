"""timm's training utilities: averages of weights, optimizers, freezing, checkpointing, and its checkpoints."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from support.tools import MODELS, batch, comes_back, model, train, trainable

import zoo_core as zoo

TOOL = "timm"
pytestmark = pytest.mark.extra
TIMM = [name for name in MODELS if name.startswith("timm/")]


@pytest.mark.parametrize("kind", ["ModelEmaV2", "ModelEmaV3"])
@pytest.mark.parametrize("name", MODELS)
def test_verbs_look_through_an_average_of_weights_whose_frozen_part_holds(name, kind, tmp_path):
    from timm import utils

    inner = model(name, freeze="backbone")
    average = getattr(utils, kind)(inner, decay=0.5)
    before = copy.deepcopy(average.state_dict())
    train(inner, name, after=average.update)
    assert zoo.drift(average, before) == {}
    assert zoo.anatomy(average).main.num_classes == 5
    comes_back(average.module.eval(), name, tmp_path / "module")
    assert torch.equal(zoo.load(zoo.save(average, tmp_path / "x")).eval()(batch(name)), average.module(batch(name)))
    zoo.unfreeze(average)
    zoo.swap_head(average, 3)
    assert average.module(batch(name)).shape[1] == 3


@pytest.mark.parametrize("name", MODELS)
def test_an_optimizer_of_timm_keeps_the_rates_and_decays_of_param_groups(name):
    from timm.optim import create_optimizer_v2

    inner = model(name, freeze="backbone")
    groups = zoo.param_groups(inner, lr=1e-3, head_lr=1e-2, weight_decay=0.05)
    optimizer = create_optimizer_v2(groups, opt="adamw", lr=5e-4, weight_decay=0.1)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-2}
    assert {group["weight_decay"] for group in optimizer.param_groups} <= {0.05, 0.0}
    zoo.unfreeze(inner, optimizer=optimizer)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(trainable(inner))
    assert {group["lr"] for group in optimizer.param_groups} == {1e-2, 1e-3}


@pytest.mark.parametrize("name", TIMM)
def test_timms_own_layer_decay_knows_a_head_that_was_swapped(name):
    from timm.optim import create_optimizer_v2

    inner = zoo.swap_head(model(name), 3)
    optimizer = create_optimizer_v2(inner, opt="sgd", lr=0.1, layer_decay=0.5)
    scale = {id(each): group["lr_scale"] for group in optimizer.param_groups for each in group["params"]}
    assert len(scale) == len([*inner.parameters()])
    assert scale[id(inner.get_classifier().weight)] == max(scale.values())


@pytest.mark.parametrize("name", MODELS)
def test_a_checkpoint_of_its_saver_gives_the_averaged_weights(name, tmp_path):
    from timm.utils import CheckpointSaver, ModelEmaV3

    inner = model(name)
    average = ModelEmaV3(inner, decay=0.5)
    train(inner, name, after=average.update)
    optimizer = torch.optim.SGD(inner.parameters(), lr=0.1)
    folder = str(tmp_path)
    saver = CheckpointSaver(
        inner,
        optimizer,
        args=SimpleNamespace(model=name),
        model_ema=average,
        checkpoint_dir=folder,
        recovery_dir=folder,
    )
    saver.save_checkpoint(0, metric=0.5)
    loaded = zoo.get(name, weights=tmp_path / "last.pth.tar").eval()
    assert torch.equal(loaded(batch(name)), average.module.eval()(batch(name)))
    assert zoo.receipt(loaded).taken == "averaged weights, from 'state_dict_ema'"
    raw = zoo.get(name, weights=tmp_path / "last.pth.tar", ema=False).eval()
    assert torch.equal(raw(batch(name)), inner(batch(name)))


@pytest.mark.parametrize("name", TIMM)
def test_gradient_checkpointing_gives_the_same_maps_and_gradients(name):
    inner, x = model(name).eval(), batch(name)
    encoder = zoo.encoder(inner)
    expected = encoder(x)
    expected[-1].square().mean().backward()
    gradient = {each: parameter.grad for each, parameter in inner.named_parameters()}
    inner.zero_grad(set_to_none=True)
    inner.set_grad_checkpointing()
    found = zoo.encoder(inner)(x)
    found[-1].square().mean().backward()
    assert all(map(torch.equal, found, expected))
    for each, parameter in inner.named_parameters():
        assert (parameter.grad is None) == (gradient[each] is None)
        assert parameter.grad is None or torch.allclose(parameter.grad, gradient[each])


@pytest.mark.parametrize("name", TIMM)
def test_a_classifier_that_timm_reset_is_the_head_from_then_on(name, tmp_path):
    inner = model(name)
    inner.reset_classifier(7)
    assert zoo.anatomy(inner).main.num_classes == 7
    zoo.freeze(inner)
    assert {each.rpartition(".")[2] for each in trainable(inner)} == {"weight", "bias"}
    comes_back(inner, name, tmp_path / "x")


def test_batch_norms_that_timm_froze_are_refused_by_save_with_the_other_way(tmp_path):
    from timm.layers import freeze_batch_norm_2d

    frozen = freeze_batch_norm_2d(model("tiny/glyphnet"))
    assert zoo.features(frozen, batch("tiny/glyphnet"))
    with pytest.raises(zoo.errors.NotSupported, match=r"zoo\.freeze\(model\)"):
        zoo.save(frozen, tmp_path / "x")
    comes_back(zoo.freeze(model("tiny/glyphnet")), "tiny/glyphnet", tmp_path / "x")

"""Lightning's Trainer, its callbacks that freeze, unfreeze and average, and its checkpoints."""

from __future__ import annotations

import copy

import pytest
import torch
from support.tools import MODELS, batch, comes_back, model, trainable

import zoo_core as zoo

TOOL = "lightning"
pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore")]
FEW = ["timm/test_vit", "pretrainedmodels/squeezenet1_1", "tiny/glyphnet"]


@pytest.fixture
def fit(tmp_path):
    """``fit(name, module, *callbacks)``: some epochs of two batches; the trainer."""
    lightning = pytest.importorskip("lightning")

    def run(name, module, *callbacks, epochs=2):
        trainer = lightning.Trainer(
            default_root_dir=tmp_path,
            max_epochs=epochs,
            callbacks=[*callbacks],
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data = torch.utils.data.TensorDataset(batch(name, 4))
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=2))
        return trainer

    return run


def module_of(inner, *, split=False):
    """An ordinary LightningModule around a model, or around the two parts that ``zoo.split`` makes of it."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            if split:
                self.backbone, self.head = zoo.split(inner)
            else:
                self.model = inner

        def forward(self, x):
            return self.head(self.backbone(x)) if split else self.model(x)

        def training_step(self, batch, _):
            return self(batch[0]).square().mean()

        def configure_optimizers(self):
            trained = filter(lambda each: each.requires_grad, self.parameters())
            return torch.optim.SGD(trained if split else zoo.param_groups(self, lr=0.003, head_lr=0.01), lr=0.003)

    return Module()


@pytest.mark.parametrize("name", MODELS)
def test_verbs_look_through_a_module_that_holds_a_model(name, tmp_path):
    module = module_of(model(name)).eval()
    zoo.freeze(module)
    head = zoo.anatomy(module).main.path
    assert all(each.startswith(f"model.{head}") for each in trainable(module))
    zoo.swap_head(module, 3)
    loaded = comes_back(module, name, tmp_path / "x")
    assert type(loaded) is type(module.model)
    assert zoo.receipt(module).model == name


@pytest.mark.parametrize("name", FEW)
def test_nothing_frozen_moves_under_the_trainer_and_all_else_does(name, fit):
    module = module_of(model(name, freeze="backbone"))
    before = copy.deepcopy(module.state_dict())
    fit(name, module)
    assert zoo.drift(module, before) == {}
    assert all(not torch.equal(module.state_dict()[each], before[each]) for each in trainable(module))


@pytest.mark.parametrize("name", FEW)
def test_stochastic_weight_averaging_leaves_frozen_norms_alone(name, fit):
    from lightning.pytorch.callbacks import StochasticWeightAveraging

    module = module_of(model(name, freeze="backbone"))
    before = copy.deepcopy(module.state_dict())
    fit(name, module, StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1), epochs=3)
    assert zoo.drift(module, before) == {}


@pytest.mark.parametrize("name", FEW)
def test_backbone_finetuning_trains_all_parts_that_zoo_split(name, fit):
    from lightning.pytorch.callbacks import BackboneFinetuning

    inner = model(name)
    before = copy.deepcopy(inner.state_dict())
    callback = BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=0.003, verbose=False)
    fit(name, module_of(inner, split=True), callback, epochs=3)
    assert trainable(inner) == {each for each, _ in inner.named_parameters()}
    assert all(not torch.equal(tensor, before[each]) for each, tensor in inner.state_dict().items())
    assert zoo.swap_head(inner, 3)


def test_backbone_finetuning_unfreezes_what_zoo_froze_and_norms_follow_from_the_next_step(fit):
    from lightning.pytorch.callbacks import BackboneFinetuning

    name, inner = "tiny/glyphnet", model("tiny/glyphnet", freeze="backbone")
    before = copy.deepcopy(inner.state_dict())
    callback = BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=0.003, verbose=False)
    fit(name, module_of(inner, split=True), callback, epochs=3)
    assert trainable(inner) == {each for each, _ in inner.named_parameters()}
    assert not torch.equal(inner.layer1.conv1.weight, before["layer1.conv1.weight"])
    assert not torch.equal(inner.layer1.bn1.running_mean, before["layer1.bn1.running_mean"])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("split", [False, True], ids=["self.model", "self.backbone and self.head"])
def test_a_checkpoint_comes_back_in_one_line(name, split, tmp_path):
    import lightning

    module = module_of(model(name), split=split).eval()
    trainer = lightning.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, barebones=True)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    loaded = zoo.get(name, weights=tmp_path / "last.ckpt").eval()
    assert torch.equal(loaded(batch(name)), module(batch(name)))
    prefix = "backbone.body." if split else "model."
    assert zoo.receipt(loaded).taken == f"from 'state_dict', without the prefix {prefix!r}"
    main = zoo.anatomy(loaded).main.path
    assert zoo.receipt(loaded).notes.get(f"{main}.weight", "").startswith("'head." if split else "")


def test_averaged_weights_of_a_callback_are_taken_from_its_checkpoint(fit, tmp_path):
    from lightning.pytorch.callbacks import EMAWeightAveraging

    name, averaging = "tiny/glyphnet", EMAWeightAveraging(decay=0.5)
    fit(name, module_of(model(name)), averaging).save_checkpoint(tmp_path / "last.ckpt")
    loaded = zoo.get(name, weights=tmp_path / "last.ckpt").eval()
    assert torch.equal(loaded(batch(name)), averaging._average_model.module.eval()(batch(name)))
    assert zoo.receipt(loaded).taken.startswith("averaged weights")


def test_a_module_of_two_models_says_how_to_name_one():
    module = module_of(model("tiny/glyphnet"))
    module.teacher = model("tiny/glyphnet")
    with pytest.raises(zoo.errors.NotAZooModel, match=r"module\.model, module\.teacher"):
        zoo.freeze(module)
    assert zoo.freeze(module.model)

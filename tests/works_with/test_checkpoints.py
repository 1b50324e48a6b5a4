"""Checkpoints as real writers lay them out, for each form of head: back in one line, with equal outputs."""

from __future__ import annotations

import copy

import pytest
import torch
from support.tools import batch, model
from torch import distributed, nn

import zoo_core as zoo

TOOL = ("accelerate", "transformers", "huggingface-hub", "torch", "lightning", "timm")
pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore")]
HEADS = {
    "a linear head": ("timm/test_vit", {}),
    "a convolution": ("pretrainedmodels/squeezenet1_1", {}),
    "layers before the head": ("torchvision/mobilenet_v3_small", {}),
    "a deep head": ("tiny/glyphnet", {"num_classes": None, "head": zoo.mlp_head(4, hidden=(8,), batch_norm=True)}),
    "several heads": ("tiny/glyphnet", {"num_classes": None, "head": {"colour": 2, "shape": 3}}),
    "other channels": ("timm/test_convnext", {"in_channels": 4}),
}


@pytest.fixture(params=HEADS.values(), ids=HEADS)
def trained(request):
    """The name of a model, one with statistics of its own, what it is given, and ``back(path)``: its equal, loaded."""
    name, arguments = request.param
    inner = model(name, **arguments)
    x = batch(name)
    if "in_channels" in arguments:
        x = torch.cat([x, x[:, :1]], dim=1)
    inner.train()(x)
    inner.eval()

    def back(path):
        loaded = zoo.get(name, weights=path).eval()
        found, expected = loaded(x), inner(x)
        parts = expected.keys() if isinstance(expected, dict) else ()
        assert (
            all(torch.equal(found[each], expected[each]) for each in parts) if parts else torch.equal(found, expected)
        )
        receipt = zoo.receipt(loaded)
        assert set(receipt.tensors.values()) <= {"loaded", "ignored"}
        assert receipt.path.startswith(str(path))
        return receipt.taken

    return inner, x, back


def total(out):
    return sum(each.square().mean() for each in (out.values() if isinstance(out, dict) else [out]))


@pytest.fixture
def group(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickle"])
def test_the_state_that_accelerate_saves(trained, safe, tmp_path):
    import accelerate

    inner, _, back = trained
    accelerator = accelerate.Accelerator(cpu=True)
    accelerator.prepare(inner)
    accelerator.save_state(tmp_path / "state", safe_serialization=safe)
    assert back(tmp_path / "state") == ""


def test_the_shards_of_accelerate_and_of_the_hub(trained, tmp_path):
    import accelerate
    from huggingface_hub import save_torch_model

    inner, _, back = trained
    accelerate.Accelerator(cpu=True).save_model(inner, tmp_path / "accelerate", max_shard_size="200KB")
    (tmp_path / "hub").mkdir()
    save_torch_model(inner, tmp_path / "hub", max_shard_size="200KB")
    assert back(tmp_path / "accelerate") == back(tmp_path / "hub") == ""


def test_a_checkpoint_of_the_trainer_of_transformers(trained, tmp_path, capsys):
    import transformers

    inner, x, back = trained

    class Trainer(transformers.Trainer):
        def compute_loss(self, model, inputs, **_):
            return total(model(inputs["pixel_values"]))

    settings = transformers.TrainingArguments(
        str(tmp_path),
        max_steps=1,
        save_steps=1,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    Trainer(inner, settings, train_dataset=[{"pixel_values": each} for each in x]).train()
    inner.eval()
    assert back(tmp_path / "checkpoint-1") == ""


def test_a_folder_of_distributed_checkpoint_with_the_optimizer(trained, tmp_path):
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_state_dict

    inner, x, back = trained
    optimizer = torch.optim.AdamW(inner.parameters(), 1e-3)
    total(inner(x)).backward()
    optimizer.step()
    weights, optim = get_state_dict(inner, optimizer)
    checkpoint.save({"model": weights, "optim": optim}, checkpoint_id=tmp_path / "dcp")
    assert back(tmp_path / "dcp") == "without the prefix 'model.'"


def test_a_sharded_model_gathered_whole_or_saved_as_shards(trained, group, tmp_path):
    from torch.distributed import checkpoint, device_mesh, fsdp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    inner, _, back = trained
    sharded = fsdp.fully_shard(copy.deepcopy(inner), mesh=device_mesh.init_device_mesh("cpu", (1,)))
    torch.save(get_model_state_dict(sharded, options=StateDictOptions(full_state_dict=True)), tmp_path / "whole.pt")
    checkpoint.save(sharded.state_dict(), checkpoint_id=tmp_path / "shards")
    assert back(tmp_path / "whole.pt") == back(tmp_path / "shards") == ""
    torch.save(sharded.state_dict(), tmp_path / "rank0.pt")
    with pytest.raises(zoo.errors.Unreadable, match="get_model_state_dict"):
        back(tmp_path / "rank0.pt")


def test_a_checkpoint_of_lightning(trained, tmp_path):
    import lightning

    inner, _, back = trained

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = inner

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 1e-3)

    trainer = lightning.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, barebones=True)
    trainer.strategy.connect(Module())
    trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert back(tmp_path / "last.ckpt") == "from 'state_dict', without the prefix 'model.'"


def test_a_checkpoint_of_the_saver_of_timm(trained, tmp_path):
    from timm.utils import CheckpointSaver

    inner, _, back = trained
    optimizer = torch.optim.SGD(inner.parameters(), lr=0.1)
    saver = CheckpointSaver(inner, optimizer, checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path))
    saver.save_checkpoint(0, metric=0.5)
    assert back(tmp_path / "last.pth.tar") == "from 'state_dict'"


def _of_torch(inner):
    return {"ema": torch.optim.swa_utils.AveragedModel(inner).state_dict()}


def _of_timm(inner):
    from timm.utils import ModelEmaV3

    return {"state_dict_ema": ModelEmaV3(inner).module.state_dict()}


def _of_torch_ema(inner):
    return {"ema": {"decay": 0.99, "shadow_params": [each.detach() for each in inner.parameters()]}}


def _of_latent_diffusion(inner):
    shadows = {f"model_ema.{name.replace('.', '')}": each.detach() for name, each in inner.named_parameters()}
    return {"model_ema.decay": torch.tensor(0.99), "model_ema.num_updates": torch.tensor(1), **shadows}


@pytest.mark.parametrize("averages", [_of_torch, _of_timm, _of_torch_ema, _of_latent_diffusion])
def test_averages_of_four_kinds_beside_weights_that_are_others(trained, averages, tmp_path):
    inner, _, back = trained
    raw = {name: each + 1 if each.is_floating_point() else each for name, each in inner.state_dict().items()}
    raw |= dict(inner.named_buffers())  # some of them average the parameters alone
    content = averages(inner)
    is_flat = "model_ema.decay" in content
    torch.save({"model": raw | content} if is_flat else {"model": raw, **content}, tmp_path / "last.pt")
    assert back(tmp_path / "last.pt").startswith("averaged weights, from ")


def test_a_compiled_model_in_data_parallel(trained, tmp_path):
    inner, _, back = trained
    wrapped = nn.DataParallel(torch.compile(inner))
    torch.save({"epoch": 3, "model": wrapped.state_dict()}, tmp_path / "last.pt")
    assert back(tmp_path / "last.pt").startswith("from 'model'")


def test_what_deepspeed_consolidates_and_its_folder_of_a_step(trained, tmp_path):
    inner, _, back = trained
    step = tmp_path / "global_step7"
    step.mkdir()
    torch.save({"module": inner.state_dict(), "ds_version": "0.19.8"}, step / "mp_rank_00_model_states.pt")
    (tmp_path / "latest").write_text("global_step7")
    torch.save(inner.state_dict(), tmp_path / "consolidated.pt")
    assert back(tmp_path / "consolidated.pt") == ""
    assert back(step) == "from 'module'"
    assert back(tmp_path) == "from 'module'"

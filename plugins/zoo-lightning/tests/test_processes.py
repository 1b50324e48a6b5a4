"""Fine-tuning by several processes: the weights of one with as large a batch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from support.fine_tuning import QUIET, RUN, weights
from zoo_lightning import finetune

import zoo_core as zoo
from zoo_core.errors import ZooError

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and loggers


_PROCESSES = """
import sys, warnings
warnings.simplefilter("ignore")
from zoo_lightning import finetune
folder, out, options = sys.argv[1:]
finetune(folder, out=out, batch_size=3, **eval(options),
         trainer={"enable_progress_bar": False, "accelerator": "cpu", "devices": 2, "strategy": "ddp"})
"""


def trained_alike(script, digits, folder, **options):
    """The weights that two processes train, which are those of this one with twice the batch."""
    options = {"model": "tiny/glyphnet", "epochs": 1, "augment": "none", "freeze": ["backbone"], **options}
    (folder / "script.py").write_text(script)
    command = [sys.executable, str(folder / "script.py"), str(digits), str(folder / "two"), repr(options)]
    answer = subprocess.run(command, check=False, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    finetune(digits, out=folder / "one", batch_size=6, trainer=QUIET, **options)
    one, two = weights(folder / "one"), weights(folder / "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)
    return two


def test_two_processes_train_as_one_with_twice_the_batch_and_unfreeze_alike(digits, tmp_path):
    two = trained_alike(_PROCESSES, digits, tmp_path, epochs=3, lr=3e-3, unfreeze_at={"layer3.conv2": 1})
    before = zoo.get("tiny/glyphnet", num_classes=3, seed=0).state_dict()
    assert [name for name, value in before.items() if "conv" in name and not torch.equal(value, two[name])] == [
        "layer3.conv2.weight"
    ]


_SHARDED = """
import sys, warnings
warnings.simplefilter("ignore")
from lightning.pytorch.strategies import ModelParallelStrategy
from zoo_lightning import finetune
folder, out, options = sys.argv[1:]
parts = {"data_parallel_size": 2, "tensor_parallel_size": 1, "process_group_backend": "gloo"}
strategy = ModelParallelStrategy(save_distributed_checkpoint=False, **parts)
finetune(folder, out=out, batch_size=3, **eval(options),
         trainer={"enable_progress_bar": False, "accelerator": "cpu", "devices": 2, "strategy": strategy})
"""
_FSDP = """
import sys, warnings
from unittest import mock
warnings.simplefilter("ignore")
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch.distributed import fsdp
from zoo_lightning import finetune
folder, out, options = sys.argv[1:]

class OnCpu(FSDPStrategy):  # Lightning takes the class itself on GPUs only; torch takes a CPU that is named
    def _setup_model(self, model):
        device = {"device_id": torch.device("cpu")}
        first = fsdp.FullyShardedDataParallel.__init__
        init = lambda self, *rest, **settings: first(self, *rest, **{**settings, **device})
        with mock.patch.object(fsdp.FullyShardedDataParallel, "__init__", init):
            return super()._setup_model(model)
    def barrier(self, name=None):
        torch.distributed.barrier()

policy = fsdp.wrap.ModuleWrapPolicy({torch.nn.Conv2d, torch.nn.Linear})
strategy = OnCpu(state_dict_type="full", auto_wrap_policy=policy, process_group_backend="gloo")
finetune(folder, out=out, batch_size=3, **eval(options),
         trainer={"enable_progress_bar": False, "accelerator": "cpu", "devices": 2, "strategy": strategy})
"""


@pytest.mark.sweep
@pytest.mark.parametrize("script", [_SHARDED, _FSDP], ids=["ModelParallelStrategy", "FSDPStrategy"])
def test_two_processes_that_hold_half_of_the_parameters_each_train_as_one(digits, tmp_path, script):
    norms = ["*bn*", "*shortcut.1*", "stem.*"]  # each process has statistics of its own
    decay = {"weight_decay": 1.0, "layer_decay": 0.5, "head_lr": 3e-2, "lr": 1e-2}
    trained_alike(script, digits, tmp_path, freeze=norms, **decay)


@pytest.mark.sweep
@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_notebook"])
def test_processes_that_train_copies_leave_the_metrics_of_each_epoch(digits, tmp_path, strategy):
    script = tmp_path / "script.py"
    script.write_text(f"""
import warnings
from zoo_lightning import finetune

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    trainer = {{"enable_progress_bar": False, "accelerator": "cpu", "devices": 2, "strategy": {strategy!r}}}
    out = {str(tmp_path / "out")!r}
    finetune({str(digits)!r}, model="tiny/glyphnet", out=out, epochs=2, batch_size=3, trainer=trainer)
""")
    answer = subprocess.run([sys.executable, str(script)], check=False, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert {"train_loss", "val_loss", "accuracy"} <= {
        *json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    }
    assert "train_loss" in (tmp_path / "out" / "report.html").read_text()


def test_what_several_processes_cannot_do_is_refused_before_training(digits, tmp_path):
    from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

    class OneParameter(FSDPStrategy):  # of another class, which Lightning does not look for a GPU for
        def __init__(self):
            super().__init__(use_orig_params=False)

    gloo = {"process_group_backend": "gloo"}
    for options, trainer, message in [
        ({}, {"strategy": ModelParallelStrategy(**gloo)}, "save_distributed_checkpoint=False"),
        ({"ema": 0.9}, {"strategy": ModelParallelStrategy(save_distributed_checkpoint=False, **gloo)}, "leave ema out"),
        (
            {"freeze": "backbone", "unfreeze_at": {"layer3": 1}},
            {"strategy": ModelParallelStrategy(save_distributed_checkpoint=False, **gloo), "devices": 2},
            r"unfreezing on a schedule does not go with ModelParallelStrategy",
        ),
        (
            {"lr": None},
            {"strategy": ModelParallelStrategy(save_distributed_checkpoint=False, **gloo)},
            "a learning rate is not found with ModelParallelStrategy",
        ),
        ({}, {"strategy": "fsdp"}, r"requires a GPU[\s\S]*ModelParallelStrategy.*on CPUs too"),
        ({}, {"strategy": OneParameter()}, "leave use_orig_params out"),
        ({}, {"strategy": "ddp", "devices": 99}, "fewer images to validate with than processes: 6 for 99"),
    ]:
        with pytest.raises(ZooError, match=message):
            finetune(digits, out=tmp_path / "out", epochs=2, **{**RUN, **options, "trainer": {**QUIET, **trainer}})
        assert not (tmp_path / "out.run").exists()


@pytest.mark.sweep
@pytest.mark.parametrize("freeze", [(), ("backbone",)])
def test_auxiliary_heads_train_in_two_processes_whatever_is_frozen(digits, tmp_path, freeze):
    script = tmp_path / "script.py"
    script.write_text(f"""
import dataclasses, warnings
warnings.simplefilter("ignore")
import zoo_core as zoo
from zoo_lightning import finetune
model = zoo.get("googlenet", weights=None, num_classes=3, seed=0)
numbers = dataclasses.replace(zoo.preprocessing("torchvision/googlenet"), crop=(48, 48), resize=(48,))
finetune({str(digits)!r}, model=zoo.set_preprocessing(model, numbers), out={str(tmp_path / "out")!r}, epochs=1,
         batch_size=4, augment="none", freeze={freeze!r},
         trainer={{"enable_progress_bar": False, "accelerator": "cpu", "devices": 2, "strategy": "ddp"}})
""")
    answer = subprocess.run([sys.executable, str(script)], check=False, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert (tmp_path / "out" / "report.html").is_file()

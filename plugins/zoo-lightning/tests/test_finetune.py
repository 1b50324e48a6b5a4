"""Fine-tuning on real images, killed and resumed, and what it leaves."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from lightning.pytorch import Callback
from sklearn.metrics import average_precision_score, log_loss
from zoo_lightning import FineTune, finetune, read_data
from zoo_lightning.command import finetune as command
from zoo_lightning.evaluate import Evaluation
from zoo_lightning.module import LabelPrecision
from zoo_lightning.report import curves
from zoo_lightning.run import check_run

import zoo_core as zoo
from zoo_core.errors import NotSupported, UsageError, ZooError

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and loggers
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
RUN = {"model": "tiny/glyphnet", "batch_size": 8, "augment": "light", "trainer": QUIET}


def weights(folder):
    return zoo.load(folder).state_dict()


def test_a_run_leaves_a_model_with_names_metrics_and_a_report(digits, tmp_path):
    result = finetune(digits, out=tmp_path / "out", epochs=2, freeze=("backbone",), head_epochs=20, **RUN)
    model = zoo.load(result.folder)
    assert zoo.class_names(model) == ("0", "1", "2")
    assert zoo.transforms(model) is not None
    page = result.report.read_text()
    assert page.count("</tspan> train_loss") == 1
    assert all(part in page for part in ("<svg", "Calibration", "frozen", "Worst mistakes"))
    assert "http://" not in page.replace("http://www.w3.org", "")
    metrics = json.loads((result.folder / "metrics.json").read_text())["metrics"]
    assert metrics["accuracy"] == result.metrics["accuracy"] > 0.5


def test_a_run_goes_on_from_a_saved_folder(digits, tmp_path):
    folder = zoo.save(zoo.get("tiny/glyphnet"), tmp_path / "saved")
    check_run(read_data(digits), model=str(folder), out=tmp_path / "out")
    result = finetune(digits, out=tmp_path / "out", epochs=1, freeze="backbone", **{**RUN, "model": str(folder)})
    assert torch.equal(weights(result.folder)["stem.0.weight"], weights(folder)["stem.0.weight"])


def test_a_frozen_backbone_stays_bit_for_bit(digits, tmp_path):
    before = zoo.get("tiny/glyphnet", num_classes=3, seed=0).state_dict()
    after = weights(finetune(digits, out=tmp_path / "out", epochs=1, freeze=("backbone",), **RUN).folder)
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    head = zoo.anatomy(zoo.get("tiny/glyphnet", weights=None)).main.path
    assert {name for name in before if not name.startswith(head)} <= same


_KILLED = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
from lightning.pytorch import Callback
from sklearn.metrics import average_precision_score, log_loss
import zoo_lightning.run as run
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
folder, out, when, options = sys.argv[1:]
class Kill(Callback):
    def on_train_batch_start(self, trainer, *rest):
        if when == str(trainer.current_epoch):
            die()
run.finetune(folder, model="tiny/glyphnet", out=out, batch_size=8, augment="light", **eval(options),
             trainer={"enable_progress_bar": False, "accelerator": "cpu", "callbacks": [Kill()]})
"""


def test_a_model_that_comes_in_eval_mode_is_trained_in_the_mode_for_it(digits, tmp_path):
    model = zoo.get("tiny/glyphnet", num_classes=3).eval()
    result = finetune(digits, out=tmp_path / "out", epochs=1, **{**RUN, "model": model})
    before = zoo.get("tiny/glyphnet").state_dict()["stem.1.running_mean"]
    assert not torch.equal(weights(result.folder)["stem.1.running_mean"], before)


def test_a_run_killed_and_resumed_ends_as_one_that_was_not(digits, tmp_path):
    when, options = "1", {"epochs": 2, "mixup": 0.2, "lr": 1e-2, "head_epochs": 2, "patience": 2}
    command = [sys.executable, "-c", _KILLED, str(digits), str(tmp_path / "cut"), when, repr(options)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -9
    whole, cut = (
        finetune(digits, out=tmp_path / name, resume=name == "cut", **options, **RUN) for name in ("whole", "cut")
    )
    assert all(torch.equal(value, weights(cut.folder)[name]) for name, value in weights(whole.folder).items())
    assert cut.metrics == whole.metrics
    assert cut.report.read_text().replace("<title>cut", "<title>whole").replace("<h1>cut", "<h1>whole") == (
        whole.report.read_text()
    )


def interrupt(digits, out, **options):
    """Run until the second epoch begins, and leave what a process that died there leaves."""

    class Stop(Callback):
        def on_train_epoch_start(self, trainer, _):
            if trainer.current_epoch == 1:
                raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        finetune(digits, out=out, **{**RUN, **options, "trainer": {**QUIET, "callbacks": [Stop()]}})


def test_a_resumed_run_remembers_which_epoch_was_the_best(digits, tmp_path):
    options = {"epochs": 2, "lr": 0.3}  # so high a rate that the second epoch is no better
    interrupt(digits, tmp_path / "cut", **options)
    whole, cut = (
        finetune(digits, out=tmp_path / name, resume=name == "cut", **{**RUN, **options}) for name in ("whole", "cut")
    )
    assert all(torch.equal(value, weights(cut.folder)[name]) for name, value in weights(whole.folder).items())


def test_a_chart_has_a_line_for_each_name():
    names = "abcde"
    assert curves([dict.fromkeys(names, 1.0)], names, "loss").count("<path") == 5


@pytest.mark.parametrize("step", ["loaders", "write_report"])
def test_a_run_that_ends_outside_of_the_epochs_can_be_resumed(digits, tmp_path, monkeypatch, step):
    options = {**RUN, "epochs": 1, "head_epochs": 1}
    with monkeypatch.context() as patched:
        patched.setattr(f"zoo_lightning.run.{step}", lambda *_, **__: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            finetune(digits, out=tmp_path / "cut", **options)
    whole, cut = (finetune(digits, out=tmp_path / name, resume=name == "cut", **options) for name in ("whole", "cut"))
    assert all(torch.equal(value, weights(cut.folder)[name]) for name, value in weights(whole.folder).items())
    assert cut.metrics == whole.metrics


def test_a_run_replaces_no_save_and_no_interrupted_run_unless_it_is_told_to(digits, tmp_path):
    once = {**RUN, "epochs": 0, "head_epochs": 1}
    saved = weights(finetune(digits, out=tmp_path / "out", **once).folder)
    with pytest.raises(UsageError, match=r"holds a saved model already[\s\S]*--overwrite"):
        finetune(digits, out=tmp_path / "out", seed=1, **once)
    assert all(torch.equal(value, saved[name]) for name, value in weights(tmp_path / "out").items())
    other = weights(finetune(digits, out=tmp_path / "out", seed=1, overwrite=True, **once).folder)
    assert not torch.equal(other["fc.weight"], saved["fc.weight"])
    interrupt(digits, tmp_path / "cut", epochs=2)
    with pytest.raises(UsageError, match=r"was interrupted[\s\S]*--resume\) goes on[\s\S]*--overwrite\) begins"):
        finetune(digits, out=tmp_path / "cut", epochs=2, **RUN)


def test_a_run_is_not_resumed_with_other_options_or_images(digits, tmp_path):
    interrupt(digits, tmp_path / "out", epochs=2)
    with pytest.raises(UsageError, match=r"begun with another batch_size[\s\S]*got: batch_size: 4"):
        finetune(digits, out=tmp_path / "out", epochs=2, resume=True, **{**RUN, "batch_size": 4})
    (digits / "1" / "003.png").unlink()
    with pytest.raises(UsageError, match="begun with another images"):
        finetune(digits, out=tmp_path / "out", epochs=2, resume=True, **RUN)


def test_a_run_whose_files_are_damaged_is_not_resumed_and_says_which(digits, tmp_path):
    interrupt(digits, tmp_path / "out", epochs=2)
    work = tmp_path / "out.run"
    for name, content in (
        ("last.ckpt", (work / "last.ckpt").read_bytes()[:-100]),
        ("run.json", b"{"),
        ("run.json", b"1"),
    ):
        (work / name).write_bytes(content)
        with pytest.raises(UsageError, match=rf"{name} cannot be read[\s\S]*--overwrite[\s\S]*--resume"):
            finetune(digits, out=tmp_path / "out", epochs=2, resume=True, **RUN)


def test_a_checkpoint_that_is_damaged_in_its_middle_is_named_and_the_best_one_trained_on(digits, tmp_path):
    interrupt(digits, tmp_path / "out", epochs=2)
    point, best = (tmp_path / "out.run" / name for name in ("last.ckpt", "best.ckpt"))
    content = bytearray(point.read_bytes())
    content[len(content) // 2] ^= 255
    point.write_bytes(content)
    with pytest.raises(UsageError, match=r"last\.ckpt cannot be read[\s\S]*not as it was written") as caught:
        finetune(digits, out=tmp_path / "out", epochs=2, resume=True, **RUN)
    assert f"a copy of {best}" in str(caught.value)
    copy = best.rename(tmp_path / "copy.ckpt")
    again = {**RUN, "overwrite": True, "freeze": "backbone", "epochs": 1}
    result = finetune(digits, out=tmp_path / "out", weights=str(copy), **again)
    expected = torch.load(copy, weights_only=True)["state_dict"]["model.layer3.conv2.weight"]
    assert torch.equal(weights(result.folder)["layer3.conv2.weight"], expected)


def test_a_new_run_takes_nothing_from_one_that_was_interrupted(digits, tmp_path):
    interrupt(digits, tmp_path / "out", epochs=2)
    options = {**RUN, "epochs": 1, "seed": 1, "overwrite": True}
    found, expected = (finetune(digits, out=tmp_path / name, **options) for name in ("out", "other"))
    assert found.metrics == expected.metrics


def test_a_folder_that_cannot_be_saved_to_is_refused_before_training(digits, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else than a saved model"):
        finetune(digits, out=tmp_path / "out", epochs=1, **RUN)
    assert not (tmp_path / "out.run").exists()


class Doubling(torch.nn.Module):
    """A layer that is not one of torch.nn."""

    def forward(self, x):
        return 2 * x


def test_a_model_that_cannot_be_saved_is_refused_before_training(digits, tmp_path):
    model = zoo.get("tiny/glyphnet", num_classes=3)
    model.stem.append(Doubling())
    with pytest.raises(NotSupported):
        finetune(digits, out=tmp_path / "out", epochs=1, **{**RUN, "model": model})
    assert not (tmp_path / "out.run").exists()


def test_batch_norm_is_never_given_a_batch_of_one(digits, tmp_path):
    data = read_data(digits)
    model = zoo.swap_head(zoo.get("tiny/glyphnet"), zoo.mlp_head(3, hidden=(8,), batch_norm=True))
    options = {**RUN, "model": model, "batch_size": len(data.train) - 1}
    assert finetune(data, out=tmp_path / "out", epochs=1, head_epochs=1, **options).report.is_file()


@pytest.mark.parametrize("option", [{"mixup": 0.2}, {"label_smoothing": 0.1}])
def test_what_is_for_one_class_an_image_is_refused_for_several_labels(option):
    with pytest.raises(UsageError, match="is for images of one class each"):
        FineTune(zoo.get("tiny/glyphnet", num_classes=3), multi_label=True, **option)


def test_parts_train_from_the_epoch_of_the_schedule_on(digits, tmp_path):
    before = zoo.get("tiny/glyphnet", num_classes=3, seed=0)
    stage = zoo.anatomy(before).stages[-1].name
    trainable = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, module, *_):
            part = module.model.get_submodule(stage)
            trainable.append((trainer.current_epoch, all(each.requires_grad for each in part.parameters())))

    options = {**RUN, "trainer": {**QUIET, "callbacks": [Look()]}}
    finetune(digits, out=tmp_path / "out", epochs=2, freeze=("backbone",), unfreeze_at={stage: 1}, **options)
    assert set(trainable) == {(0, False), (1, True)}


def test_the_score_of_several_labels_is_that_of_sklearn_over_the_labels_that_are_there():
    generator = torch.Generator().manual_seed(0)
    scores, targets = torch.randn(20, 4, generator=generator), torch.randint(0, 2, (20, 4), generator=generator)
    targets[:, 2] = 0
    present = [0, 1, 3]
    score = LabelPrecision(4)
    for rows in (slice(0, 7), slice(7, 20)):
        score.update(scores[rows], targets[rows])
    expected = average_precision_score(targets[:, present], scores[:, present], average="macro")
    assert score.compute().item() == pytest.approx(expected)
    found = Evaluation(scores.sigmoid(), targets.float())
    losses = [log_loss(row, each, labels=[0, 1]) for row, each in zip(targets, scores.sigmoid().double(), strict=True)]
    wrong = {number for number, row in enumerate((scores >= 0) != targets.bool()) if row.any()}
    assert found.mistakes(5) == sorted(wrong, key=lambda number: -losses[number])[:5]


def test_several_labels_train_with_binary_cross_entropy(digits, tmp_path):
    table = digits / "labels.csv"
    rows = [
        f"{digit}/{number:03}.png,{label}"
        for digit, label in ((0, "round;zero"), (1, "one"), (2, "two;round"))
        for number in range(6)
    ]
    table.write_text("path,label\n" + "\n".join(rows))
    result = finetune(table, out=tmp_path / "out", epochs=1, balance=True, **RUN)
    assert 0 <= result.metrics["accuracy"] <= 1


def test_every_option_of_training_runs(digits, tmp_path):
    result = finetune(
        digits, out=tmp_path / "out", epochs=2, ema=0.9, patience=1, layer_decay=0.7, head_lr=1e-2, label_smoothing=0.1,
        balance=True, accumulate=2, precision="64-true", freeze="until=layer2", **RUN,
    )  # fmt: skip
    assert result.report.is_file()
    before, after = zoo.get(RUN["model"], num_classes=3).state_dict(), weights(result.folder)
    moved = {name.partition(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert "layer2" in moved
    assert not moved & {"stem", "layer1"}
    assert {value.dtype for value in after.values()} <= {torch.float32, torch.int64}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epoch": 3}, "no option 'epoch'"),
        ({"epochs": 0}, "no epoch to train"),
        ({"epochs": 1.5}, "epochs cannot be 1.5"),
        ({"batch_size": 0}, "batch_size cannot be 0"),
        ({"ema": 1.0}, "ema cannot be 1.0"),
        ({"mixup": -1.0}, "mixup cannot be -1.0"),
        ({"lr": float("nan")}, "lr cannot be nan"),
        ({"head_lr": 1e300}, "head_lr cannot be 1e"),
        ({"patience": 0}, "patience cannot be 0"),
        ({"precision": "fp8"}, "does not take these arguments"),
        ({"freeze": "*"}, "nothing of this model trains"),
        ({"unfreeze_at": {"layer3": 10}}, r"unfreeze_at cannot be 10 for 'layer3'[\s\S]*an integer from 0 to 9"),
        ({"unfreeze_at": {"layer3": -1}}, "unfreeze_at cannot be -1"),
        ({"unfreeze_at": {"layer3": 1.5}}, "unfreeze_at cannot be 1.5"),
        (
            {"epochs": 0, "head_epochs": 5, "unfreeze_at": {"layer3": 0}},
            r"unfreeze_at cannot be 0[\s\S]*epochs of at least 1",
        ),
        ({"resume": True}, "no run to resume"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(digits, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        finetune(digits, out=tmp_path / "out", **{**RUN, **options})
    assert not [*tmp_path.glob("out*")]


@pytest.mark.parametrize("options", [{"epochs": 1}, {"epochs": 0, "head_epochs": 5}])
def test_a_loss_that_is_nan_stops_a_run_and_saves_nothing(digits, tmp_path, options):
    with pytest.raises(ZooError, match=r"is (nan|inf) in epoch \d, so that training was stopped[\s\S]*a tenth of lr"):
        finetune(digits, out=tmp_path / "out", lr=1e30, **RUN, **options)
    assert not (tmp_path / "out").exists()


def test_a_batch_of_one_image_that_a_batch_norm_cannot_take_is_refused_in_words(digits, tmp_path):
    model = zoo.swap_head(zoo.get("tiny/glyphnet"), zoo.mlp_head(3, hidden=(8,), batch_norm=True))
    with pytest.raises(UsageError, match=r"a batch of one image[\s\S]*batch_size of at least 2"):
        finetune(digits, out=tmp_path / "out", epochs=1, **{**RUN, "model": model, "batch_size": 1})


def test_a_folder_that_cannot_be_written_to_is_refused_in_words(digits, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="the run cannot be written to"):
        finetune(digits, out=tmp_path / "file" / "out", epochs=1, **RUN)


def test_ctrl_c_says_that_the_run_can_be_resumed(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)  # Lightning ignores the next one for the whole process
    monkeypatch.setattr(FineTune, "on_train_batch_start", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(
        KeyboardInterrupt, match=r"resume=True \(--resume\) continues from the last complete epoch in .*out\.run"
    ):
        finetune(digits, out=tmp_path / "out", epochs=1, **RUN)


def test_caching_features_of_a_backbone_that_trains_is_refused(digits):
    from zoo_lightning.head_first import train_head

    module = FineTune(zoo.get("tiny/glyphnet", num_classes=3))
    with pytest.raises(NotSupported, match="frozen backbone"):
        train_head(module, None, epochs=1, batch_size=1, workers=0, folder=digits, device="cpu")


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
def test_ten_images_of_each_digit_are_enough_for_the_accuracy_that_the_readme_states(write_digits, tmp_path):
    write_digits(tmp_path / "data" / "train", 10, 10)
    write_digits(tmp_path / "data" / "val", 10, 140, start=10)
    options = {"epochs": 10, "head_epochs": 20, "batch_size": 16, "augment": "light", "trainer": QUIET}
    result = finetune(tmp_path / "data", model="tiny/glyphnet", out=tmp_path / "out", **options)
    assert result.metrics["accuracy"] > 0.9


@pytest.mark.extra
def test_adapters_are_trained_saved_small_and_merged(digits, tmp_path):
    result = finetune(
        digits, out=tmp_path / "out", epochs=2, head_epochs=5, adapter="lora", adapter_rank=2, lr=0.01, **RUN
    )
    model = zoo.load(result.folder)
    assert model.layer1.conv1.lora_B.default.weight.abs().max() > 0
    published = zoo.get("tiny/glyphnet")
    assert torch.equal(model.layer1.conv1.base_layer.weight, published.layer1.conv1.weight)
    assert torch.equal(model.layer1.bn1.running_mean, published.layer1.bn1.running_mean)
    whole = zoo.save(zoo.merge_lora(model), tmp_path / "merged")
    sizes = [sum(each.stat().st_size for each in folder.glob("*.safetensors")) for folder in (result.folder, whole)]
    assert sizes[0] < sizes[1] / 5
    assert "lora" in CliRunner().invoke(command, ["--help"]).output


def test_an_adapter_of_another_kind_is_refused(digits, tmp_path):
    with pytest.raises(UsageError, match="'lora' or None"):
        finetune(digits, out=tmp_path / "out", adapter="prefix", **RUN)


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


@pytest.mark.parametrize("name", ["googlenet", "pretrainedmodels/inceptionv3"])
def test_auxiliary_heads_count_in_the_loss_of_training(name):
    module = FineTune(zoo.get(name, weights=None, num_classes=3, seed=0, device="meta"))
    size = 75 if name == "googlenet" else 299
    module.train()
    count = len(module.heads(torch.empty(2, 3, size, size, device="meta")))
    assert count == (3 if name == "googlenet" else 2)
    assert len(module.eval().heads(torch.empty(2, 3, size, size, device="meta"))) == 1


def test_a_learning_rate_is_found_where_none_is_set_though_an_epoch_has_few_steps(digits, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("zoo_lightning.run._STEPS", 30)
    rates = []

    class Look(Callback):
        def on_train_start(self, _, module):
            rates.append(module.lr)

    finetune(digits, out=tmp_path / "out", epochs=1, lr=None, **{**RUN, "trainer": {**QUIET, "callbacks": [Look()]}})
    assert rates[-1] != 1e-3
    assert "Finding best initial lr" not in capfd.readouterr().err  # no progress bar was wanted


@pytest.mark.sweep
@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 2, "lr": None},
        {"epochs": 2, "lr": None, "head_epochs": 2},
        {"epochs": 6, "lr": 0.5, "patience": 1},
        {"epochs": 3, "accumulate": 2},
        {"epochs": 2, "accumulate": 2, "ema": 0.5, "mixup": 0.2},
    ],
)
def test_a_run_with_any_option_that_has_a_state_ends_as_one_without_the_interruption(digits, tmp_path, options):
    interrupt(digits, tmp_path / "cut", **options)
    whole, cut = (
        finetune(digits, out=tmp_path / name, resume=name == "cut", **{**RUN, **options}) for name in ("whole", "cut")
    )
    assert all(torch.equal(value, weights(cut.folder)[name]) for name, value in weights(whole.folder).items())
    assert cut.metrics == whole.metrics

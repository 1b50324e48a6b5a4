"""Fine-tuning on real images, killed and resumed, and what it leaves."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from lightning.pytorch import Callback
from zoo_lightning import FineTune, finetune
from zoo_lightning.command import finetune as command

import zoo_core as zoo
from zoo_core.errors import NotSupported, UsageError

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
    assert all(part in page for part in ("<svg", "Calibration", "frozen", "Worst mistakes"))
    assert "http://" not in page.replace("http://www.w3.org", "")
    metrics = json.loads((result.folder / "metrics.json").read_text())["metrics"]
    assert metrics["accuracy"] == result.metrics["accuracy"] > 0.5


def test_a_frozen_backbone_stays_bit_for_bit(digits, tmp_path):
    before = zoo.get("tiny/glyphnet", num_classes=3, seed=0).state_dict()
    after = weights(finetune(digits, out=tmp_path / "out", epochs=1, freeze=("backbone",), **RUN).folder)
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    head = zoo.anatomy(zoo.get("tiny/glyphnet", weights=None)).main.path
    assert {name for name in before if not name.startswith(head)} <= same


def test_a_run_that_was_killed_and_resumed_has_the_weights_of_one_that_was_not(digits, tmp_path):
    whole = finetune(digits, out=tmp_path / "whole", epochs=3, mixup=0.2, **RUN)
    script = f"""
import os, signal, warnings
warnings.simplefilter("ignore")
from lightning.pytorch import Callback
from zoo_lightning import finetune
class Kill(Callback):
    def on_train_batch_start(self, trainer, *rest):
        if trainer.current_epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
finetune({str(digits)!r}, model="tiny/glyphnet", out={str(tmp_path / "cut")!r}, epochs=3, mixup=0.2, batch_size=8,
         augment="light", trainer={{"enable_progress_bar": False, "accelerator": "cpu", "callbacks": [Kill()]}})
"""
    assert subprocess.run([sys.executable, "-c", script], check=False, capture_output=True).returncode == -9
    cut = finetune(digits, out=tmp_path / "cut", epochs=3, mixup=0.2, resume=True, **RUN)
    assert all(torch.equal(value, weights(cut.folder)[name]) for name, value in weights(whole.folder).items())
    assert cut.metrics == whole.metrics


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
        balance=True, accumulate=2, precision="bf16-mixed", **RUN,
    )  # fmt: skip
    assert result.report.is_file()


def test_a_learning_rate_is_found_where_none_is_set(digits, tmp_path):
    finetune(digits, out=tmp_path / "out", epochs=1, lr=None, **RUN)
    assert (tmp_path / "out" / "recipe.json").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"epoch": 3}, "no option 'epoch'"), ({"epochs": 0}, "no epoch to train"), ({"resume": True}, "no run to resume")],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(digits, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        finetune(digits, out=tmp_path / "out", **RUN, **options)
    assert not (tmp_path / "out").exists()


def test_caching_features_of_a_backbone_that_trains_is_refused(digits):
    from zoo_lightning.head_first import train_head

    module = FineTune(zoo.get("tiny/glyphnet", num_classes=3))
    with pytest.raises(NotSupported, match="frozen backbone"):
        train_head(module, None, epochs=1, batch_size=1, workers=0, folder=digits, device="cpu")


def test_two_processes_train_as_one_with_twice_the_batch(digits, tmp_path):
    script = """
import sys, warnings
warnings.simplefilter("ignore")
from zoo_lightning import finetune
folder, out, devices, batch = sys.argv[1:]
finetune(folder, model="tiny/glyphnet", out=out, epochs=2, batch_size=int(batch), augment="none", freeze=["backbone"],
         trainer={"enable_progress_bar": False, "accelerator": "cpu", "devices": int(devices),
                  "strategy": "ddp" if devices == "2" else "auto"})
"""
    (tmp_path / "script.py").write_text(script)
    for name, devices, batch in (("one", "1", "6"), ("two", "2", "3")):
        command = [sys.executable, str(tmp_path / "script.py"), str(digits), str(tmp_path / name), devices, batch]
        answer = subprocess.run(command, check=False, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)


def test_the_command_says_what_it_would_do_and_does_nothing(digits, tmp_path):
    (digits / "empty").mkdir()
    arguments = [str(digits), "--model", "tiny/glyphnet", "--out", str(tmp_path / "out"), "--dry-run"]
    answer = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert answer.exit_code == 0
    assert "3 classes" in answer.output
    assert "a new head of 3 classes" in answer.output
    assert not (tmp_path / "out").exists()


def test_the_command_trains_and_says_where_the_result_is(digits, tmp_path):
    arguments = [
        str(digits),
        "--model",
        "tiny/glyphnet",
        "--out",
        str(tmp_path / "out"),
        "--epochs",
        "1",
        "--quiet",
        "--augment",
        "light",
    ]
    answer = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    assert "accuracy" in answer.output
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.sweep
def test_ten_images_of_each_digit_are_enough_for_the_accuracy_that_the_readme_states(write_digits, tmp_path):
    write_digits(tmp_path / "data" / "train", 10, 10)
    write_digits(tmp_path / "data" / "val", 10, 140, start=10)
    options = {"epochs": 10, "head_epochs": 20, "batch_size": 16, "augment": "light", "trainer": QUIET}
    result = finetune(tmp_path / "data", model="tiny/glyphnet", out=tmp_path / "out", **options)
    assert result.metrics["accuracy"] > 0.9

"""Fine-tuning that is killed, interrupted and resumed, and what it never replaces."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from lightning.pytorch import Callback
from support.fine_tuning import QUIET, RUN, weights
from zoo_lightning import FineTune, finetune

from zoo_core.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and loggers


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
    image = digits / "1" / "003.png"
    content = image.read_bytes()
    (digits / "2" / "003.png").replace(image)  # another image of the same name
    (digits / "2" / "003.png").write_bytes(content)
    with pytest.raises(UsageError, match="begun with another images"):
        finetune(digits, out=tmp_path / "out", epochs=2, resume=True, **RUN)
    image.unlink()
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


def test_ctrl_c_says_that_the_run_can_be_resumed(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)  # Lightning ignores the next one for the whole process
    monkeypatch.setattr(FineTune, "on_train_batch_start", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(
        KeyboardInterrupt, match=r"resume=True \(--resume\) continues from the last complete epoch in .*out\.run"
    ):
        finetune(digits, out=tmp_path / "out", epochs=1, **RUN)


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

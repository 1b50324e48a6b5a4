"""Fine-tuning on real images: how a model trains, and what a run leaves and refuses."""

from __future__ import annotations

import json
import os

import pytest
import torch
from click.testing import CliRunner
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Timer
from sklearn.metrics import average_precision_score, log_loss
from support.fine_tuning import QUIET, RUN, weights
from zoo_lightning import FineTune, finetune, read_data
from zoo_lightning.classify import ClassifierEvaluation
from zoo_lightning.command import finetune as command
from zoo_lightning.data import ImageData, Sample
from zoo_lightning.data_loaders import loaders
from zoo_lightning.module import LabelPrecision
from zoo_lightning.report import curves
from zoo_lightning.run import check_run

import zoo_core as zoo
from zoo_core.errors import NotSupported, UnknownPart, UsageError, ZooError

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and loggers


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


def test_a_model_that_comes_in_eval_mode_is_trained_in_the_mode_for_it(digits, tmp_path):
    model = zoo.get("tiny/glyphnet", num_classes=3).eval()
    result = finetune(digits, out=tmp_path / "out", epochs=1, **{**RUN, "model": model})
    before = zoo.get("tiny/glyphnet").state_dict()["stem.1.running_mean"]
    assert not torch.equal(weights(result.folder)["stem.1.running_mean"], before)


def test_confusions_of_many_classes_are_the_pairs_and_no_matrix(digits):
    names = [f"class {number}" for number in range(200)]
    targets = torch.tensor([0, 0, 3, 5])
    probabilities = torch.eye(200)[torch.tensor([7, 7, 9, 5])]
    data = ImageData((), (Sample(digits / "0" / "000.png", (0,), "a"),) * 4, tuple(names))
    page = "".join(ClassifierEvaluation(probabilities, targets).sections(data))
    assert "<tr><td>class 0</td><td>class 7</td><td>2</td></tr><tr><td>class 3</td><td>class 9</td><td>1</td>" in page
    assert "class 199" not in page


def test_a_trainer_of_ones_own_tests_predicts_and_trains_without_an_end(digits):
    module = FineTune(zoo.get("tiny/glyphnet", num_classes=3, seed=0))
    train, val = loaders(read_data(digits), module.model, augment="none", batch_size=8, workers=0, seed=0)
    options = {**QUIET, "logger": False, "enable_checkpointing": False}
    Trainer(max_epochs=-1, limit_train_batches=1, callbacks=Timer({"seconds": 1}), **options).fit(module, train)
    (tested,) = Trainer(**options).test(module, val, verbose=False)
    (scores,) = Trainer(**options).predict(module, val)
    targets = torch.cat([target for _, target in val])
    assert tested["val_score"] == pytest.approx((scores.argmax(1) == targets).float().mean().item())


def test_a_model_of_one_output_is_refused_where_an_image_has_one_class():
    with pytest.raises(UsageError, match=r"one output[\s\S]*swap_head\(model, 2\)"):
        FineTune(zoo.get("tiny/glyphnet", num_classes=1))


def test_one_callback_is_taken_as_a_list_of_one(digits, tmp_path):
    seen = []

    class Look(Callback):
        def on_fit_end(self, *_):
            seen.append(True)

    finetune(digits, out=tmp_path / "out", epochs=1, **{**RUN, "trainer": {**QUIET, "callbacks": Look()}})
    assert seen == [True]


def test_a_chart_has_a_line_for_each_name():
    names = "abcde"
    assert curves([dict.fromkeys(names, 1.0)], names, "loss").count("<path") == 5


def test_a_folder_that_cannot_be_saved_to_is_refused_before_training(digits, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else than a saved model"):
        finetune(digits, out=tmp_path / "out", epochs=1, **RUN)
    assert not (tmp_path / "out.run").exists()


@pytest.mark.parametrize("place", ["pipe", "dangling", "n" * 300], ids=["pipe", "dangling link", "long"])
def test_what_can_be_no_folder_is_refused_before_training(place, digits, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(UsageError, match=r"something else than a saved model|cannot be written"):
        finetune(digits, out=tmp_path / place, epochs=1, **RUN)
    assert not (tmp_path / f"{place[:9]}.run").exists()


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


def test_a_module_knows_the_parts_of_its_schedule_when_it_is_made():
    model = zoo.get("tiny/glyphnet", num_classes=3, freeze="backbone")
    with pytest.raises(UnknownPart, match="layer9"):
        FineTune(model, unfreeze_at={"layer3": 1, "layer9": 2})
    assert [name for name, each in model.named_parameters() if each.requires_grad] == ["fc.weight", "fc.bias"]


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
    found = ClassifierEvaluation(scores.sigmoid(), targets.float())
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
        ({"freeze": "backbone", "unfreeze_at": {"layer9": 1}}, "nothing in this GlyphNet is called 'layer9'"),
        ({"freeze": "stem", "unfreeze_at": {"layer3": 1}}, r"'layer3' is not frozen[\s\S]*--freeze backbone"),
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


def test_caching_features_of_a_backbone_that_trains_is_refused(digits):
    from zoo_lightning.head_on_features import train_head

    module = FineTune(zoo.get("tiny/glyphnet", num_classes=3))
    with pytest.raises(NotSupported, match="frozen backbone"):
        train_head(module, None, epochs=1, batch_size=1, workers=0, folder=digits, device="cpu")


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

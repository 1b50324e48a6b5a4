"""Images with a class for each pixel: what is read, what is said of the rest, and models in training."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from PIL import Image
from support.fine_tuning import QUIET
from torchmetrics.classification import MulticlassJaccardIndex
from zoo_lightning import finetune, read_data
from zoo_lightning.datasets import datasets
from zoo_lightning.segment import FineTuneSegmenter, SegmentationEvaluation

import zoo_core as zoo
from zoo_core.errors import NotSupported, UsageError


def segmenter(name="lraspp_mobilenet_v3_large"):
    model = zoo.get(name, weights=None, num_classes=3, seed=0)
    return zoo.set_preprocessing(model, dataclasses.replace(zoo.preprocessing(f"torchvision/{name}"), resize=(48,)))


@pytest.mark.parametrize(
    ("mode", "values", "names"),
    [
        ("L", (0, 1, 2), ("background", "1", "2")),
        ("P", (0, 1, 2), ("background", "1", "2")),
        ("RGB", (0, 1, 2), ("background", "1", "2")),
        ("L", (0, 255), ("background", "1")),
    ],
)
def test_classes_are_the_values_of_masks_the_indices_of_palettes_or_white(write_masks, tmp_path, mode, values, names):
    data = read_data(write_masks(tmp_path / "data", values, mode=mode))
    assert (data.class_names, data.task) == (names, "segmentation")
    assert sum(data.counts().values()) == 48 * 64 * len(data.train)
    assert set(data.train[0].target().unique().tolist()) == set(range(len(names)))


def test_names_are_in_a_file_and_a_class_beyond_them_is_left_out(write_masks, tmp_path):
    write_masks(tmp_path / "data")
    (tmp_path / "data" / "classes.txt").write_text("sky\ncat\ndog\n")
    Image.fromarray(np.full((48, 64), 3, np.uint8)).save(tmp_path / "data" / "masks" / "000.png")
    data = read_data(tmp_path / "data")
    assert data.class_names == ("sky", "cat", "dog")
    assert data.notes == ("images left out, as a mask has the class 3, and classes.txt names 3: 1 (images/000.png)",)


def test_what_is_wrong_with_a_mask_is_counted_and_named(write_masks, tmp_path):
    masks = write_masks(tmp_path / "data", count=9) / "masks"
    Image.new("L", (9, 9)).save(masks / "000.png")
    (masks / "001.png").write_bytes(b"no image")
    (masks / "002.png").unlink()
    (tmp_path / "data" / "images" / "003.png").unlink()
    (tmp_path / "data" / "images" / "004.png").write_bytes(b"no image")
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (48, 64, 3), np.uint8)).save(masks / "005.png")
    Image.fromarray(np.full((48, 64), 999, np.uint16)).save(masks / "006.png")
    notes = "\n".join(read_data(tmp_path / "data").notes)
    for part in (
        "images without a mask, which were left out: 1 (images/002.png)",
        "masks without an image: 1 (masks/003.png)",
        "a mask is of another size than its image: 1 (images/000.png)",
        "the mask cannot be read",
        "it cannot be read: no image that Pillow can read: 1 (images/004.png)",
        "in colors, and which is which class is not known: 1 (images/005.png)",
        "a mask has the value 999, and classes are 0 to 254: 1 (images/006.png)",
    ):
        assert part in notes


def test_splits_and_the_lists_of_pascal_voc_are_known(write_masks, tmp_path):
    for split in ("train", "val"):
        write_masks(tmp_path / "data" / split, count=2)
    assert len(read_data(tmp_path / "data").val) == 2
    voc = write_masks(tmp_path / "voc", count=4)
    (voc / "images").rename(voc / "JPEGImages")
    (voc / "masks").rename(voc / "SegmentationClass")
    (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, names in (("train", "000\n001\n"), ("val", "002\n")):
        (voc / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(names)
    data = read_data(voc)
    assert ([each.name for each in data.val], len(data.train)) == (["JPEGImages/002.png"], 2)
    assert data.notes == ("images in no list of ImageSets, which were left out: 1",)


def test_masks_of_one_class_are_refused(write_masks, tmp_path):
    with pytest.raises(UsageError, match="have one class"):
        read_data(write_masks(tmp_path / "data", (0,)))


@pytest.mark.parametrize("augment", ["none", "light", "standard", "strong"])
def test_an_augmented_mask_stays_on_what_it_was_drawn_on(write_masks, tmp_path, augment):
    train, _ = datasets(read_data(write_masks(tmp_path / "data")), segmenter(), augment=augment, seed=0)
    for index in range(12):
        image, mask = train[index]
        assert (image.shape, mask.shape) == ((3, 48, 48), (48, 48))
        for label in (1, 2):
            inside = mask == label
            if inside.sum() > 50:
                assert image[:, inside].mean(1).argmax() == label - 1


def test_the_mean_intersection_over_union_is_that_of_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    truth, seen = torch.randint(0, 3, (2, 400), generator=generator)
    confusion = torch.bincount(truth * 4 + seen, minlength=16).view(4, 4)  # the last class is nowhere
    expected = MulticlassJaccardIndex(4)(seen, truth)
    assert SegmentationEvaluation(confusion).metrics["mean_iou"] == pytest.approx(float(expected))


def test_pixels_of_no_class_move_nothing():
    module = FineTuneSegmenter(segmenter())
    scores = torch.randn(1, 3, 4, 4, requires_grad=True)
    targets = torch.full((1, 4, 4), 255)
    module.loss(scores, targets).backward()
    assert not scores.grad.any()
    targets[0, 0, 0] = 1
    expected = torch.nn.functional.cross_entropy(scores[:, :, 0, 0], torch.tensor([1]))
    assert torch.equal(module.loss(scores, targets), expected)


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
def test_a_segmenter_killed_and_resumed_ends_as_one_that_was_not_and_its_save_predicts_by_name(write_masks, tmp_path):
    class Stop(Callback):
        def on_train_epoch_start(self, trainer, _):
            if trainer.current_epoch == 1:
                raise OSError("gone")

    data = write_masks(tmp_path / "data")
    options = {"epochs": 2, "batch_size": 4, "balance": True, "label_smoothing": 0.1, "augment": "strong"}
    with pytest.raises(OSError, match="gone"):
        finetune(data, model=segmenter(), out=tmp_path / "cut", trainer={**QUIET, "callbacks": [Stop()]}, **options)
    whole, cut = (
        finetune(data, model=segmenter(), out=tmp_path / name, resume=name == "cut", trainer=QUIET, **options)
        for name in ("whole", "cut")
    )
    expected, found = (zoo.load(each.folder).state_dict() for each in (whole, cut))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert cut.metrics == whole.metrics


@pytest.mark.filterwarnings("ignore")
def test_a_save_predicts_by_name_and_what_was_measured_is_what_it_predicts(write_masks, tmp_path):
    data = write_masks(tmp_path / "data")
    options = {"epochs": 1, "balance": True, "label_smoothing": 0.1, "augment": "strong", "trainer": QUIET}
    result = finetune(data, model=segmenter(), out=tmp_path / "out", **options)
    assert all(part in result.report.read_text() for part in ("Intersection over union", "Worst images"))
    model = zoo.load(result.folder)
    assert zoo.class_names(model) == ("background", "1", "2")
    (sample,) = read_data(data).val
    seen = zoo.predict(model, sample.source).mask
    expected = MulticlassJaccardIndex(3)(seen, sample.target().as_subclass(torch.Tensor))
    assert result.metrics["mean_iou"] == pytest.approx(result.metrics["val_score"]) == pytest.approx(float(expected))


@pytest.mark.filterwarnings("ignore")
def test_what_is_no_model_of_pixels_and_batches_of_one_image_are_refused(write_masks, tmp_path):
    data = read_data(write_masks(tmp_path / "data"))
    with pytest.raises(UsageError, match="squeezenet1_1 is for classification, and the data is images with masks"):
        finetune(data, model="squeezenet1_1", out=tmp_path / "out", epochs=1, trainer=QUIET)
    model = zoo.set_preprocessing(zoo.get("squeezenet1_1", weights=None, num_classes=3), "squeezenet1_1")
    with pytest.raises(NotSupported, match=r"a Tensor of the shape \[1, 3\] is not trained on masks"):
        FineTuneSegmenter(model)(torch.zeros(1, 3, 64, 64))
    with pytest.raises(UsageError, match="batches of one image"):
        finetune(data, model=segmenter(), out=tmp_path / "out", epochs=1, batch_size=1, trainer=QUIET)


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["deeplabv3_mobilenet_v3_large", "fcn_resnet50"])
def test_every_kind_of_segmenter_trains(write_masks, tmp_path, name):
    data = write_masks(tmp_path / "data")
    result = finetune(data, model=segmenter(name), out=tmp_path / "out", epochs=1, batch_size=2, trainer=QUIET)
    assert result.headline[0] == "mean_iou"


@pytest.mark.extra
@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and loggers
def test_adapters_of_a_segmenter_are_trained_and_merged(write_masks, tmp_path):
    data = write_masks(tmp_path / "data")
    options = {"epochs": 1, "batch_size": 4, "augment": "none", "adapter": "lora", "adapter_rank": 2, "trainer": QUIET}
    folder = finetune(data, model=segmenter(), out=tmp_path / "out", **options).folder
    model, before = zoo.load(folder).double().eval(), segmenter().state_dict()
    adapted = [name for name, _ in model.named_parameters() if name.endswith("lora_B.default.weight")]
    assert sum(model.get_parameter(name).abs().max() > 0 for name in adapted) > len(adapted) / 2
    x = torch.randn(2, 3, 48, 64, dtype=torch.float64)
    expected = model(x)["out"]
    torch.testing.assert_close(zoo.merge_lora(model)(x)["out"], expected)
    assert [*model.state_dict()] == [*before]

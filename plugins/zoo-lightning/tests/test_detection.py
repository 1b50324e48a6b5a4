"""Boxes, outlines and keypoints: what is read, what is said of the rest, and detectors in training."""

from __future__ import annotations

import json
import re

import numpy as np
import pycocotools.mask
import pytest
import torch
from click.testing import CliRunner
from lightning.pytorch import Callback
from PIL import Image
from support.fine_tuning import QUIET
from zoo_lightning import finetune, read_data
from zoo_lightning.command import finetune as command
from zoo_lightning.datasets import datasets
from zoo_lightning.detect import keypoint_map
from zoo_lightning.tasks import build

import zoo_core as zoo
from zoo_core.errors import UsageError

SMALL = {"min_size": 64, "max_size": 64}


def detector(name="fasterrcnn_mobilenet_v3_large_320_fpn", options=None, **arguments):
    options = options if "ssd" in name else {**SMALL, **(options or {})}
    model = zoo.get(name, weights=None, num_classes=3, seed=0, options=options, **arguments)
    return zoo.set_preprocessing(model, f"torchvision/{name}")


def changed(coco, change):
    """The data, after a change of the file of annotations."""
    content = json.loads((coco / "annotations.json").read_text())
    change(content)
    (coco / "annotations.json").write_text(json.dumps(content))
    return read_data(coco)


def test_a_detector_that_is_named_and_untrained_sees_images_as_its_published_weights_do(coco):
    model = build("ssdlite320_mobilenet_v3_large", read_data(coco), 0, weights=None)
    assert zoo.preprocessing(model) == zoo.preprocessing("torchvision/ssdlite320_mobilenet_v3_large")


def test_category_ids_with_gaps_become_classes_after_the_background(coco):
    data = read_data(coco)
    assert data.class_names == ("background", "square", "bar")
    assert data.counts() == {"square": len(data.train), "bar": len(data.train)}
    assert (data.task, data.num_keypoints, len(data.train) + len(data.val), data.notes) == ("detection", 3, 8, ())


@pytest.mark.parametrize(
    ("values", "note", "left"),
    [
        ({"bbox": [1, 1, 0, 5]}, r"boxes without area, which were left out: 1 \(000.png\)", 1),
        ({"bbox": [100, 1, 9, 9]}, "boxes outside of their image, which were left out: 1", 1),
        ({"bbox": [60, 1, 9, 9]}, r"boxes \(left, top, width, height\) that reach out of their image", 2),
        ({"bbox": [1, 2, float("nan"), 3]}, "boxes that are not four numbers", 1),
        ({"bbox": "1 2 3 4"}, "boxes that are not four numbers", 1),
        ({"category_id": 99}, "objects with a category_id that the file does not list", 1),
        ({"category_id": [3]}, "objects with a category_id that the file does not list", 1),
        ({"image_id": 5}, r"objects of an image that the file does not list: 1 \(image_id 5\)", 1),
        ({"segmentation": [[1, 1, 2, 2]]}, "masks that are no polygons of three points", 2),
        ({"segmentation": {"size": [3, 3], "counts": [9]}}, "masks of another size than their image", 2),
        ({"segmentation": {"size": [48, 64], "counts": [9]}}, "masks whose run lengths do not cover their image", 2),
        ({"segmentation": {"size": [48, 64], "counts": "d2"}}, "masks whose run lengths do not cover their image", 2),
        ({"keypoints": [1, 2]}, "keypoints that are not 3 triples of x, y and visibility", 2),
    ],
)
def test_what_is_wrong_with_an_object_is_counted_and_named(coco, values, note, left):
    data = changed(coco, lambda content: content["annotations"][0].update(values))
    assert len(data.notes) == 1
    assert re.match(note, data.notes[0])
    assert len(next(each for each in (*data.train, *data.val) if each.name == "000.png").labels) == left


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of pycocotools
def test_a_compressed_mask_is_read_as_pycocotools_reads_it(coco):
    mask = torch.rand(48, 64, generator=torch.Generator().manual_seed(0)).lt(0.3).byte()
    encoded = pycocotools.mask.encode(np.asfortranarray(mask.numpy()))
    values = {"size": [48, 64], "counts": encoded["counts"].decode()}
    data = changed(coco, lambda content: content["annotations"][0].update(segmentation=values))
    sample = next(each for each in (*data.train, *data.val) if each.name == "000.png")
    assert torch.equal(sample.target((48, 64), ["masks"])["masks"][0].as_subclass(torch.Tensor), mask)


def test_boxes_are_cut_off_at_the_edge_of_an_image_whose_size_the_file_does_not_say(coco):
    def change(content):
        del content["images"][0]["height"]
        content["annotations"][0]["bbox"] = [60, 1, 9, 9]

    data = changed(coco, change)
    sample = next(each for each in (*data.train, *data.val) if each.name == "000.png")
    assert sample.objects[0].box == (60, 1, 64, 10)


def test_spaces_around_the_name_of_a_category_lose_no_keypoints(coco):
    def change(content):
        for each in content["categories"]:
            each["name"] += " "

    assert changed(coco, change).num_keypoints == 3


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ({"file_name": "x" * 300}, "x" * 300 + " was left out: it is not there"),
        ({"file_name": "nowhere.png"}, "nowhere.png was left out: it is not there"),
        ({"height": 64, "width": 48}, "000.png was left out: it is 64x48, and its boxes were drawn at 48x64"),
        ({"file_name": "001.png"}, "images that are listed again, which were left out: 1 (001.png)"),
    ],
)
def test_an_image_that_cannot_be_used_is_left_out_and_named(coco, values, note):
    data = changed(coco, lambda content: content["images"][0].update(values))
    assert note in data.notes
    assert len(data.train) + len(data.val) == 7


def test_classes_without_an_object_are_left_out(coco):
    data = changed(coco, lambda content: content["categories"].append({"id": 9, "name": "ghost"}))
    assert data.notes == ("classes without an object, which were left out: ghost",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("categories"), "no list 'categories'"),
        (lambda content: content["annotations"].clear(), "no object to train on"),
        (lambda content: content["categories"].append({"id": 7, "name": "other"}), "several categories of the id 7"),
        (lambda content: content["categories"][0].update(name="background"), "a category that is called background"),
        (lambda content: [each.update(bbox=[0.1, 0.1, 0.5, 0.5]) for each in content["annotations"]], "are shares"),
        (lambda content: [each.update(iscrowd=1) for each in content["annotations"]], "no object to train on"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_words(coco, change, message):
    with pytest.raises(UsageError, match=message):
        changed(coco, change)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of pycocotools
def test_run_lengths_and_polygons_are_the_same_masks(coco):
    model = zoo.get("maskrcnn_resnet50_fpn", weights=None, num_classes=3, device="meta")
    zoo.set_preprocessing(model, "torchvision/maskrcnn_resnet50_fpn")

    def masks():
        image, target = datasets(read_data(coco), model, augment="none", seed=0)[0][0]
        assert image.shape == (3, 48, 64)
        return target["masks"]

    def encode(content):
        from pycocotools import mask

        for each in content["annotations"]:
            runs = mask.frPyObjects(each["segmentation"], 48, 64)[0]
            each["segmentation"] = {"size": [48, 64], "counts": runs["counts"].decode()}
            del each["bbox"]

    before = masks()
    changed(coco, encode)
    assert torch.equal(masks(), before)
    assert before.sum((1, 2)).tolist() == [400, 240]


def test_the_layouts_of_coco_and_of_exports_are_known(coco, tmp_path):
    (tmp_path / "data" / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (tmp_path / "data" / split).mkdir()
        for image in (coco / "images").iterdir():
            (tmp_path / "data" / split / image.name).write_bytes(image.read_bytes())
        for kind in ("instances", "person_keypoints"):
            copy = tmp_path / "data" / "annotations" / f"{kind}_{split}.json"
            copy.write_text((coco / "annotations.json").read_text())
    data = read_data(tmp_path / "data")
    assert (len(data.train), len(data.val), data.val[0].source.parent.name) == (8, 8, "val2017")
    assert read_data(tmp_path / "data" / "annotations" / "instances_train2017.json") == data


@pytest.mark.parametrize("augment", ["none", "light", "standard", "strong"])
def test_augmented_boxes_stay_around_what_they_were_drawn_around(coco, augment):
    train, _ = datasets(read_data(coco), detector(), augment=augment, seed=0)
    for index in range(24):
        image, target = train[index]
        for (left, top, right, bottom), label in zip(target["boxes"].round().int(), target["labels"], strict=True):
            inside = image[:, top:bottom, left:right].mean((1, 2))
            assert inside.argmax() == label - 1


def test_a_flip_moves_no_keypoint_for_it_would_make_left_right(coco):
    name = "keypointrcnn_resnet50_fpn"
    model = zoo.get(name, weights=None, num_classes=3, num_keypoints=3, device="meta")
    zoo.set_preprocessing(model, f"torchvision/{name}")
    data = read_data(coco)
    _, target = datasets(data, model, augment="strong", seed=0)[0][0]
    assert target["keypoints"].flatten().tolist() == [
        x for each in data.train[0].objects for x in _seen(each.keypoints)
    ]


def _seen(keypoints):
    return [1.0 if place % 3 == 2 else value for place, value in enumerate(keypoints)]


def test_keypoints_where_they_are_have_a_precision_of_one_and_elsewhere_of_none(coco):
    sample = read_data(coco).train[0]
    target = sample.target((48, 64), ("keypoints",), with_crowds=True)
    target["keypoints"] = torch.cat([target["keypoints"], target.pop("visible")[..., None]], dim=-1)
    right = {**target, "scores": torch.ones(2)}
    assert keypoint_map([right], [target]) == pytest.approx(1)
    wrong = {**right, "keypoints": right["keypoints"] + torch.tensor([30.0, 30.0, 0.0])}
    assert keypoint_map([wrong], [target]) == 0


@pytest.mark.filterwarnings("ignore")
def test_a_save_predicts_by_name_and_the_report_has_the_precision_of_each_class(coco, tmp_path):
    model = detector("ssdlite320_mobilenet_v3_large")
    result = finetune(coco, model=model, out=tmp_path / "out", epochs=1, freeze=("backbone",), trainer=QUIET)
    assert {"map", "map_50", "val_score"} <= set(result.metrics)
    page = result.report.read_text()
    assert all(part in page for part in ("Average precision", "square", "Most missed", "data:image/png"))
    model = zoo.load(result.folder)
    assert zoo.class_names(model) == ("background", "square", "bar")
    assert set(zoo.predict(model, coco / "images" / "000.png", threshold=0.0).names) <= {"square", "bar"}


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
def test_a_detector_killed_and_resumed_ends_as_one_that_was_not(coco, tmp_path):
    class Stop(Callback):
        def on_train_epoch_start(self, trainer, _):
            if trainer.current_epoch == 1:
                raise OSError("gone")

    options = {"epochs": 2, "batch_size": 4, "augment": "strong"}
    with pytest.raises(OSError, match="gone"):
        finetune(coco, model=detector(), out=tmp_path / "cut", trainer={**QUIET, "callbacks": [Stop()]}, **options)
    whole, cut = (
        finetune(coco, model=detector(), out=tmp_path / name, resume=name == "cut", trainer=QUIET, **options)
        for name in ("whole", "cut")
    )
    expected, found = (zoo.load(each.folder).state_dict() for each in (whole, cut))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert cut.metrics == whole.metrics


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("resnet18", {}, "resnet18 is for classification, and the data is images with boxes"),
        ("lraspp_mobilenet_v3_large", {}, "is for segmentation, and the data is images with boxes"),
        ("fasterrcnn_mobilenet_v3_large_fpn", {"mixup": 0.2}, "mixup is not for images with boxes"),
        ("fasterrcnn_mobilenet_v3_large_fpn", {"head_epochs": 2}, "head_epochs is not for images with boxes"),
    ],
)
def test_a_model_or_an_option_for_other_data_is_refused_before_training(coco, tmp_path, model, options, message):
    with pytest.raises(UsageError, match=message):
        finetune(coco, model=model, out=tmp_path / "out", epochs=1, trainer=QUIET, **options)
    assert not (tmp_path / "out.run").exists()


def test_a_dry_run_refuses_what_the_run_would(coco, tmp_path):
    arguments = [str(coco), "--model", "resnet18", "--out", str(tmp_path / "out"), "--dry-run"]
    with pytest.raises(UsageError, match="resnet18 is for classification"):
        CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_a_detector_is_refused_for_class_folders(digits, tmp_path):
    with pytest.raises(UsageError, match="FasterRCNN is for detection, and the data is images with classes"):
        finetune(digits, model=detector(), out=tmp_path / "out", epochs=1, trainer=QUIET)


def test_a_detector_of_masks_is_refused_where_an_object_has_none(coco, tmp_path):
    model = detector("maskrcnn_resnet50_fpn", device="meta")
    data = changed(coco, lambda content: content["annotations"][0].pop("segmentation"))
    with pytest.raises(UsageError, match=r"1 of 8 images have objects without a mask, such as 000\.png"):
        finetune(data, model=model, out=tmp_path / "out", epochs=1, trainer=QUIET)


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("ssdlite320_mobilenet_v3_large", "map"),
        ("ssd300_vgg16", "map"),
        ("retinanet_resnet50_fpn", "map"),
        ("fcos_resnet50_fpn", "map"),
        ("maskrcnn_resnet50_fpn", "segm_map"),
        ("keypointrcnn_resnet50_fpn", "keypoint_map"),
    ],
)
def test_every_kind_of_detector_trains_also_on_images_without_an_object(coco, tmp_path, name, score):
    Image.new("RGB", (64, 48)).save(coco / "images" / "empty.png")
    keypoints = {"num_keypoints": 3} if name.startswith("keypoint") else {}
    data = changed(coco, lambda content: content["images"].append({"id": 1, "file_name": "empty.png"}))
    few = {"box_detections_per_img": 5} if "rcnn" in name else {}  # its masks and keypoints are computed for each
    model = detector(name, options=few, **keypoints)
    result = finetune(data, model=model, out=tmp_path / "out", epochs=1, batch_size=2, lr=1e-5, trainer=QUIET)
    assert result.headline[0] == score


@pytest.mark.extra
@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and loggers
def test_adapters_of_a_detector_are_trained_and_merged(coco, tmp_path):
    options = {"epochs": 1, "batch_size": 4, "augment": "none", "adapter": "lora", "adapter_rank": 2, "trainer": QUIET}
    folder = finetune(coco, model=detector(), out=tmp_path / "out", **options).folder
    model, before = zoo.load(folder).double().eval(), detector().state_dict()
    adapted = [name for name, _ in model.named_parameters() if name.endswith("lora_B.default.weight")]
    assert sum(model.get_parameter(name).abs().max() > 0 for name in adapted) > len(adapted) / 2
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected = model.backbone(x)
    torch.testing.assert_close(zoo.merge_lora(model).backbone(x), expected)
    assert [*model.state_dict()] == [*before]

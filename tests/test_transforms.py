"""``zoo.transforms``: the pipeline of images that belongs to the weights in use."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

import zoo_core as zoo
from zoo_core import Preprocessing
from zoo_core.errors import NotAZooModel, NotSupported, UsageError, ZooError
from zoo_core.images.transform_steps import compose

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def china():
    """A photograph, 640 by 427."""
    return Image.fromarray(load_sample_image("china.jpg"))


@pytest.fixture
def glyphs(monkeypatch):
    """A model that has weights, and takes one channel."""
    return zoo.get("tiny/glyphnet")


def adopted(**edits):
    """A ResNet-18 that somebody else filled with published weights, its stem adapted."""
    import torchvision

    with torch.device("meta"):
        model = torchvision.models.resnet18()
    model = zoo.adopt(model.to_empty(device="cpu"), family="torchvision", name="resnet18", weights="IMAGENET1K_V1")
    return zoo.adapt_stem(model, **edits) if edits else model


def normalized(pipeline):
    """The mean and the deviation of each channel that a pipeline normalizes with."""
    step = next(step for step in pipeline.transforms if isinstance(step, v2.Normalize))
    return tuple(step.mean), tuple(step.std)


# What a model asks for


def test_a_name_gives_the_pipeline_of_its_default_weights():
    assert str(zoo.transforms("resnet18")) == str(zoo.transforms("torchvision/resnet18@IMAGENET1K_V1"))


def test_a_tag_gives_the_pipeline_of_its_own_weights(china):
    assert zoo.transforms("vit_b_16@IMAGENET1K_SWAG_E2E_V1")(china).shape == (3, 384, 384)
    assert zoo.transforms("vit_b_16@IMAGENET1K_V1")(china).shape == (3, 224, 224)


def test_a_model_gives_the_pipeline_of_the_weights_it_has(china, glyphs):
    image = zoo.transforms(glyphs)(china)
    assert (image.shape, image.dtype, type(image)) == ((1, 32, 32), torch.float32, torch.Tensor)
    assert glyphs.eval()(image[None]).shape == (1, zoo.anatomy(glyphs).main.num_classes)


def test_an_adopted_model_gives_the_pipeline_of_the_weights_it_was_said_to_have(china):
    assert torch.equal(zoo.transforms(adopted())(china), zoo.transforms("resnet18")(china))


def test_a_new_head_changes_nothing(china, glyphs):
    before = str(zoo.transforms(glyphs))
    assert str(zoo.transforms(zoo.swap_head(glyphs, 2))) == before


def test_a_saved_model_keeps_its_pipeline(tmp_path, china, glyphs):
    model = zoo.adapt_stem(glyphs, 3)
    loaded = zoo.load(zoo.save(model, tmp_path / "save"))
    assert torch.equal(zoo.transforms(loaded)(china), zoo.transforms(model)(china))


def test_a_saved_model_keeps_its_pipeline_when_the_plugin_forgets_its_weights(tmp_path, glyphs):
    from dataclasses import replace

    folder, before = zoo.save(glyphs, tmp_path / "save"), str(zoo.transforms(glyphs))
    with zoo.use(zoo.Zoo()) as own:
        card = own.resolve("tiny/glyphnet")[0]
        own.add(replace(card, weights=(), default=None))
        assert str(zoo.transforms(zoo.load(folder))) == before


def test_a_recipe_with_an_impossible_preprocessing_is_refused(tmp_path, glyphs):
    folder = zoo.save(glyphs, tmp_path / "save")
    recipe = folder / "recipe.json"
    recipe.write_text(recipe.read_text().replace('"channel_order": "RGB"', '"channel_order": "GRB"'))
    with pytest.raises(ZooError, match="channel_order must be one of RGB, BGR"):
        zoo.load(folder)


@pytest.mark.parametrize("weights", [None, "own.pth"])
def test_a_model_without_published_weights_has_no_pipeline(weights, tmp_path, glyphs):
    if weights:
        torch.save(glyphs.state_dict(), tmp_path / weights)
        weights = tmp_path / weights
    with pytest.raises(NotSupported, match=r'zoo\.transforms\("tiny/glyphnet"\)'):
        zoo.transforms(zoo.get("tiny/glyphnet", weights=weights))


def test_a_module_that_zoo_does_not_know_is_refused():
    with pytest.raises(NotAZooModel):
        zoo.transforms(torch.nn.Linear(1, 1))


def test_weights_of_no_model_cannot_be_adopted():
    import torchvision

    with torch.device("meta"):
        model = torchvision.models.resnet18()
    with pytest.raises(UsageError, match="of which model"):
        zoo.adopt(model, family="torchvision", weights="IMAGENET1K_V1")


# What it takes


def test_a_batch_of_tensors_is_that_of_its_images():
    batch = torch.randint(0, 256, (2, 3, 70, 90), dtype=torch.uint8)
    pipeline = zoo.transforms("resnet18")
    assert torch.equal(pipeline(batch), torch.stack([pipeline(image) for image in batch]))


def test_a_tensor_differs_from_a_pil_image_by_a_few_levels(china):
    pipeline = zoo.transforms("resnet18")
    of_tensor = pipeline(v2.functional.pil_to_tensor(china))
    difference = (of_tensor - pipeline(china)).abs() * torch.tensor(STD).view(3, 1, 1) * 255
    assert 0 < difference.max() < 2.01
    assert difference.mean() < 0.3


def test_floats_count_from_zero_to_one(china):
    whole = v2.functional.pil_to_tensor(china)
    pipeline = zoo.transforms("pretrainedmodels/cafferesnet101")
    assert (pipeline(whole / 255) - pipeline(whole)).abs().max() <= 1  # a level, lost when uint8 is resampled


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_a_pil_image_of_any_mode_becomes_rgb(mode, china):
    assert zoo.transforms("resnet18")(china.convert(mode)).shape == (3, 224, 224)


def test_a_grey_tensor_becomes_rgb():
    grey = torch.randint(0, 256, (1, 64, 64), dtype=torch.uint8)
    pipeline = zoo.transforms("resnet18")
    assert torch.equal(pipeline(grey), pipeline(grey.expand(3, 64, 64)))


def test_a_sample_keeps_its_label_whatever_comes_first():
    sample = {"a label": torch.tensor(3), "image": Image.new("RGB", (300, 300)), "scores": torch.ones(5)}
    found = zoo.transforms("resnet18")(sample)
    assert (found["a label"], found["image"].shape) == (3, (3, 224, 224))
    assert torch.equal(found["scores"], torch.ones(5))


def test_masks_and_boxes_are_moved_along_with_the_image(china):
    mask = tv_tensors.Mask(torch.ones(427, 640, dtype=torch.uint8))
    image, moved = zoo.transforms("fcn_resnet50")(china, mask)
    assert image.shape[-2:] == moved.shape
    assert moved.dtype == torch.uint8
    assert moved.unique().tolist() == [1]


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (lambda: load_sample_image("china.jpg"), r"no image among ndarray(.|\n)*fromarray"),
        (lambda: torch.zeros(4, 64, 64), "an image of 4 channels for a model that takes 3"),
        (lambda: Image.new("I;16", (64, 64)), "more than 8 bits"),
        (lambda: torch.zeros(3, 3), "no image among Tensor"),
    ],
    ids=["array", "four-channels", "sixteen-bits", "no-image"],
)
def test_what_is_no_image_for_the_model_is_refused(sample, message):
    with pytest.raises(UsageError, match=message):
        zoo.transforms("resnet18")(sample())


def test_workers_of_a_data_loader_can_run_it():
    images = [Image.new("RGB", (40, 40), (i, i, i)) for i in range(2)]
    data = [(image, i) for i, image in enumerate(images)]
    pipeline = zoo.transforms("tiny/glyphnet")
    loader = DataLoader(Prepared(data, pipeline), batch_size=2, num_workers=1)
    batch, labels = next(iter(loader))
    assert torch.equal(batch, torch.stack([pipeline(image) for image in images]))
    assert labels.tolist() == [0, 1]


class Prepared(torch.utils.data.Dataset):
    """Images that are prepared when they are requested, as torchvision's data sets do it."""

    def __init__(self, data, pipeline):
        self.data, self.pipeline = data, pipeline

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        image, label = self.data[index]
        return self.pipeline(image), label


@pytest.mark.parametrize("name", ["resnet18", "pretrainedmodels/cafferesnet101", "r3d_18"])
def test_it_can_be_pickled(name):
    pipeline = zoo.transforms(name, train=False)
    assert str(pickle.loads(pickle.dumps(pipeline))) == str(pipeline)


def test_it_shows_its_steps():
    lines = str(zoo.transforms("pretrainedmodels/cafferesnet101")).split("\n")
    assert [line.strip().partition("(")[0] for line in lines[1:-1]] == [
        "ToChannels",
        "Resize",
        "CenterCrop",
        "ToFloats",
        "Normalize",
        "ToPureTensor",
    ]
    assert "ToFloats(white=255.0, channel_order=BGR)" in lines[4]


# Channels


def test_one_channel_gets_the_average_of_the_numbers_and_a_grey_image(china):
    pipeline = zoo.transforms(adopted(in_channels=1))
    mean, std = normalized(pipeline)
    assert (mean, std) == (pytest.approx((sum(MEAN) / 3,)), pytest.approx((sum(STD) / 3,)))
    assert torch.equal(pipeline(china), pipeline(china.convert("L")))


def test_repeated_filters_take_their_numbers_along():
    pipeline = zoo.transforms(adopted(in_channels=4))
    assert normalized(pipeline) == ((*MEAN, MEAN[0]), (*STD, STD[0]))
    assert pipeline(torch.zeros(4, 300, 300, dtype=torch.uint8)).shape == (4, 224, 224)


def test_mapped_filters_take_their_numbers_along():
    pipeline = zoo.transforms(adopted(in_channels=3, map={0: 2, 1: (0, 1), 2: 0}))
    assert normalized(pipeline)[0] == pytest.approx((MEAN[2], (MEAN[0] + MEAN[1]) / 2, MEAN[0]))


def test_an_image_with_as_many_bands_as_the_model_has_channels_is_taken(china):
    assert zoo.transforms(adopted(in_channels=4))(china.convert("RGBA")).shape == (4, 224, 224)


@pytest.mark.parametrize(
    ("edits", "unknown"),
    [({"policy": "zero"}, "3"), ({"policy": "random"}, "0, 1, 2, 3"), ({"map": {0: 0, 3: 2}}, "1, 2")],
    ids=["zero", "random", "map"],
)
def test_a_channel_that_comes_from_no_old_one_needs_numbers_of_your_own(edits, unknown):
    model = adopted(in_channels=4, **edits)
    with pytest.raises(NotSupported, match=f"the mean of channel {unknown} is not known\n"):
        zoo.transforms(model)
    own = zoo.transforms(model, mean=[0.1, 0.2, 0.3, 0.4], std=[1, 2, 3, 4])
    assert normalized(own) == ((0.1, 0.2, 0.3, 0.4), (1, 2, 3, 4))


def test_a_silent_channel_stays_unknown_through_later_surgery():
    model = zoo.adapt_stem(adopted(in_channels=4, policy="zero"), 2, map={0: 3, 1: 0})
    with pytest.raises(NotSupported, match="the mean of channel 0 is not known\n"):
        zoo.transforms(model)


@pytest.mark.parametrize(
    "numbers",
    [{"mean": [0.5]}, {"std": [1, 1, 0]}, {"mean": "abc"}, {"mean": 0.5}, {"std": [1, 1, float("nan")]}],
    ids=["too-few", "zero", "text", "number", "nan"],
)
def test_numbers_that_are_not_one_a_channel_are_refused(numbers):
    with pytest.raises(UsageError, match="one for each channel"):
        zoo.transforms("resnet18", **numbers)


# Training


def test_training_cuts_at_random_and_normalizes_as_evaluation_does(china):
    torch.manual_seed(0)
    pipeline = zoo.transforms("resnet18", train=True)
    first, second = pipeline(china), pipeline(china)
    assert first.shape == (3, 224, 224)
    assert not torch.equal(first, second)
    assert normalized(pipeline) == normalized(zoo.transforms("resnet18"))


def test_training_is_that_of_torchvisions_reference(china):
    reference = v2.Compose(
        [
            v2.RandomResizedCrop(224, interpolation=v2.InterpolationMode.BILINEAR, antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.PILToTensor(),
            v2.ToDtype(torch.float, scale=True),
            v2.Normalize(mean=MEAN, std=STD),
        ]
    )
    torch.manual_seed(1)
    expected = reference(china)
    torch.manual_seed(1)
    assert torch.allclose(zoo.transforms("resnet18", train=True)(china), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["keypointrcnn_resnet50_fpn", "r3d_18", "raft_small"])
def test_there_are_no_standard_augmentations_for_other_tasks(name):
    with pytest.raises(NotSupported, match=r"no standard augmentations(.|\n)*put your own before"):
        zoo.transforms(name, train=True)


def test_training_a_detector_flips_boxes_and_masks_with_the_image():
    image = torch.arange(4, dtype=torch.uint8).expand(3, 2, 4)
    boxes = tv_tensors.BoundingBoxes([[0, 0, 1, 2]], format="XYXY", canvas_size=(2, 4))
    masks = tv_tensors.Mask((image[:1] == 0).to(torch.uint8))
    pipeline = zoo.transforms("fasterrcnn_resnet50_fpn", train=True)
    results = []
    for seed in range(8):
        torch.manual_seed(seed)
        results.append(pipeline(image, {"boxes": boxes, "masks": masks, "labels": torch.ones(1)}))
    flipped = [found for found in results if found[0][0, 0, 0] > 0]
    assert 0 < len(flipped) < len(results)
    for found, target in results:
        x = 3 if (found, target) in [(f, t) for f, t in flipped if f is found] else 0
        assert target["boxes"].tolist() == [[x, 0, x + 1, 2]]
        assert torch.equal(target["masks"] == 1, found[:1] == 0)


def test_training_a_segmenter_moves_the_mask_and_pads_it_with_what_the_loss_leaves_out():
    image = torch.randint(0, 2, (1, 60, 60), dtype=torch.uint8)
    pipeline = zoo.transforms("lraspp_mobilenet_v3_large", train=True, size=64)
    torch.manual_seed(0)
    found, mask = pipeline((image * 255).expand(3, -1, -1), tv_tensors.Mask(image[0]))
    assert found.shape == (3, 64, 64)
    assert mask.shape == (64, 64)
    assert set(mask.unique().tolist()) <= {0, 1, 255}


@pytest.mark.parametrize("target", [{"boxes": torch.ones(1, 4)}, {"masks": torch.ones(1, 8, 8)}])
def test_targets_that_would_stay_where_they_are_while_the_image_is_flipped_are_refused(target):
    pipeline = zoo.transforms("fasterrcnn_resnet50_fpn", train=True)
    with pytest.raises(UsageError, match=r"would not be flipped(.|\n)*tv_tensors"):
        pipeline(Image.new("RGB", (8, 8)), target)


# Another size


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18", "tiny/glyphnet", "efficientnet_pytorch/efficientnet-b0"])
def test_another_size_keeps_the_ratio_of_resize_to_crop(name, china):
    before, now = zoo.preprocessing(name), zoo.preprocessing(name, size=384)
    assert zoo.transforms(name, size=384)(china).shape[1:] == (384, 384) == now.crop
    assert all(abs(a / 384 - b / before.crop[0]) < 0.01 for a, b in zip(now.resize, before.resize, strict=True))


def test_another_size_of_a_segmenter_is_that_of_the_shorter_side(china):
    assert zoo.transforms("fcn_resnet50", size=100)(china).shape == (3, 100, 149)


def test_a_detector_brings_images_to_its_size_itself():
    with pytest.raises(NotSupported, match="leave size out"):
        zoo.transforms("fasterrcnn_resnet50_fpn", size=300)


@pytest.mark.parametrize("size", [0, "384", (1, 2, 3), 1.5])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(UsageError, match="size cannot be"):
        zoo.transforms("resnet18", size=size)


# Preprocessing that the user says


def test_the_numbers_are_those_of_the_pipeline():
    model = adopted(in_channels=1)
    found = zoo.preprocessing(model)
    assert normalized(zoo.transforms(model)) == (found.mean, found.std)
    assert len(found.mean) == 1


def test_a_model_without_weights_takes_the_preprocessing_of_a_name(china):
    model = zoo.set_preprocessing(zoo.get("resnet18", weights=None), "resnet18")
    assert torch.equal(zoo.transforms(model)(china), zoo.transforms("resnet18")(china))


def test_a_name_is_put_through_the_channels_that_a_stem_was_adapted_to(china):
    model = zoo.get("resnet18", weights=None, in_channels=1)
    zoo.set_preprocessing(model, "resnet18")
    assert torch.equal(zoo.transforms(model)(china), zoo.transforms(adopted(in_channels=1))(china))


def test_a_stem_that_is_adapted_later_takes_the_numbers_along(china):
    own = Preprocessing(crop=(32, 32), resize=(32, 32), mean=(0.1, 0.2, 0.3), std=(0.5,) * 3)
    model = zoo.set_preprocessing(zoo.get("resnet18", weights=None), own)
    zoo.adapt_stem(model, 1)
    assert zoo.preprocessing(model).mean == pytest.approx((0.2,))


def test_a_preprocessing_for_other_channels_is_refused(glyphs):
    with pytest.raises(UsageError, match=r"3 means and 3 stds for a model of 1 channels"):
        zoo.set_preprocessing(glyphs, "resnet18")


def test_what_is_no_preprocessing_is_refused(glyphs):
    for wrong in (3, {"crops": [1]}, {"fit": "nonsense"}):
        with pytest.raises(UsageError):
            zoo.set_preprocessing(glyphs, wrong)


@pytest.mark.parametrize("said", ["save", "set"])
def test_a_save_holds_the_preprocessing_that_the_user_said(said, tmp_path, china):
    own = Preprocessing(crop=(32, 32), resize=(36,), mean=(0.3,), std=(0.2,))
    model = zoo.adapt_stem(zoo.get("tiny/glyphnet", weights=None), 3)
    zoo.adapt_stem(model, 1)
    if said == "set":
        zoo.set_preprocessing(model, own)
    folder = zoo.save(model, tmp_path / "save", preprocessing=own if said == "save" else None)
    loaded = zoo.load(folder)
    assert zoo.preprocessing(loaded) == own
    assert zoo.preprocessing(zoo.load(zoo.save(loaded, tmp_path / "again"))) == own
    if said == "save":
        with pytest.raises(NotSupported, match="set_preprocessing"):  # the model itself is as it was
            zoo.transforms(model)


def test_a_recipe_names_no_module_of_ours_for_a_preprocessing(tmp_path, glyphs):
    text = (zoo.save(glyphs, tmp_path / "save", preprocessing="tiny/glyphnet") / "recipe.json").read_text()
    assert "set_preprocessing" in text
    assert "zoo_core" not in text.replace('"zoo_core":', "").replace('"zoo-core"', "")


# The kinds of preprocessing


def of(shape=(60, 90), colour=0, **fields):
    """What a pipeline makes of an image of one colour."""
    pipeline = compose(Preprocessing(**fields), "classification", train=False)
    return pipeline(Image.new("RGB", shape[::-1], (colour,) * 3))


def test_squash_gives_an_image_other_proportions_and_cover_keeps_them(china):
    fields = {"crop": (100, 100), "resize": (100, 100)}
    pipelines = [
        compose(Preprocessing(**fields, fit=fit), "classification", train=False) for fit in ("squash", "cover")
    ]
    china = china.resize(
        (640, 400)
    )  # where the longer side comes out whole, since torchvision cuts off and timm rounds
    squashed, covered = (pipeline(china) for pipeline in pipelines)
    shorter_side = compose(Preprocessing(crop=(100, 100), resize=(100,)), "classification", train=False)
    assert not torch.equal(squashed, covered)
    assert torch.equal(covered, shorter_side(china))


def test_border_keeps_the_whole_image_and_pads_with_the_mean():
    found = of(crop=(90, 90), resize=(90, 90), fit="border", colour=255)
    assert found.shape == (3, 90, 90)
    assert found[:, :15].abs().max() < 0.01  # the mean, rounded to one of 255 levels
    assert found[:, 15:75].min() > 2
    assert found[:, 75:].abs().max() < 0.01


@pytest.mark.parametrize(
    "fields",
    [{"fit": "stretch"}, {"channel_order": "GBR"}, {"fit": "border"}, {"fit": "cover", "resize": (9, 9), "crop": None}],
    ids=["fit", "order", "border-of-one-side", "cover-without-crop"],
)
def test_a_preprocessing_that_nobody_can_do_is_refused(fields):
    with pytest.raises(ValueError, match=r"must be one of|needs a crop"):
        Preprocessing(**fields)


def test_a_filter_that_torchvision_has_not_is_refused():
    with pytest.raises(UsageError, match=r"no resampling filter 'bicubicc'(.|\n)*did you mean 'bicubic'"):
        of(interpolation="bicubicc")


def test_without_torchvision_an_error_says_how_to_install_it():
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "import zoo_core as zoo\n"
        "try: zoo.transforms('tiny/glyphnet')\n"
        "except zoo.ZooError as error: print(error)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'torchvision>=0.23'" in answer.stdout

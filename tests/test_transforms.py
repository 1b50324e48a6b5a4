"""``zoo.transforms``: the pipeline of pictures that belongs to the weights in use."""

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
from zoo_core.preprocessing.pipeline import compose

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


def normalised(pipeline):
    """The mean and the deviation of each channel that a pipeline normalises with."""
    step = next(step for step in pipeline.transforms if isinstance(step, v2.Normalize))
    return tuple(step.mean), tuple(step.std)


# What a model asks for


def test_a_name_gives_the_pipeline_of_its_default_weights():
    assert str(zoo.transforms("resnet18")) == str(zoo.transforms("torchvision/resnet18@IMAGENET1K_V1"))


def test_a_tag_gives_the_pipeline_of_its_own_weights(china):
    assert zoo.transforms("vit_b_16@IMAGENET1K_SWAG_E2E_V1")(china).shape == (3, 384, 384)
    assert zoo.transforms("vit_b_16@IMAGENET1K_V1")(china).shape == (3, 224, 224)


def test_a_model_gives_the_pipeline_of_the_weights_it_has(china, glyphs):
    picture = zoo.transforms(glyphs)(china)
    assert (picture.shape, picture.dtype, type(picture)) == ((1, 32, 32), torch.float32, torch.Tensor)
    assert glyphs.eval()(picture[None]).shape == (1, zoo.anatomy(glyphs).main.num_classes)


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
        own.member("tiny").cards["glyphnet"] = replace(card, weights=(), default=None)
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


def test_a_batch_of_tensors_is_that_of_its_pictures():
    batch = torch.randint(0, 256, (2, 3, 70, 90), dtype=torch.uint8)
    pipeline = zoo.transforms("resnet18")
    assert torch.equal(pipeline(batch), torch.stack([pipeline(picture) for picture in batch]))


def test_a_tensor_differs_from_a_pil_picture_by_a_few_levels(china):
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
def test_a_pil_picture_of_any_mode_becomes_rgb(mode, china):
    assert zoo.transforms("resnet18")(china.convert(mode)).shape == (3, 224, 224)


def test_a_grey_tensor_becomes_rgb():
    grey = torch.randint(0, 256, (1, 64, 64), dtype=torch.uint8)
    pipeline = zoo.transforms("resnet18")
    assert torch.equal(pipeline(grey), pipeline(grey.expand(3, 64, 64)))


def test_a_sample_keeps_its_label_whatever_comes_first():
    sample = {"a label": torch.tensor(3), "picture": Image.new("RGB", (300, 300)), "scores": torch.ones(5)}
    found = zoo.transforms("resnet18")(sample)
    assert (found["a label"], found["picture"].shape) == (3, (3, 224, 224))
    assert torch.equal(found["scores"], torch.ones(5))


def test_masks_and_boxes_are_moved_along_with_the_picture(china):
    mask = tv_tensors.Mask(torch.ones(427, 640, dtype=torch.uint8))
    picture, moved = zoo.transforms("fcn_resnet50")(china, mask)
    assert picture.shape[-2:] == moved.shape
    assert moved.dtype == torch.uint8
    assert moved.unique().tolist() == [1]


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (lambda: load_sample_image("china.jpg"), r"no picture among ndarray(.|\n)*fromarray"),
        (lambda: torch.zeros(4, 64, 64), "a picture of 4 channels for a model that takes 3"),
        (lambda: Image.new("I;16", (64, 64)), "more than 8 bits"),
        (lambda: torch.zeros(3, 3), "no picture among Tensor"),
    ],
    ids=["array", "four-channels", "sixteen-bits", "no-picture"],
)
def test_what_is_no_picture_for_the_model_is_refused(sample, message):
    with pytest.raises(UsageError, match=message):
        zoo.transforms("resnet18")(sample())


def test_workers_of_a_data_loader_can_run_it():
    pictures = [Image.new("RGB", (40, 40), (i, i, i)) for i in range(2)]
    data = [(picture, i) for i, picture in enumerate(pictures)]
    pipeline = zoo.transforms("tiny/glyphnet")
    loader = DataLoader(Prepared(data, pipeline), batch_size=2, num_workers=1)
    batch, labels = next(iter(loader))
    assert torch.equal(batch, torch.stack([pipeline(picture) for picture in pictures]))
    assert labels.tolist() == [0, 1]


class Prepared(torch.utils.data.Dataset):
    """Pictures that are prepared when they are asked for, as torchvision's data sets do it."""

    def __init__(self, data, pipeline):
        self.data, self.pipeline = data, pipeline

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        picture, label = self.data[index]
        return self.pipeline(picture), label


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


def test_one_channel_gets_the_average_of_the_numbers_and_a_grey_picture(china):
    pipeline = zoo.transforms(adopted(in_channels=1))
    mean, std = normalised(pipeline)
    assert (mean, std) == (pytest.approx((sum(MEAN) / 3,)), pytest.approx((sum(STD) / 3,)))
    assert torch.equal(pipeline(china), pipeline(china.convert("L")))


def test_repeated_filters_take_their_numbers_along():
    pipeline = zoo.transforms(adopted(in_channels=4))
    assert normalised(pipeline) == ((*MEAN, MEAN[0]), (*STD, STD[0]))
    assert pipeline(torch.zeros(4, 300, 300, dtype=torch.uint8)).shape == (4, 224, 224)


def test_mapped_filters_take_their_numbers_along():
    pipeline = zoo.transforms(adopted(in_channels=3, map={0: 2, 1: (0, 1), 2: 0}))
    assert normalised(pipeline)[0] == pytest.approx((MEAN[2], (MEAN[0] + MEAN[1]) / 2, MEAN[0]))


def test_a_picture_with_as_many_bands_as_the_model_has_channels_is_taken(china):
    assert zoo.transforms(adopted(in_channels=4))(china.convert("RGBA")).shape == (4, 224, 224)


@pytest.mark.parametrize(
    ("edits", "unknown"),
    [({"policy": "zero"}, "3"), ({"policy": "random"}, "0, 1, 2, 3"), ({"map": {0: 0, 3: 2}}, "1, 2")],
    ids=["zero", "random", "map"],
)
def test_a_channel_that_comes_from_no_old_one_needs_numbers_of_your_own(edits, unknown):
    model = adopted(in_channels=4, **edits)
    with pytest.raises(NotSupported, match=f"nobody knows the mean of channel {unknown}\n"):
        zoo.transforms(model)
    own = zoo.transforms(model, mean=[0.1, 0.2, 0.3, 0.4], std=[1, 2, 3, 4])
    assert normalised(own) == ((0.1, 0.2, 0.3, 0.4), (1, 2, 3, 4))


def test_a_silent_channel_stays_unknown_through_later_surgery():
    model = zoo.adapt_stem(adopted(in_channels=4, policy="zero"), 2, map={0: 3, 1: 0})
    with pytest.raises(NotSupported, match="nobody knows the mean of channel 0\n"):
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


def test_training_cuts_at_random_and_normalises_as_evaluation_does(china):
    torch.manual_seed(0)
    pipeline = zoo.transforms("resnet18", train=True)
    first, second = pipeline(china), pipeline(china)
    assert first.shape == (3, 224, 224)
    assert not torch.equal(first, second)
    assert normalised(pipeline) == normalised(zoo.transforms("resnet18"))


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


@pytest.mark.parametrize("name", ["fcn_resnet50", "fasterrcnn_resnet50_fpn", "r3d_18", "raft_small"])
def test_there_are_no_standard_augmentations_for_other_tasks(name):
    with pytest.raises(NotSupported, match=r"no standard augmentations(.|\n)*put your own before"):
        zoo.transforms(name, train=True)


# The kinds of preprocessing


def of(shape=(60, 90), colour=0, **fields):
    """What a pipeline makes of a picture of one colour."""
    pipeline = compose(Preprocessing(**fields), "classification", MEAN, STD, reorder=True, train=False)
    return pipeline(Image.new("RGB", shape[::-1], (colour,) * 3))


def test_squash_gives_a_picture_other_proportions_and_cover_keeps_them(china):
    fields = {"crop": (100, 100), "resize": (100, 100)}
    pipelines = [
        compose(Preprocessing(**fields, fit=fit), "classification", MEAN, STD, reorder=True, train=False)
        for fit in ("squash", "cover")
    ]
    china = china.resize(
        (640, 400)
    )  # where the longer side comes out whole, since torchvision cuts off and timm rounds
    squashed, covered = (pipeline(china) for pipeline in pipelines)
    shorter_side = compose(
        Preprocessing(crop=(100, 100), resize=(100,)), "classification", MEAN, STD, reorder=True, train=False
    )
    assert not torch.equal(squashed, covered)
    assert torch.equal(covered, shorter_side(china))


def test_border_keeps_the_whole_picture_and_pads_with_the_mean():
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

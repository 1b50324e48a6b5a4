"""The catalogue that ships with the plugin: complete, true to the library, and read without torch."""

from __future__ import annotations

import re
import subprocess
import sys
from pkgutil import resolve_name

import pytest
import torch
from torchvision import models
from zoo_torchvision import catalog, categories, index

CARDS = {card.name: card for card in catalog.cards()}
installed = pytest.mark.skipif(
    index.version() != catalog.version(), reason=f"the catalogue is of torchvision {catalog.version()}"
)


@installed
def test_the_catalogue_is_what_the_installed_torchvision_says():
    assert catalog.cards() == index.cards()


@installed
def test_the_class_names_are_what_the_installed_torchvision_says():
    for name, names in index.labels().items():
        assert getattr(categories, name)() == names


@installed
def test_the_names_of_each_entry_are_those_of_the_library():
    said = {name: models.get_model_weights(name) for name in CARDS}
    for name, card in CARDS.items():
        for weights in card.weights:
            assert weights.class_names == tuple(said[name][weights.tag].meta.get("categories") or ())


@installed
def test_every_model_of_the_library_has_a_card():
    assert sorted(CARDS) == models.list_models()


@installed
def test_the_library_has_as_many_models_and_files_as_we_think():
    assert len(CARDS) == 121
    assert sum(len(card.weights) for card in CARDS.values()) == 166


def test_every_weights_entry_is_there_with_the_address_that_the_library_gives():
    for card in CARDS.values():
        entries = models.get_model_weights(card.name)
        assert card.tags == tuple(entry.name for entry in entries)
        assert [weights.urls for weights in card.weights] == [(entry.url,) for entry in entries]


def test_every_file_has_the_digest_that_its_name_ends_with():
    for card in CARDS.values():
        for weights in card.weights:
            assert len(weights.sha256) >= 8
            assert re.search(rf"[-_]{weights.sha256}\.pth$", weights.file_name)


def test_every_label_set_has_a_name_for_each_output():
    for card in CARDS.values():
        for weights in card.weights:
            assert len(weights.class_names) == weights.num_classes


def test_images_for_detectors_stay_as_they_are_and_those_for_segmentation_are_only_resized():
    detector = CARDS["fasterrcnn_resnet50_fpn"].find().preprocessing
    assert (detector.crop, detector.resize, detector.mean, detector.std) == (None, (), (0, 0, 0), (1, 1, 1))
    segmentation = CARDS["fcn_resnet50"].find().preprocessing
    assert (segmentation.crop, segmentation.resize) == (None, (520,))


def test_clips_for_video_models_have_a_length_and_are_resized_without_a_filter():
    assert CARDS["r3d_18"].input_size == (3, 16, 112, 112)
    assert CARDS["r3d_18"].find().preprocessing.resize == (128, 171)
    assert not CARDS["r3d_18"].find().preprocessing.antialias


def test_the_keypoint_detector_has_names_for_its_points():
    assert len(categories.coco_keypoints()) == 17


def test_licences_are_those_that_the_library_states_and_unknown_otherwise():
    assert CARDS["vit_b_16"].find("IMAGENET1K_SWAG_E2E_V1").licenses.weights == "cc-by-nc-4.0"
    assert CARDS["vit_b_16"].find("IMAGENET1K_V1").licenses.weights == "unknown"
    assert {weights.licenses.code for card in CARDS.values() for weights in card.weights} == {"bsd-3-clause"}


def test_preprocessing_is_that_of_the_entry_and_not_of_the_model():
    vit = CARDS["vit_b_16"]
    assert vit.find("IMAGENET1K_SWAG_E2E_V1").preprocessing.crop == (384, 384)
    assert vit.find("IMAGENET1K_SWAG_E2E_V1").preprocessing.interpolation == "bicubic"
    assert vit.find("IMAGENET1K_V1").preprocessing.crop == (224, 224)
    assert CARDS["vgg16"].find("IMAGENET1K_FEATURES").preprocessing.std == (1 / 255, 1 / 255, 1 / 255)


def test_a_file_for_another_image_size_says_so_to_the_constructor():
    sizes = {tag: CARDS["vit_h_14"].find(tag).options.get("image_size") for tag in CARDS["vit_h_14"].tags}
    assert sizes == {"IMAGENET1K_SWAG_E2E_V1": 518, "IMAGENET1K_SWAG_LINEAR_V1": None}
    assert CARDS["vit_h_14"].input_size == (3, 224, 224)


def test_features_that_never_were_a_classifier_have_no_classes_and_no_figures():
    features = CARDS["vgg16"].find("IMAGENET1K_FEATURES")
    assert (features.num_classes, features.class_names, features.metrics) == (0, (), {})


def test_the_figures_are_flat_and_named_by_their_data():
    assert CARDS["resnet18"].find().metrics == {"ImageNet-1K acc@1": 69.758, "ImageNet-1K acc@5": 89.078}


@pytest.mark.parametrize(
    "name",
    ["googlenet", "inception_v3", "vit_b_16", "fcn_resnet50", "fasterrcnn_resnet50_fpn", "mvit_v1_b", "raft_small"],
)
def test_the_number_of_parameters_is_that_of_the_model_with_its_default_weights(name):
    card = CARDS[name]
    with torch.device("meta"):
        model = resolve_name(card.build)(**{**card.options, **card.find().options})
    assert sum(parameter.numel() for parameter in model.parameters()) == card.parameters


def test_no_constructor_warns_with_the_options_of_its_card():
    # Warnings are errors in this suite, and these two warn when they are not told how to begin.
    for name in ("googlenet", "inception_v3"):
        with torch.device("meta"):
            models.get_model(name, weights=None, **CARDS[name].options)


def test_reading_the_catalogue_and_its_class_names_leaves_torch_alone():
    code = (
        "import sys; from zoo_torchvision import catalog, categories, checkpoints;"
        "cards = catalog.cards(); names = cards[0].weights[0].class_names;"
        "assert len(cards) > 79 and len(names) == 1000;"
        "assert not {'torch', 'torchvision', 'numpy'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""The catalogue of pretrainedmodels is what the library says of its models and files."""

import subprocess
import sys

import pytest
from support.cadene import CARDS, TransformImage, every_model, shared
from zoo_pretrainedmodels import index
from zoo_pretrainedmodels.catalog import cards, version
from zoo_pretrainedmodels.library import library


def test_the_shipped_catalogue_is_what_the_installed_library_says():
    assert version() == library.__version__
    assert cards() == index.cards()


def test_there_are_45_models_and_49_entries():
    assert list(CARDS) == library.model_names
    assert (len(CARDS), sum(len(card.weights) for card in CARDS.values())) == (45, 49)


def test_every_entry_has_the_digest_that_the_name_of_its_file_ends_with():
    for card in CARDS.values():
        for weights in card.weights:
            assert weights.strength == "weak"
            assert weights.file_name.endswith(f"-{weights.sha256}.pth")


def test_two_models_take_bgr_from_0_to_255():
    caffe = {name for name, card in CARDS.items() if card.find().preprocessing.channel_order == "BGR"}
    assert caffe == {"bninception", "cafferesnet101"}
    assert {CARDS[name].find().preprocessing.value_range for name in caffe} == {255.0}


def test_every_file_has_the_names_of_its_classes_the_background_first_where_there_is_one():
    found = {(len(w.class_names), w.num_classes, w.class_names[0]) for card in CARDS.values() for w in card.weights}
    assert found == {(1000, 1000, "tench"), (1001, 1001, "background")}


def test_eleven_entries_centre_on_a_half():
    halves = [w for card in CARDS.values() for w in card.weights if w.preprocessing.mean == (0.5, 0.5, 0.5)]
    assert len(halves) == 11


@pytest.mark.parametrize("name", CARDS)
def test_images_are_resized_and_cropped_as_the_library_does(name):
    entry = next(iter(library.pretrained_settings[name].values()))
    resize, crop, *_ = TransformImage(entry, scale=entry.get("scale", 0.875)).tf.transforms
    preprocessing = CARDS[name].find().preprocessing
    assert (preprocessing.resize, preprocessing.crop) == ((resize.size,), crop.size)


def test_only_files_with_a_background_class_build_1001_outputs():
    with_background = {c.name for c in CARDS.values() if "imagenet+background" in c.tags}
    assert with_background == {"inceptionv4", "inceptionresnetv2", "nasnetalarge", "pnasnet5large"}
    for name in with_background:
        assert CARDS[name].find("imagenet+background").options == {"num_classes": 1001}
        assert CARDS[name].find("imagenet").options == {}


@every_model
def test_the_card_counts_the_parameters_of_the_model(name):
    assert CARDS[name].parameters == sum(parameter.numel() for parameter in shared(name).parameters())


def test_the_catalogue_is_read_without_torch_and_without_the_library():
    code = (
        "import zoo_pretrainedmodels.catalog as c, sys; c.cards();"
        "assert not {'torch', 'torchvision', 'pretrainedmodels'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""The models that the plugin builds are those of pretrainedmodels, with what its constructors spoil mended."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from support.cadene import (
    MENDED,
    TransformImage,
    every_model,
    from_the_library,
    image,
    models_that_run,
    on_meta,
    randomised,
    shared,
)
from support.random_numbers import WithoutRandomNumbers
from zoo_pretrainedmodels import picklable_models
from zoo_pretrainedmodels.anatomy import anatomy
from zoo_pretrainedmodels.build import build


@models_that_run
def test_a_model_computes_what_the_library_computes_bit_for_bit(name):
    theirs = randomised(from_the_library, name)
    with WithoutRandomNumbers():
        ours = build(name).eval()
    ours.load_state_dict(theirs.state_dict())
    x = image(name)
    with torch.inference_mode():
        scores = theirs(x)
        assert scores.std() > 0
        assert torch.equal(ours(x), scores)


@every_model
def test_the_names_and_shapes_of_tensors_are_those_of_the_library(name):
    with torch.device("meta"):
        theirs = from_the_library(name).state_dict()
    ours = shared(name).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


@every_model
def test_a_model_can_be_had_with_any_number_of_classes_and_nothing_else_depends_on_it(name):
    model = on_meta(name, num_classes=9)
    nine, usual = ({k: v.shape for k, v in m.state_dict().items()} for m in (model, shared(name)))
    parts = anatomy(model)
    sites = tuple(f"{head.path}." for head in parts.heads)
    differ = {key for key in nine if nine[key] != usual[key]}
    assert differ
    assert all(key.startswith(sites) for key in differ)
    assert [head.num_classes for head in parts.heads] == [9] * len(parts.heads)
    assert all(getattr(model, attribute) == 9 for attribute in parts.main.attributes)


@pytest.mark.parametrize("name", [*MENDED, "nasnetamobile"])
def test_a_model_survives_pickle_and_deepcopy_even_after_it_has_trained(name):
    model = build(name, num_classes=9).train()
    model(image(name, batch=2))
    model.eval()
    x = image(name)
    with torch.no_grad():
        scores = model(x)
        assert torch.equal(pickle.loads(pickle.dumps(model))(x), scores)
        twin = copy.deepcopy(model)
        assert torch.equal(twin(x), scores)
        for parameter in twin.parameters():
            parameter.zero_()
        assert not torch.equal(twin(x), scores)


@pytest.mark.parametrize("name", ["resnext101_32x4d", "resnext101_64x4d"])
def test_two_resnexts_share_no_weights_and_can_be_pickled(name):
    first, second = build(name), build(name)
    first.features[0].weight.data.zero_()
    assert second.features[0].weight.abs().sum() > 0
    assert pickle.loads(pickle.dumps(first.features[4]))(torch.zeros(1, 64, 8, 8)).shape == (1, 256, 8, 8)


def test_a_model_carries_the_settings_that_the_librarys_transforms_read():
    model = build("bninception")
    assert (model.input_space, model.input_range, model.mean) == ("BGR", [0, 255], [104, 117, 128])
    assert TransformImage(model).tf.transforms[1].size == (224, 224)


def test_the_library_is_imported_and_its_models_are_built_without_a_warning():
    # Without bytecode at hand, so that the compiler looks at the library's sources once more.
    code = (
        "import sys, torch, torchvision; sys.pycache_prefix = '/nonexistent'; sys.dont_write_bytecode = True;"
        "from zoo_pretrainedmodels.build import build; torch.set_default_device('meta');"
        "build('inceptionv3'); build('dpn68')"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_resnext_pickled_by_version_0_1_finds_what_is_there_in_place_of_a_lambda():
    old = pickle.loads(b"czoo_pretrainedmodels.build\n_same\n.")  # as such a pickle names it
    assert old is picklable_models.unchanged

"""The family of pretrainedmodels: what the plugin declares, measured on models that really run."""

import copy
import functools
import importlib
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn
from zoo_pretrainedmodels import index
from zoo_pretrainedmodels.anatomy import anatomy
from zoo_pretrainedmodels.build import build
from zoo_pretrainedmodels.catalog import cards, version
from zoo_pretrainedmodels.library import library, quiet

from zoo_core.errors import AnatomyError

# Only after the plugin has imported the library without its warnings.
TransformImage = importlib.import_module("pretrainedmodels.utils").TransformImage
CARDS = {card.name: card for card in cards()}

LIGHT = {
    # One of each layout that runs within a second or two.
    "alexnet",
    "bninception",
    "densenet121",
    "dpn68",
    "dpn68b",
    "inceptionv3",
    "nasnetamobile",
    "resnet18",
    "se_resnet50",
    "squeezenet1_1",
    "vgg11_bn",
    "xception",
}

every_model = pytest.mark.parametrize("name", CARDS)
models_that_run = pytest.mark.parametrize(
    "name", [name if name in LIGHT else pytest.param(name, marks=pytest.mark.full) for name in CARDS]
)
LARGE = pytest.param("vgg11_bn", marks=pytest.mark.full)  # half a gigabyte to copy
MENDED = (
    *("alexnet", "densenet121", "inceptionv3", "resnet18", "squeezenet1_1", LARGE),
    *("bninception", "dpn68", "fbresnet152"),
)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def on_meta(name, **options):
    with torch.device("meta"):
        return build(name, **options).eval()


@functools.cache
def shared(name):
    """A model without storage that several tests look at; none may change it."""
    return on_meta(name)


def randomised(model):
    """Fresh random weights large enough that a difference cannot hide in zeros."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                bound = (3 / parameter[0].numel()) ** 0.5
                parameter.uniform_(-bound, bound)
    return model.eval()


def picture(name, batch=1):
    torch.manual_seed(1)
    return torch.randn(batch, *CARDS[name].input_size)


def from_the_library(name):
    with quiet():
        return getattr(library, name)(num_classes=1000, pretrained=None).eval()


def stage_shapes(model, side):
    shapes = {}
    parts = anatomy(model)
    handles = [
        model.get_submodule(stage.output).register_forward_hook(
            lambda *call, name=stage.name: shapes.update({name: call[2].shape})
        )
        for stage in parts.stages
    ]
    parts.features(model, torch.empty(1, 3, side, side, device="meta"))
    for handle in handles:
        handle.remove()
    return [tuple(shapes[stage.name]) for stage in parts.stages]


# The catalogue


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


@every_model
def test_pictures_are_resized_and_cropped_as_the_library_does(name):
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


# The models


@models_that_run
def test_a_model_computes_what_the_library_computes_bit_for_bit(name):
    theirs = randomised(from_the_library(name))
    ours = build(name).eval()
    ours.load_state_dict(theirs.state_dict())
    x = picture(name)
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
    model(picture(name, batch=2))
    model.eval()
    x = picture(name)
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


# The anatomy


@models_that_run
def test_the_split_gives_the_scores_of_the_whole_bit_for_bit(name):
    model = randomised(build(name))
    parts, x = anatomy(model), picture(name, batch=2)
    with torch.inference_mode():
        whole = model(x)
        features = parts.features(model, x)
        before = features.clone()
        pooled = parts.pool(model, features)
        scores = parts.classify(model, pooled) if parts.classify else model.get_submodule(parts.main.path)(pooled)
    assert torch.equal(scores, whole)
    assert torch.equal(features, before)
    assert pooled.shape[1] == parts.main.in_features
    assert pooled.ndim == {"linear": 2, "conv": 4}[parts.main.kind]


@every_model
def test_the_stages_have_the_channels_and_strides_that_a_forward_pass_shows(name):
    model = shared(name)
    side = CARDS[name].input_size[1]
    small, large = stage_shapes(model, side), stage_shapes(model, side + 128)
    measured = [(one[1], 128 // (two[2] - one[2])) for one, two in zip(small, large, strict=True)]
    assert measured == [(stage.channels, stage.stride) for stage in anatomy(model).stages]


@every_model
def test_no_parameter_of_the_backbone_lies_between_the_stages(name):
    model = shared(name)
    parts = anatomy(model)
    modules = tuple(f"{path}." for stage in parts.stages for path in stage.modules)
    order = [key for key, _ in model.named_parameters() if not key.startswith("AuxLogits.")]
    inside = [key.startswith(modules) for key in order]
    first, last = inside.index(True), len(inside) - 1 - inside[::-1].index(True)
    assert all(inside[first : last + 1]), [key for key, found in zip(order, inside, strict=True) if not found]


@every_model
def test_the_stem_is_the_layer_that_sees_the_picture(name):
    model, seen = shared(name), []
    handles = [
        module.register_forward_pre_hook(lambda _module, given, path=path: seen.append((path, given[0].shape[1])))
        for path, module in model.named_modules()
        if not list(module.children()) and list(module.parameters())
    ]
    anatomy(model).features(model, torch.empty(1, *CARDS[name].input_size, device="meta"))
    for handle in handles:
        handle.remove()
    assert anatomy(model).stem == (seen[0][0],)
    assert seen[0][1] == 3


def test_the_auxiliary_head_of_inception_v3_is_a_site():
    assert [(head.path, head.role) for head in anatomy(on_meta("inceptionv3")).heads] == [
        ("last_linear", "main"),
        ("AuxLogits.fc", "aux"),
    ]


@pytest.mark.parametrize("name", MENDED)
def test_models_that_the_library_itself_built_are_known_too(name):
    model = randomised(from_the_library(name))
    parts, x = anatomy(model), picture(name)
    with torch.inference_mode():
        pooled = parts.pool(model, parts.features(model, x))
        scores = parts.classify(model, pooled) if parts.classify else model.get_submodule(parts.main.path)(pooled)
        assert torch.equal(scores, model(x))
    assert parts.stages


@every_model
def test_an_anatomy_can_be_pickled(name):
    parts = anatomy(shared(name))
    assert pickle.loads(pickle.dumps(parts)).stages == parts.stages


def test_the_widths_of_a_head_that_somebody_put_there_are_read_from_it():
    model = on_meta("resnet18")
    model.last_linear = nn.Sequential(nn.Linear(512, 16), nn.ReLU(), nn.Linear(16, 5))
    assert (anatomy(model).main.in_features, anatomy(model).main.num_classes) == (512, 5)


def test_a_model_of_torchvision_is_refused_and_sent_to_its_own_family():
    import torchvision

    with pytest.raises(AnatomyError, match="ResNet is not a model of pretrainedmodels") as caught:
        anatomy(torchvision.models.resnet18())
    assert "family torchvision" in str(caught.value)


def test_a_head_without_a_width_is_refused():
    model = on_meta("resnet18")
    model.last_linear = nn.Identity()
    with pytest.raises(AnatomyError, match="head site 'last_linear' of ResNet"):
        anatomy(model)


def test_a_model_that_lost_its_layout_is_refused_with_the_reason():
    model = on_meta("resnet18")
    del model.layer3
    with pytest.raises(AnatomyError, match="no longer has the layout") as caught:
        anatomy(model)
    assert "layer3" in str(caught.value)

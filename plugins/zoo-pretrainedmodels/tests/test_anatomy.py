"""What the plugin says of the parts of a model, measured on models that really run."""

import pickle

import pytest
import torch
from support.cadene import (
    CARDS,
    MENDED,
    every_model,
    from_the_library,
    image,
    models_that_run,
    on_meta,
    randomised,
    shared,
)
from torch import nn
from zoo_pretrainedmodels.anatomy import anatomy
from zoo_pretrainedmodels.build import build

from zoo_core.errors import AnatomyError


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


@models_that_run
def test_the_split_gives_the_scores_of_the_whole_bit_for_bit(name):
    model = randomised(build, name)
    parts, x = anatomy(model), image(name, batch=2)
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
def test_the_stem_is_the_layer_that_sees_the_image(name):
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
    model = randomised(from_the_library, name)
    parts, x = anatomy(model), image(name)
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

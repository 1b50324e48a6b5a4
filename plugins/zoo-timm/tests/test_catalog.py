"""What the cards say is what timm says."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from importlib.metadata import version

import pytest
import timm
import torch
from timm.data import ImageNetInfo, resolve_data_config
from timm.models._registry import _model_default_cfgs
from zoo_timm import accuracies, catalog, categories, index, zoo_families
from zoo_timm.checkpoints import convert
from zoo_timm.entrypoints import listening, loading_of

import zoo_core as zoo

CARDS = {card.name: card for card in catalog.cards()}
ENTRIES = [(card, weights) for card in CARDS.values() for weights in card.weights]


def configuration(card, weights):
    return timm.models.get_pretrained_cfg(f"{card.name}.{weights.tag}", allow_unregistered=False)


installed = pytest.mark.skipif(
    catalog.version() != version("timm"), reason=f"the catalogue is of timm {catalog.version()}"
)


def test_the_version_that_the_plugin_was_tested_with_is_that_of_its_catalogue():
    [family] = zoo_families()
    assert family.tested == f"=={catalog.version()}"


@installed
def test_the_file_is_what_the_command_writes_today():
    assert [replace(card, parameters=None) for card in catalog.cards()] == index.cards()


@installed
def test_every_architecture_and_every_tag_with_weights_is_there():
    assert list(CARDS) == timm.list_models()
    names = {f"{card.name}.{weights.tag}" for card, weights in ENTRIES}
    assert names == set(timm.list_pretrained())
    assert (len(CARDS), len(ENTRIES)) == (1371, 1826)


@installed
def test_the_default_is_the_one_of_timm():
    for card in CARDS.values():
        theirs = timm.models.get_pretrained_cfg(card.name)
        assert card.default == (theirs.tag if theirs.has_weights else None), card.name


@installed
def test_urls_lead_where_timm_goes():
    kinds = Counter()
    for card, weights in ENTRIES:
        expected = configuration(card, weights)
        hub = [url for url in weights.urls if url.startswith("https://huggingface.co/")]
        assert all(url.startswith(f"https://huggingface.co/{expected.hf_hub_id}/resolve/main/") for url in hub)
        assert [url for url in weights.urls if url not in hub] == ([expected.url] if expected.url else [])
        assert weights.urls[: len(hub)] == tuple(hub)
        kinds[bool(expected.url), bool(hub)] += 1
    assert kinds == {(True, True): 670, (False, True): 1137, (True, False): 19}


def test_a_digest_is_what_a_file_name_says_and_no_number_of_epochs():
    digests = Counter()
    for _, weights in ENTRIES:
        for file in weights.files:
            assert file.sha256 in file.file_name
            assert file.sha256 or not torch.hub.HASH_REGEX.search(file.file_name) or "00e.pth" in file.file_name
            digests[len(file.sha256), "huggingface.co" in file.urls[0]] += 1
    elsewhere = {length: count for (length, on_hub), count in digests.items() if not on_hub}
    assert elsewhere == {8: 420, 9: 2, 0: 267}
    epochs = [weights for _, weights in ENTRIES if weights.file_name.endswith("00e.pth.tar")]
    assert [weights.strength for weights in epochs] == ["none"] * 4


@installed
def test_classes_and_sizes_are_those_of_the_tag():
    for card, weights in ENTRIES:
        assert weights.num_classes == configuration(card, weights).num_classes
        assert weights.preprocessing.crop == tuple(configuration(card, weights).input_size[1:])
    several = [card for card in CARDS.values() if len({weights.num_classes for weights in card.weights}) > 1]
    assert len(several) == 114


@installed
@pytest.mark.parametrize(
    ("field", "of_any_tag", "of_tags_with_weights"),
    [("num_classes", 116, 114), ("input_size", 76, 76)],  # two architectures have a tag of 1000 classes without weights
)
def test_the_tags_of_an_architecture_disagree_as_often_as_was_counted(field, of_any_tag, of_tags_with_weights):
    entries = [_model_default_cfgs[name].cfgs.values() for name in CARDS]
    for expected, weighted in ((of_any_tag, False), (of_tags_with_weights, True)):
        said = [{getattr(entry, field) for entry in each if entry.has_weights or not weighted} for each in entries]
        assert sum(len(values) > 1 for values in said) == expected


def test_every_tag_builds_the_classifier_that_its_file_has():
    for name, tag in (("vit_base_patch16_224", "augreg_in21k"), ("resnet50", "fb_swsl_ig1b_ft_in1k")):
        card = CARDS[name]
        weights = card.find(tag)
        with torch.device("meta"):
            model = timm.create_model(**{**card.options, **weights.options})
        assert model.num_classes == weights.num_classes
        assert model.pretrained_cfg["tag"] == tag


@installed
def test_preprocessing_is_that_of_timm():
    seen = set()
    for card, weights in ENTRIES:
        expected = resolve_data_config(pretrained_cfg=configuration(card, weights).to_dict())
        ours = weights.preprocessing
        assert (ours.mean, ours.std) == (tuple(expected["mean"]), tuple(expected["std"]))
        assert ours.interpolation == expected["interpolation"]
        sides = tuple(math.floor(side / expected["crop_pct"]) for side in expected["input_size"][1:])
        whole = expected["crop_mode"] != "center" or sides[0] != sides[1]
        assert ours.resize == (sides if whole else sides[:1])
        seen.add((expected["crop_mode"], len(ours.resize), ours.fit))
    assert seen == {
        ("center", 1, "squash"),  # one number is the shorter side, and nothing is squashed
        ("squash", 2, "squash"),
        ("border", 2, "border"),
    }


@installed
def test_licences_are_those_of_the_configurations():
    for card, weights in ENTRIES:
        assert weights.licenses.weights == (configuration(card, weights).license or "unknown").lower()
        assert (weights.licenses.code, weights.licenses.data) == ("apache-2.0", "unknown")
    assert sum(weights.licenses.weights == "cc-by-nc-4.0" for _, weights in ENTRIES) == 88


@pytest.mark.parametrize(("count", "name"), categories.LISTS.items(), ids=categories.LISTS.values())
def test_class_names_are_those_of_timm(count, name):
    subset = timm.data.infer_imagenet_subset({"num_classes": count})
    names = getattr(categories, name)()
    assert len(names) == count
    assert list(names) == ImageNetInfo(subset).label_descriptions()


@pytest.fixture(scope="module")
def loadings():
    with listening():
        return {(card.name, weights.tag): loading_of(card.name, weights.tag) for card, weights in ENTRIES}


@installed
def test_what_timm_would_drop_or_leave_in_silence_is_written_down(loadings):
    """The command warns of an entry that timm loads loosely without an explanation here, which here is an error."""
    told = {(card.name, weights.tag) for card, weights in ENTRIES if weights.ignore or weights.absent}
    loose = {entry for entry, loading in loadings.items() if not loading.strict}
    assert told == loose
    assert len(loose) == 67


@installed
def test_entries_that_timm_does_not_load_as_they_are_are_as_many_as_were_counted(loadings):
    own_loader = [configuration(card, weights).custom_load for card, weights in ENTRIES]
    archives = [weights for _, weights in ENTRIES if any(file.file_name.endswith(".npz") for file in weights.files)]
    filtered = [loading for loading in loadings.values() if loading.filter]
    assert (sum(map(bool, own_loader)), len(archives), len(filtered)) == (65, 50, 1229)


def test_asking_how_timm_loads_leaves_timm_as_it_was():
    before = timm.models.resnet.build_model_with_cfg
    loading_of("resnet18", "a1_in1k")
    assert timm.models.resnet.build_model_with_cfg is before
    assert timm.create_model("test_resnet").num_classes == 1000


def test_listing_imports_neither_torch_nor_timm():
    code = (
        "import sys, zoo_timm.catalog as c; cards = c.cards(); names = cards[0].weights[0].tag;"
        "import zoo_timm.categories as k; assert len(k.imagenet_1k()) == 1000;"
        "assert not {'torch', 'timm', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@installed
@pytest.mark.full
@pytest.mark.parametrize("name", [name for name, card in CARDS.items() if any(each.convert for each in card.weights)])
def test_a_file_in_timms_own_layout_is_left_as_it_is(name):
    """What the hub holds was saved from timm's own model: its function must let it pass, tensor for tensor."""
    weights = next(each for each in CARDS[name].weights if each.convert)
    with torch.device("meta"):
        model = timm.create_model(name, **weights.options)
    state = model.state_dict()
    found = convert(dict(state), model)
    assert {key: tensor.shape for key, tensor in found.items()} == {key: each.shape for key, each in state.items()}


@installed
@pytest.mark.full
@pytest.mark.parametrize("name", list(CARDS))
def test_a_card_tells_of_the_model_that_is_built(name):
    card = CARDS[name]
    for options, classes in [({}, card.num_classes), *((each.options, each.num_classes) for each in card.weights)]:
        with torch.device("meta"):
            model = timm.create_model(name, **options)
        assert model.num_classes == classes, options
    assert card.parameters == index.parameters(card)


def test_zoo_lists_them_all():
    assert len(zoo.list(family="timm")) == 1371
    assert zoo.info("timm/resnet50").default == "a1_in1k"


def test_every_published_accuracy_is_of_weights_that_see_images_of_that_size():
    text = accuracies.FILE.read_text()
    assert text.startswith(f"# {accuracies.SOURCE}\n")
    published = {line.partition(",")[0] for line in text.splitlines()[2:]}
    measured = [(card, weights) for card, weights in ENTRIES if weights.metrics]
    assert {f"{card.name}.{weights.tag}" for card, weights in measured} == published
    assert len(published) == 1266
    for card, weights in measured:
        assert weights.num_classes == 1000
        size = weights.preprocessing.crop[-1]
        assert weights.metrics == accuracies.metrics_of(f"{card.name}.{weights.tag}", size)


def test_a_pruned_network_comes_in_train_mode_as_all_others_do():
    name = "efficientnet_b1_pruned"
    assert not timm.create_model(name).training
    assert zoo.get(f"timm/{name}", weights=None).training

"""The conformance kit finds what is wrong, and says it so that it can be put right."""

from __future__ import annotations

import copy
import sys
import textwrap
from dataclasses import replace

import pytest
import torch
from support import (
    cut_mutants,
    input_mutants,
    odd_toys,
    plugin_mutants,
    record_mutants,
    side_effects,
    stage_mutants,
    toys,
)
from support.mutants import MUTANTS as GENERAL

import zoo_core as zoo
from zoo_core import Family, Preprocessing
from zoo_core.registry.plugins import Plugin
from zoo_core.registry.zoo import Zoo
from zoo_core.testing import (
    CHECKS,
    FAMILY_CHECKS,
    check_branch,
    check_builds,
    check_card,
    check_forward,
    check_light,
    check_names,
    check_split,
    check_stem,
    judge,
)
from zoo_core.testing.checks.builds import _looked_at
from zoo_core.testing.choosing import checks_named
from zoo_core.testing.verdicts import judge_family

MUTANTS = {
    **GENERAL,
    **side_effects.MUTANTS,
    **cut_mutants.MUTANTS,
    **input_mutants.MUTANTS,
    **record_mutants.MUTANTS,
    **stage_mutants.MUTANTS,
    **plugin_mutants.MUTANTS,
}


@pytest.fixture(autouse=True)
def _nothing_left():
    yield
    side_effects.forget()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_right_plugin_passes(check):
    with zoo.use(toys.zoo_of()):
        assert judge(check, toys.CARD).outcome == ("refused" if check is check_branch else "passed")  # it has two heads


def test_an_anatomy_that_runs_the_model_in_eval_mode_passes():
    def run(model):
        with torch.no_grad():
            copy.copy(model.bn1).eval()(torch.zeros(2, model.bn1.num_features, 4, 4, device=model.bn1.weight.device))
        return toys.anatomy(model)

    with zoo.use(toys.zoo_of(run)):
        assert judge(check_builds, toys.CARD).outcome == "passed"


def test_a_build_with_a_class_that_torch_makes_for_one_layer_passes():
    card = replace(toys.CARD, build="support.record_mutants:Normed")
    with zoo.use(toys.zoo_of(None, card)):
        assert judge(check_builds, card).reason == ""


def test_a_forward_that_draws_and_seeds_nothing_passes():
    card = replace(toys.CARD, build="support.input_mutants:Drawing")
    with zoo.use(toys.zoo_of(None, card)):
        assert judge(check_forward, card).reason == ""


ODD = {
    "tokens": (odd_toys.tokens(), "Tokens", "classification"),
    "tokens whose places are remembered": (odd_toys.tokens(), "Remembering", "classification"),
    "tokens of an image that is resized": (odd_toys.tokens(), "Resizing", "classification"),
    "large strides": (odd_toys.deep(), "Deep", "classification"),
    "detector": (odd_toys.detector(), "Detector", "detection"),
    "stage whose map is read from a tuple": (cut_mutants.paired(), "Paired", "classification"),
    "inner layer as wide as the head": (cut_mutants.narrow, "Narrow", "classification"),
    "vector beside the scores": (cut_mutants.embedding, "Embedding", "classification"),
    "images that are scaled": (record_mutants.scaling(), "Scaling", "classification"),
}


@pytest.mark.parametrize("name", ODD)
def test_a_right_plugin_of_another_kind_passes(name):
    anatomy, build, task = ODD[name]
    module = next(each for each in (odd_toys, cut_mutants, record_mutants) if hasattr(each, build)).__name__
    card = replace(toys.CARD, build=f"{module}:{build}", task=task)
    with zoo.use(toys.zoo_of(anatomy, card)):
        verdicts = [judge(check, card) for check in CHECKS]
    assert [(each.check, each.reason) for each in verdicts if each.outcome == "failed"] == []
    assert {each.check for each in verdicts if each.outcome == "refused"} <= {"split", "training", "features", "branch"}


def test_a_stem_that_begins_with_a_norm_is_refused_with_a_reason():
    def anatomy(model):
        return replace(odd_toys.tokens()(model), stem=("first",))

    card = replace(toys.CARD, build="support.odd_toys:NormedPatches")
    with zoo.use(toys.zoo_of(anatomy, card)):
        verdict = judge(check_stem, card)
    assert verdict.outcome == "refused"
    assert "the stem 'first' of this NormedPatches cannot be adapted" in verdict.reason


@pytest.mark.parametrize("url", ["https://github.com/acme/net/blob/main/toy-5c106cde.pth?raw=true"])
def test_an_address_of_a_file_that_looks_like_that_of_a_page_passes(url):
    with zoo.use(toys.zoo_of()):
        assert judge(check_card, replace(toys.CARD, weights=(replace(toys.V1, urls=(url,)),))).reason == ""


def test_a_right_plugin_of_one_size_passes():
    weights = replace(toys.V1, preprocessing=Preprocessing(crop=(64, 64), resize=(72,)))
    card = replace(toys.CARD, build="support.odd_toys:OneSize", input_size=(3, 64, 64), weights=(weights,))
    with zoo.use(toys.zoo_of(odd_toys.tokens(), card)):
        verdicts = [judge(check, card) for check in CHECKS]
    assert [(each.check, each.reason) for each in verdicts if each.outcome == "failed"] == []


def test_signals_of_one_axis_fit_but_for_their_stages():
    card = replace(
        toys.CARD, build="support.odd_toys:Sound", input_size=(1, 16_000), task="sound", weights=(), default=None
    )
    with zoo.use(toys.zoo_of(odd_toys.sound, card)):
        verdicts = {each.check: each.outcome for each in (judge(check, card) for check in CHECKS)}
        with pytest.raises(zoo.errors.NotSupported, match="takes no image"):
            zoo.encoder("toy/toy", weights=None)
    assert {name for name, outcome in verdicts.items() if outcome == "skipped"} == {
        "stages",
        "depths",
        "features",
        "branch",
    }
    assert "failed" not in verdicts.values()


@pytest.mark.parametrize(("build", "outcome"), [("Blind", "skipped"), ("Faint", "passed")])
def test_a_split_is_not_said_to_be_right_where_every_image_gives_the_same_scores(build, outcome):
    card = replace(toys.CARD, build=f"support.odd_toys:{build}")
    with zoo.use(toys.zoo_of(None, card)):
        verdict = judge(check_split, card)
    assert verdict.outcome == outcome
    assert ("prove nothing of its split" in verdict.reason) == (outcome == "skipped")


def test_a_split_that_skips_a_norm_is_found_behind_layers_whose_signal_dies():
    card = replace(toys.CARD, build="support.odd_toys:Faint")
    with zoo.use(toys.zoo_of(MUTANTS["split that skips a norm"].anatomy, card)):
        assert "split and forward differ" in judge(check_split, card).reason


@pytest.mark.parametrize("check", FAMILY_CHECKS, ids=lambda check: check.__name__)
def test_a_right_family_passes(check):
    assert judge_family(check, "tiny").reason == ""


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_defect_is_found_by_its_check_which_names_the_cause(name, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    for name_of, folder in (("HOME", "home"), ("TMPDIR", "temporary"), ("PWD", "here")):
        (tmp_path / folder).mkdir()
        monkeypatch.setenv(name_of, str(tmp_path / folder))
    monkeypatch.chdir(tmp_path / "here")  # for those that write
    mutant = MUTANTS[name]
    with zoo.use(mutant.zoo()):
        if name in side_effects.MUTANTS:
            _looked_at.clear()  # what stays in memory is looked for once a constructor, for that takes a while
        verdict = judge(*checks_named([mutant.check]), mutant.of())
    assert verdict.outcome == "failed"
    assert mutant.says in verdict.reason


def test_there_are_mutants_for_every_check():
    assert {mutant.check for mutant in MUTANTS.values()} == {check.__name__.removeprefix("check_") for check in CHECKS}


@pytest.fixture
def on_disk(tmp_path, monkeypatch):
    """A family whose catalogue is a module on the disk."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(catalogue, **others):
        for name, source in {"mutant_catalogue": catalogue, **others}.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
            monkeypatch.delitem(sys.modules, name, raising=False)
        family = Family("mutant", "mutant_catalogue:cards", "support.toys:anatomy")
        return Zoo((Plugin("mutant", "mutant 1.0", families=(family,)),))

    return write


CATALOGUE = """
    from zoo_core import Card, Weights

    def cards():
        return [Card("mutant", name, "support.toys:Toy") for name in ("net", "other")]
"""


_ASKING = """        import socket

        try:
            socket.create_connection(("example.org", 443), 1)
        except OSError:
            pass
        return"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("    def", "    print('loading')\n\n    def", "prints 'loading"),
        ('("net", "other")', "{'net', *map(str, range(9))}", "in another order each time"),
        ('"other"', "str(id(Card))", "has other cards each time"),
        ("        return", _ASKING, "asks the network"),
    ],
    ids=["prints", "set", "other", "network"],
)
def test_a_catalogue_that_is_no_plain_list_is_found(on_disk, old, new, says):
    with zoo.use(on_disk(CATALOGUE.replace(old, new))):
        assert says in judge_family(check_light, "mutant").reason


def test_a_light_catalogue_passes(on_disk):
    with zoo.use(on_disk(CATALOGUE)):
        assert judge_family(check_light, "mutant").reason == ""


def test_an_import_of_torch_is_found_with_the_line_that_does_it(on_disk):
    helper = "import json\nfrom torch import nn\n"
    with zoo.use(on_disk("import mutant_helper\n" + textwrap.dedent(CATALOGUE), mutant_helper=helper)):
        reason = judge_family(check_light, "mutant").reason
    assert "the catalogue mutant_catalogue:cards imports torch by" in reason
    assert "mutant_helper.py, line 2: from torch import nn" in reason


def test_an_import_of_torch_inside_the_function_is_found_too(on_disk):
    hidden = CATALOGUE.replace("        return", "        import torch\n\n        return")
    with zoo.use(on_disk(hidden)):
        assert "mutant_catalogue.py, line 5: import torch" in judge_family(check_light, "mutant").reason


def test_a_catalogue_that_needs_its_caller_is_found(on_disk):
    needy = "import sys\nassert 'pytest' in sys.modules, 'only among friends'\n" + textwrap.dedent(CATALOGUE)
    with zoo.use(on_disk(needy)):
        reason = judge_family(check_light, "mutant").reason
    assert "does not load in an interpreter of its own" in reason
    assert "only among friends" in reason


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"other"', '"net"', "two cards are called 'net'"),
        ('"other"', '"acme/other"', "a name cannot be 'acme/other'"),
        ('"other"', '"other@2"', "a name cannot be 'other@2'"),
        ('"other"', '""', "a name cannot be ''"),
        ('"mutant"', '"torchvision"', "'net' says that its family is 'torchvision'"),
        ("[Card", "[name or Card", "holds 'net', which is no Card"),
        ('"support.toys:Toy"', '"support.toys:Toy", input_size=(3, 0, 224)', r"input_size (3, 0, 224)"),
        ('"support.toys:Toy"', '"support.toys:Toy", input_size=(224, 224, 3)', "has the channels last"),
        ('"other"', '"Net"', "two names differ by capitals only"),
        (
            '"support.toys:Toy"',
            '"support.toys:Toy", weights=(Weights("V1", (f"https://a.b/{name}.pth",), "5c106cde"),)',
            "mutant/other@V1: other.pth has the digest of a file of mutant/net, net.pth",
        ),
        ('("net", "other")', "()", "is empty"),
        (
            '"support.toys:Toy"',
            '"support.toys:Toy", weights=(Weights("V1", ("https://a.b/net.pth",)),), parameters=10 ** (len(name) + 3)',
            "net and other have one file, https://a.b/net.pth, and 1,000,000 and 100,000,000 parameters",
        ),
    ],
    ids=[
        "twice",
        "slash",
        "at",
        "empty",
        "family",
        "no card",
        "size",
        "last",
        "capital",
        "digest",
        "nothing",
        "copied",
    ],
)
def test_a_wrong_record_in_the_catalogue_is_named(on_disk, old, new, says):
    with zoo.use(on_disk(CATALOGUE.replace(old, new))):
        assert says in judge_family(check_names, "mutant").reason

"""The registry: which families there are, and what a name means."""

from __future__ import annotations

import sys
import types

import pytest

import zoo_core as zoo
from zoo_core import Card, Family, Weights, Zoo, errors
from zoo_core.registry.plugins import Plugin
from zoo_core.registry.zoo import current_zoo

V1 = Weights("V1", urls=("https://example.org/net-5c106cde.pth",), sha256="5c106cde", num_classes=10)


@pytest.fixture
def catalog(monkeypatch):
    """Make a family's catalogue out of cards, and return the plugin that contributes it."""

    def make(family: str, *names: str, plugin: str | None = None, requires: str = "", cards=None) -> Plugin:
        module = types.ModuleType(f"catalog_of_{family}_{plugin}")
        found = [Card(family, name, "torch.nn:Identity", weights=(V1,), default="V1") for name in names]
        module.cards = cards or (lambda: found)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        record = Family(family, f"{module.__name__}:cards", f"{module.__name__}:anatomy", requires=requires)
        return Plugin(plugin or family, f"{plugin or family} 1.0", families=(record,))

    return make


def test_an_unqualified_name_is_looked_for_in_the_documented_order(catalog):
    own = Zoo((catalog("acme", "net"), catalog("timm", "net"), catalog("torchvision", "other")))
    assert own.resolve("net")[0].id == "timm/net"
    assert own.order == ("torchvision", "timm", "acme")


def test_a_third_party_family_never_shadows_an_earlier_one(catalog):
    own = Zoo((catalog("aaa", "net"), catalog("tiny", "net")))
    assert own.resolve("net")[0].family == "tiny"


def test_a_setting_reorders_the_families(catalog, monkeypatch):
    monkeypatch.setenv("ZOO_FAMILIES", "acme")
    own = Zoo((catalog("acme", "net"), catalog("timm", "net")))
    assert own.resolve("net")[0].id == "acme/net"


def test_a_qualified_name_with_a_tag_resolves_to_both(catalog):
    card, tag = Zoo((catalog("acme", "net"),)).resolve("acme/net@V1")
    assert (card.id, tag) == ("acme/net", "V1")


def test_a_miss_lists_the_closest_names(catalog):
    with pytest.raises(errors.UnknownModel, match="did you mean 'resnet18'") as caught:
        Zoo((catalog("acme", "resnet18", "vgg16"),)).resolve("resnet19")
    assert caught.value.matches == ("resnet18",)


def test_an_unknown_family_lists_those_there_are(catalog):
    with pytest.raises(errors.UnknownFamily, match=r"one of acme(.|\n)*did you mean 'acme'"):
        Zoo((catalog("acme", "net"),)).resolve("acmee/net")


def test_an_unknown_tag_lists_those_there_are(catalog):
    with pytest.raises(errors.UnknownTag, match=r"one of V1(.|\n)*did you mean 'V1'"):
        Zoo((catalog("acme", "net"),)).resolve("net@V2")


def test_a_model_without_weights_says_so_as_the_cause_and_how_to_have_it_untrained():
    with pytest.raises(errors.UnknownTag) as caught:
        Card("acme", "net", "torch.nn:Identity").find("V2")
    assert str(caught.value).splitlines() == [
        "acme/net has no weights 'V2'",
        "  likely cause: there are no pretrained weights for this model",
        "  next step: weights=None, or --weights none on the command line, builds it untrained",
    ]


@pytest.mark.parametrize("name", ["", "  ", None, 7, b"net"])
def test_what_is_not_a_name_is_said_to_be_none(catalog, name):
    with pytest.raises(errors.UsageError, match="not a model name"):
        Zoo((catalog("acme", "net"),)).resolve(name)


def test_two_plugins_that_claim_a_family_are_both_named_when_it_is_used(catalog):
    own = Zoo((catalog("acme", "net", plugin="one"), catalog("acme", "net", plugin="two")))
    with pytest.raises(errors.DuplicatePlugin, match=r"one 1.0 and two 1.0(.|\n)*ZOO_DISABLE=two"):
        own.resolve("acme/net")


def test_a_contested_family_leaves_the_others_working_with_a_warning(catalog):
    rivals = catalog("acme", "net", plugin="one"), catalog("acme", "net", plugin="two")
    own = Zoo((*rivals, catalog("fine", "net")))
    with pytest.warns(zoo.ZooWarning, match="'acme' is passed over"):
        assert own.resolve("net")[0].id == "fine/net"


def test_a_catalogue_that_raises_leaves_the_others_working_with_a_warning(catalog):
    def explode():
        raise RuntimeError("no catalogue today")

    own = Zoo((catalog("acme", cards=explode), catalog("fine", "net")))
    with pytest.warns(zoo.ZooWarning, match="'acme' is passed over"):
        assert own.list() == ["fine/net"]
    with pytest.raises(errors.CatalogError, match="no catalogue today"):
        own.list(family="acme")


@pytest.mark.parametrize(
    "junk",
    [lambda: ["junk"], lambda: None, lambda: [Card("other", "net", "a:b")], lambda: [Card("acme", "n", "a:b")] * 2],
)
def test_a_catalogue_of_junk_is_an_error_that_names_its_family(catalog, junk):
    with pytest.raises(errors.CatalogError, match="'acme'"):
        Zoo((catalog("acme", cards=junk),)).list(family="acme")


def test_a_family_without_its_library_names_the_install_command(catalog):
    own = Zoo((catalog("acme", "net", requires="no-such-distribution"),))
    with pytest.raises(errors.FamilyUnavailable, match="pip install no-such-distribution"):
        own.available(own.resolve("net")[0])


def test_a_family_without_its_library_is_left_out_of_the_list_unless_asked_for(catalog):
    own = Zoo((catalog("acme", "net", requires="no-such-distribution"), catalog("fine", "net")))
    assert own.list() == ["fine/net"]
    assert own.list(family="acme") == own.list("acme/*") == ["acme/net"]
    assert own.list("a*/*") == []


def test_a_plugin_that_did_not_load_is_named_when_its_family_is_asked_for():
    own = Zoo((Plugin("acme", "acme 1.0", problem="ImportError: no"),))
    with pytest.raises(errors.FamilyUnavailable, match="ImportError: no"):
        own.resolve("acme/net")


def test_a_plugin_that_did_not_load_is_mentioned_when_a_name_is_missed(catalog):
    own = Zoo((catalog("fine", "net"), Plugin("acme", "acme 1.0", problem="ImportError: no")))
    with pytest.raises(errors.UnknownModel, match="these plugins did not load: acme"):
        own.resolve("other")


def test_a_plugin_that_did_not_load_is_mentioned_when_a_family_is_missed(catalog):
    own = Zoo((catalog("fine", "net"), Plugin("acme-models", "acme 1.0", problem="ImportError: no")))
    with pytest.raises(errors.UnknownFamily, match="these plugins did not load: acme-models"):
        own.resolve("acme/net")


@pytest.mark.parametrize("name", ["net", "acme/net"])
def test_without_any_plugin_a_miss_says_so_and_names_one_to_install(name):
    with pytest.raises(errors.UsageError, match=r"no plugin is installed(.|\n)*pip install ./plugins/zoo-"):
        Zoo(()).resolve(name)


@pytest.mark.parametrize("name", ["net", "acme/net"])
def test_the_settings_that_leave_no_plugin_are_named_on_a_miss(name, monkeypatch):
    monkeypatch.setenv("ZOO_PLUGINS", "tiny")
    monkeypatch.setenv("ZOO_DISABLE", "tiny,torchvision")
    with pytest.raises(errors.UsageError, match="because of ZOO_PLUGINS=tiny and ZOO_DISABLE=tiny,torchvision"):
        Zoo().resolve(name)


def test_unknown_families_in_the_setting_are_one_warning_with_what_was_meant(catalog, monkeypatch):
    monkeypatch.setenv("ZOO_FAMILIES", "acne,broken,acme")
    own = Zoo((catalog("acme", "net"), Plugin("broken", "broken 1.0", problem="ImportError: no")))
    with pytest.warns(
        zoo.ZooWarning, match="ZOO_FAMILIES names what is not there: acne; did you mean 'acme'"
    ) as caught:
        assert own.list() == own.list()
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("*", ["acme/a1", "acme/b1"]), ("a*", ["acme/a1"]), ("acme/*", ["acme/a1", "acme/b1"]), ("z*", [])],
)
def test_list_matches_globs_over_names_or_qualified_names(catalog, pattern, expected):
    assert Zoo((catalog("acme", "a1", "b1"),)).list(pattern) == expected


def test_list_filters_by_task(catalog):
    cards = [Card("acme", "net", "a:b"), Card("acme", "seg", "a:b", task="segmentation")]
    assert Zoo((catalog("acme", cards=lambda: cards),)).list(task="segmentation") == ["acme/seg"]


def test_a_task_that_no_model_has_is_an_error_that_lists_those_there_are(catalog):
    cards = [Card("acme", "net", "a:b"), Card("acme", "seg", "a:b", task="segmentation")]
    with pytest.raises(
        errors.UsageError, match=r"one of classification, segmentation(.|\n)*did you mean 'classification'"
    ):
        Zoo((catalog("acme", cards=lambda: cards),)).list(task="clasification")


def test_a_task_that_only_another_family_has_lists_nothing(catalog):
    seg = [Card("other", "seg", "a:b", task="segmentation")]
    own = Zoo((catalog("acme", "net"), catalog("other", cards=lambda: seg)))
    assert own.list(family="acme", task="segmentation") == []


def test_a_family_is_a_name_and_no_pattern(catalog):
    with pytest.raises(errors.UnknownFamily, match=r"no such family: 'acm\*'"):
        Zoo((catalog("acme", "net"),)).list(family="acm*")


def test_a_family_misspelt_in_a_pattern_is_an_error_that_names_the_close_match(catalog):
    own = Zoo((catalog("acme", "net"),))
    with pytest.raises(errors.UnknownFamily, match="did you mean 'acme'"):
        own.list("acmee/*")
    assert own.list("acm?/*") == ["acme/net"]
    assert own.list("b*/*") == []


def test_a_name_with_half_a_character_is_that_of_no_model():
    for name in ("\ud800", "tiny/\ud800"):
        with pytest.raises(errors.UnknownModel):
            zoo.info(name)


@pytest.mark.parametrize("arguments", [{"pattern": 5}, {"pattern": None}, {"family": 5}, {"family": 0}, {"task": b"x"}])
def test_list_says_which_argument_is_no_text(catalog, arguments):
    with pytest.raises(errors.UsageError, match=f"{next(iter(arguments))} cannot be"):
        Zoo((catalog("acme", "net"),)).list(**arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zoo.list(famly="x"), r"list\(\) has no argument 'famly'(.|\n)*did you mean 'family'"),
        (lambda: zoo.info(nam="x"), r"info\(\) has no argument 'nam'(.|\n)*did you mean 'name'"),
        (lambda: zoo.anatomy(mdoel=0), r"anatomy\(\) has no argument 'mdoel'(.|\n)*did you mean 'model'"),
        (lambda: zoo.receipt(modle=0), r"receipt\(\) has no argument 'modle'(.|\n)*did you mean 'model'"),
        (lambda: zoo.class_names(net=0), r"class_names\(\) has no argument 'net'"),
    ],
)
def test_an_unknown_argument_is_named_with_the_one_that_was_meant(call, message):
    with pytest.raises(errors.UnknownArgument, match=message):
        call()


def test_use_changes_the_registry_only_inside_its_block(catalog):
    own = Zoo((catalog("acme", "net"),))
    with zoo.use(own):
        assert zoo.list() == ["acme/net"]
        assert zoo.info("net").id == "acme/net"
    assert current_zoo() is not own


def test_the_path_of_a_save_is_no_name_of_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "flowers").mkdir(parents=True)
    for name in ("./flowers", "runs/flowers"):
        path = name if name[0] == "." else f"./{name}"
        with pytest.raises(errors.UnknownFamily, match=rf"zoo\.load\('{path}'\)"):
            zoo.info(name)

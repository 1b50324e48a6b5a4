"""Choosing a model: filters of ``zoo.list``, and the page of ``zoo browse``."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from support.chromium import CHROMIUM, FLAGS
from torch.utils.flop_counter import FlopCounterMode

import zoo_core as zoo
from zoo_core.build.costs import cost_of, cost_of_run, parts_of
from zoo_core.cli.browse import browse, page
from zoo_core.cli.list import list_
from zoo_core.cli.list_without_click import list_plainly, print_models
from zoo_core.contract.card_file import card_to_record
from zoo_core.errors import UsageError
from zoo_core.registry.choose import ACCURACY, Entry
from zoo_core.registry.zoo import current_zoo


def test_models_are_filtered_and_sorted_by_what_is_published():
    names = zoo.list(family="torchvision", max_parameters=10e6, min_accuracy=70, sort="accuracy")
    figures = [max(w.metrics.get("ImageNet-1K acc@1", 0) for w in zoo.info(name).weights) for name in names]
    assert names
    assert figures == sorted(figures, reverse=True)
    assert figures[-1] >= 70
    assert all(zoo.info(name).parameters <= 10e6 for name in names)


def test_an_order_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(UsageError, match="parameters, accuracy"):
        zoo.list(sort="speed")


def test_what_a_model_is_chosen_by_is_what_its_card_says():
    registry = current_zoo()
    for name in registry.list("*", family="pretrainedmodels"):
        card = registry.resolve(name)[0]
        (entry,) = registry.entries(name)
        assert entry == Entry.of_record(card_to_record(card), registry.member(card.family).costs.get(card.name))
        assert (entry.id, entry.parameters, entry.default) == (card.id, card.parameters, card.default)
        assert [figure.accuracy for figure in entry.figures] == [each.metrics.get(ACCURACY) for each in card.weights]


def test_a_registered_model_is_chosen_too():
    zoo.register("mine/net", num_classes=2)(lambda num_classes=2: torch.nn.Linear(3, num_classes))
    assert "mine/net" in zoo.list("*net", sort="parameters")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--table", "--max-parameters", "10M", "--sort", "accuracy", "--family", "torchvision"],
        ["--license=apache-2.0", "--family", "tiny"],
        ["--table", "--json", "--input-size", "32"],
        ["--sort", "multiply_adds", "--min-accuracy", "80"],
    ],
)
def test_the_command_chooses_as_the_function_does_without_torch(arguments, capsys):
    assert list_plainly(["list", *arguments])
    plain = capsys.readouterr().out
    assert plain == CliRunner().invoke(list_, arguments).stdout
    assert plain


def test_a_table_has_a_row_for_each_model(capsys):
    print_models("resnet18", family="torchvision", as_table=True)
    header, row, count = capsys.readouterr().out.splitlines()
    assert header.split() == ["model", "Mparams", "GMACs", "size", "acc@1", "licence"]
    assert row.split() == ["torchvision/resnet18", "11.7", "1.81", "224", "69.8", "unknown"]
    assert count == "1 model"


@pytest.mark.parametrize("name", ["tiny/glyphnet", "resnet18", "pretrainedmodels/squeezenet1_1"])
def test_the_costs_that_ship_are_those_that_are_counted(name):
    registry = current_zoo()
    card = registry.resolve(name)[0]
    assert registry.member(card.family).costs[card.name] == cost_of(card)


@pytest.mark.parametrize(
    "name", ["tiny/glyphnet", "torchvision/resnet18", "timm/test_vit", "efficientnet_pytorch/efficientnet-b0"]
)
def test_the_parts_that_ship_are_those_of_the_model(name):
    registry = current_zoo()
    card = registry.resolve(name)[0]
    assert registry.member(card.family).parts[card.name] == parts_of(card)


def test_every_model_ships_its_parts():
    registry = current_zoo()
    without = [name for name in zoo.list() if zoo.info(name).name not in registry.member(zoo.info(name).family).parts]
    assert without == []


def test_the_table_names_the_weights_whose_accuracy_and_licence_it_has(capsys):
    print_models(family="timm", as_table=True, license="apache-2.0", max_parameters=10e6, sort="accuracy")
    name, _, macs, size, accuracy, license_ = capsys.readouterr().out.splitlines()[1].split()
    weights = zoo.info(name.partition("@")[0]).find(name.partition("@")[2])
    assert (f"{weights.metrics['ImageNet-1K acc@1']:.1f}", weights.licenses.weights) == (accuracy, license_)
    assert (size, macs) == (str(weights.preprocessing.crop[-1]), "?")  # counted for the size that the card has


def test_a_table_of_default_weights_has_their_accuracy(capsys):
    print_models("mobilenetv4_conv_medium", family="timm", as_table=True)
    expected = zoo.info("timm/mobilenetv4_conv_medium").find().metrics["ImageNet-1K acc@1"]
    row = capsys.readouterr().out.splitlines()[1].split()
    assert (row[0], row[4]) == ("timm/mobilenetv4_conv_medium", f"{expected:.1f}")


def test_multiply_adds_are_those_of_torchs_own_counter():
    model = zoo.get("timm/test_vit", weights=None)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 160, 160))
    assert cost_of_run(model, (torch.zeros(1, 3, 160, 160),)).multiply_adds == counter.get_total_flops() // 2


def test_the_page_is_one_file_without_addresses_to_load(tmp_path):
    out = tmp_path / "zoo.html"
    assert CliRunner().invoke(browse, ["--out", str(out)]).exit_code == 0
    text = out.read_text()
    assert out.stat().st_size < 2_000_000
    assert "src=" not in text.partition("const MODELS")[0]
    assert "tiny" in text


def test_a_record_cannot_end_the_script():
    assert page([{"n": "</script><b>"}]).count("</script>") == 1


# The page in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    out = tmp_path_factory.mktemp("page") / "zoo.html"
    assert CliRunner().invoke(browse, ["--out", str(out)]).exit_code == 0
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield chromium, out.as_uri()
        chromium.close()


@pytest.fixture
def tab(browser, request):
    chromium, address = browser
    width = getattr(request, "param", 1280)
    tab = chromium.new_page(viewport={"width": width, "height": 800})
    errors = []
    tab.on("pageerror", lambda error: errors.append(error))  # noqa: PLW0108 - playwright takes no built-in
    tab.goto(address)
    yield tab
    tab.close()
    assert not errors


def first(tab):
    return tab.inner_text(".open >> nth=0")


@pytest.mark.extra
def test_the_page_searches_by_words(tab):
    tab.fill("#q", "glyph tiny")
    assert tab.inner_text("#count").startswith("1 of")
    assert first(tab) == "tiny/glyphnet"
    tab.fill("#q", "no such model")
    assert tab.inner_text("#count").startswith("0 of")
    assert not tab.is_visible("#plot")


@pytest.mark.extra
def test_the_page_filters_and_sorts_as_the_function_does(tab):
    tab.select_option("#family", "torchvision")
    tab.fill("#size", "10")
    tab.fill("#acc", "1")
    tab.click("[data-key=a]")
    names = zoo.list(family="torchvision", max_parameters=10e6, min_accuracy=1, sort="accuracy")
    assert [name.partition("@")[0] for name in tab.locator(".open").all_inner_texts()] == names
    tab.click("[data-key=a]")
    assert first(tab).partition("@")[0] == names[-1]
    assert tab.get_attribute("th >> nth=4", "aria-sort") == "ascending"


@pytest.mark.extra
def test_the_most_accurate_small_classifier_of_a_licence_takes_three_actions(tab):
    tab.select_option("#licence", "apache-2.0")
    tab.fill("#size", "10")
    tab.click("[data-key=a]")
    name = first(tab)
    expected = zoo.list(license="apache-2.0", max_parameters=10e6, sort="accuracy")[0]
    assert name.partition("@")[0] == expected
    best = max(
        weights.metrics.get("ImageNet-1K acc@1", 0)
        for model in zoo.list(max_parameters=10e6)
        for weights in zoo.info(model).weights
        if weights.licenses.weights == "apache-2.0"
    )
    card, tag = current_zoo().resolve(name)
    assert card.find(tag).metrics["ImageNet-1K acc@1"] == best


@pytest.mark.extra
@pytest.mark.parametrize("tab", [1280, 390], indirect=True)
def test_the_page_is_as_wide_as_its_window_and_its_plot_has_readable_text(tab):
    tab.click(".open >> nth=0")
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    heights = tab.evaluate("[...document.querySelectorAll('#plot text')].map(t => t.getBoundingClientRect().height)")
    assert len(heights) > 8
    assert min(heights) >= 11


@pytest.mark.extra
def test_a_row_opens_by_keyboard_to_anatomy_and_preprocessing_and_copies_its_line(tab):
    tab.keyboard.type("glyphnet")  # the search has the focus
    tab.focus(".open")
    tab.keyboard.press("Enter")
    detail = tab.inner_text(".detail")
    for part in ("fc of 64 features", "layer3: 64 channels at 1/8", "resize 32", "apache-2.0", "0.00306 GMACs"):
        assert part in detail
    assert tab.get_attribute(".open", "aria-expanded") == "true"
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.wait_for_function("document.querySelector('.copy').textContent === 'Copied'")
    assert tab.evaluate("navigator.clipboard.readText()") == 'zoo.get("tiny/glyphnet")'
    tab.keyboard.press("Shift+Tab")
    tab.keyboard.press("Enter")
    assert not tab.locator(".detail").count()


@pytest.mark.extra
def test_a_dot_of_the_plot_leads_to_its_row(tab):
    tab.fill("#q", "torchvision/resnet18")
    tab.click("#plot circle")
    assert tab.inner_text(".get") == 'zoo.get("torchvision/resnet18")'


@pytest.mark.parametrize("family", [None, "tiny"])
def test_a_licence_that_no_weights_have_is_refused_with_the_closest(family):
    with pytest.raises(UsageError, match=r"expected: one of .*mit(.|\n)*did you mean 'apache-2.0'"):
        zoo.list(license="apache", family=family)


def test_a_licence_that_no_chosen_model_has_but_others_do_gives_no_name():
    assert zoo.list(license="MIT", family="tiny") == []

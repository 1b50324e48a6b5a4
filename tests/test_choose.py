"""Choosing a model: filters of ``zoo.list``, and the page of ``zoo browse``."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from support.chromium import CHROMIUM, FLAGS
from torch.utils.flop_counter import FlopCounterMode

import zoo_core as zoo
from zoo_core.build.costs import cost_of, cost_of_run
from zoo_core.cli.browse import browse, page
from zoo_core.cli.listing import list_plainly, print_models
from zoo_core.cli.models import list_
from zoo_core.errors import UsageError
from zoo_core.registry.choose import Entry
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
        assert registry.entries(name) == [Entry.of_card(card, registry.member(card.family).costs.get(card.name))]


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
    assert count == "1 models"


@pytest.mark.parametrize("name", ["tiny/glyphnet", "resnet18", "pretrainedmodels/squeezenet1_1"])
def test_the_costs_that_ship_are_those_that_are_counted(name):
    registry = current_zoo()
    card = registry.resolve(name)[0]
    assert registry.member(card.family).costs[card.name] == cost_of(card)


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


@pytest.mark.extra
def test_the_page_searches_sorts_filters_and_copies_in_a_browser(tmp_path):
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    out = tmp_path / "zoo.html"
    CliRunner().invoke(browse, ["--out", str(out)])
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        tab = browser.new_page(viewport={"width": 390, "height": 800})
        tab.goto(out.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        tab.fill("#q", "glyphnet")
        assert tab.inner_text("#count").startswith("1 of")
        tab.focus(".open")
        tab.keyboard.press("Enter")
        assert tab.inner_text(".get") == 'zoo.get("tiny/glyphnet")'
        tab.focus(".copy")
        tab.keyboard.press("Enter")
        tab.wait_for_function("document.querySelector('.copy').textContent === 'Copied'")
        tab.fill("#q", "")
        tab.select_option("#family", "torchvision")
        tab.fill("#size", "10")
        tab.click("[data-key=a]")
        expected = zoo.list(family="torchvision", max_parameters=10e6, sort="accuracy")[0]
        tab.fill("#acc", "1")
        assert tab.inner_text(".open >> nth=0") == expected
        browser.close()

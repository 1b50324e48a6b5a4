"""Choosing a model: filters of ``zoo.list``, and the page of ``zoo browse``."""

from __future__ import annotations

import shutil

import pytest
from click.testing import CliRunner

import zoo_core as zoo
from zoo_core.cli.browse import browse, page
from zoo_core.errors import UsageError

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


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

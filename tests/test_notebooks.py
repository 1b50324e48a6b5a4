"""What a notebook shows, and the tutorials as notebooks."""

from __future__ import annotations

import runpy
from html.parser import HTMLParser
from pathlib import Path

import pytest

import zoo_core as zoo
from zoo_core.contract.anatomy import Anatomy, Head, Stage
from zoo_core.inspect.compare import Comparison, Measured
from zoo_core.inspect.summary import Summary
from zoo_core.surgery.receipt import Receipt

DOCS = Path(__file__).parent.parent / "docs"
HOSTILE = "<script>alert(1)</script>\x1b]0;owned\x07"


class Shown(HTMLParser):
    """The tags of some HTML, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags += [tag, *(name for name, _ in attrs if name.startswith("on"))]

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize(
    "value",
    [
        Receipt(HOSTILE, tag=HOSTILE, source=HOSTILE, tensors={HOSTILE: "loaded"}),
        Anatomy((Head(HOSTILE, 4, 2),), stem=(HOSTILE,), stages=(Stage(HOSTILE, (HOSTILE,), 4, 2),)),
        Anatomy((), headless=HOSTILE),
        Comparison((Measured(HOSTILE, parameters=1, latency=0.1, license=HOSTILE),), device=HOSTILE, batch_size=1),
        Summary(HOSTILE, (), (), 0, 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_html_in_a_name_is_shown_and_not_obeyed(value):
    shown = Shown(value._repr_html_())
    assert "script" not in shown.tags
    assert "<script>" in shown.text
    assert "\x1b" not in value._repr_html_()


def test_names_are_a_table_of_what_models_cost_and_give():
    names = zoo.list("resnet1*", family="torchvision")
    assert names == ["torchvision/resnet101", "torchvision/resnet152", "torchvision/resnet18"]
    shown = Shown(names._repr_html_())
    assert shown.tags.count("tr") == 4
    for words in ("torchvision/resnet18", "11.7", "acc@1", "3 models"):
        assert words in shown.text


def test_very_many_names_are_cut():
    shown = Shown(zoo.list()._repr_html_())
    assert shown.tags.count("tr") == 51
    assert "of which 50 are shown" in shown.text


def test_names_of_models_that_are_gone_are_shown_still():
    names = zoo.list("glyphnet")
    names.append("acme/net")
    assert "acme/net" in Shown(names._repr_html_()).text


def test_the_anatomy_is_a_figure_of_stem_stages_and_heads():
    shown = Shown(zoo.anatomy(zoo.get("tiny/glyphnet", num_classes=9))._repr_html_())
    assert shown.tags.count("rect") == 5
    assert "64 to 9" in shown.text
    assert "32 at 1/4" in shown.text


def test_the_receipt_names_what_is_new():
    shown = Shown(zoo.receipt(zoo.get("tiny/glyphnet", num_classes=9))._repr_html_())
    assert "fc.weight, fc.bias" in shown.text
    assert "proven" in shown.text


@pytest.mark.extra
def test_the_tutorials_run_as_notebooks_in_one_kernel(tmp_path, monkeypatch, served_resnet18):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.chdir(tmp_path)
    read = runpy.run_path(str(DOCS / "generate.py"))["notebook"]
    pages = sorted(DOCS.glob("tutorials/*.md"))
    cells = [cell for page in pages for cell in (nbformat.v4.new_code_cell("%reset -f"), *read(page).cells)]
    whole = nbformat.v4.new_notebook(cells=[nbformat.from_dict(cell) for cell in cells if cell.cell_type == "code"])
    client = nbclient.NotebookClient(whole, timeout=200, kernel_name="python3")
    client.execute()
    assert sum(cell.execution_count is not None for cell in whole.cells) == len(whole.cells)

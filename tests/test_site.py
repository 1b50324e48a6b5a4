"""The site as it is built: its links, and how it is in a browser, at the width of a desk and of a phone."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from support.chromium import CHROMIUM, FLAGS

pytestmark = pytest.mark.extra

DOCS = Path(__file__).parent.parent / "docs"
BUILT = os.environ.get("ZOO_TEST_SITE")  # read here, for no test sees a variable of zoo
LOOKED_AT = (
    *("index.html", "start.html", "concepts.html", "browser.html", "benchmarks.html", "search.html", "SETTINGS.html"),
    *("howto/index.html", "howto/look_inside.html", "tutorials/head.html", "coming_from/timm.html", "registry.html"),
    *("plugins.html", "tutorials/plugin.html", "zoo.html"),
)
"""A page of each kind, for the rules of accessibility; the reference alone takes longer than all of these."""


class Links(HTMLParser):
    """What a page links to, what it loads, and the anchors that it has."""

    def __init__(self, page):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors |= {values[key] for key in ("id", "name") if values.get(key)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        elif tag != "a":
            self.loads += [values[key] for key in ("src", "href") if values.get(key)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site: the one that ``.ci/run`` has built, or else one built now."""
    if BUILT:
        return Path(BUILT).resolve()
    pytest.importorskip("furo")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", str(DOCS), str(folder)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """Every page with its links; the sources that the reference links to are there too."""
    return {page: Links(page) for page in site.rglob("*.html") if "_static" not in page.parts}


def test_every_link_of_every_page_leads_to_a_file_and_an_anchor(site, pages):
    broken = []
    for page, found in pages.items():
        for link in [*found.links, *found.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            to = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            to = to / "index.html" if to.is_dir() else to
            anchor = unquote(parts.fragment)
            if not to.is_file() or (anchor and to in pages and anchor not in pages[to].anchors):
                broken.append(f"{page.relative_to(site)}: {link}")
    assert not broken


def test_no_page_loads_anything_from_elsewhere(site, pages):
    elsewhere = {link for found in pages.values() for link in found.loads if urlsplit(link).netloc}
    assert not elsewhere


def test_every_tutorial_links_to_its_notebook(site, pages):
    for page in (DOCS / "tutorials").glob("*.md"):
        assert f"../notebooks/{page.stem}.ipynb" in pages[site / "tutorials" / f"{page.stem}.html"].links


@pytest.fixture(scope="module")
def address(site):
    """The site on a server of this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield opened
        opened.close()


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["desk", "phone-dark"])
def tab(browser, request):
    """A tab that collects what goes wrong: errors on the console, and requests to another host."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened = context.new_page()
    opened.wrong = []
    opened.on("console", lambda message: message.type == "error" and opened.wrong.append(message.text))
    opened.on("pageerror", lambda error: opened.wrong.append(str(error)))
    hosts = ("http://127.0.0.1:", "file:", "data:", "blob:")
    opened.on("request", lambda request: request.url.startswith(hosts) or opened.wrong.append(request.url))
    yield opened
    context.close()


def test_no_page_is_wider_than_the_screen_or_has_an_error_or_asks_another_host(site, address, pages, tab):
    for page in pages:
        if "_modules" in page.parts:
            continue
        tab.goto(address + str(page.relative_to(site)))
        width = tab.evaluate("document.documentElement.scrollWidth")
        assert width <= tab.viewport_size["width"], page
    assert not tab.wrong


def test_contrast_labels_and_landmarks_are_right(address, tab):
    axe = pytest.importorskip("axe_playwright_python")
    script = Path(axe.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
    wrong = []
    for page in LOOKED_AT:
        tab.goto(address + page)
        tab.evaluate(script)
        found = tab.evaluate("axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'best-practice']})")
        wrong += [f"{page}: {each['id']}: {each['nodes'][0]['html'][:200]}" for each in found["violations"]]
    assert not wrong


def test_dark_mode_follows_the_system(address, tab):
    tab.goto(address + "index.html")
    scheme = "light" if tab.viewport_size["width"] > 400 else "dark"
    colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, colour[4:-1].split(","))) < 60) == (scheme == "dark")


def test_search_finds_pages_without_a_server(site, tab):
    tab.goto((site / "search.html").as_uri() + "?q=freeze")
    tab.wait_for_selector("#search-results li a")
    links = tab.eval_on_selector_all("#search-results li a", "all => all.map(each => each.getAttribute('href'))")
    assert any("tutorials/freeze.html" in link for link in links)
    assert not [each for each in tab.wrong if each.startswith("http")]

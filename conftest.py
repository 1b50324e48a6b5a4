"""What all tests share: an empty cache of their own, no settings from outside, one thread a process."""

from __future__ import annotations

import gc
import os
import re
import socket
import sys
import threading
import warnings
from doctest import ELLIPSIS
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from inspect import isfunction

import pytest
from sybil import Sybil
from sybil.integration.pytest import SybilItem
from sybil.parsers.markdown import PythonCodeBlockParser

# Two test processes share two cores; torch reads this when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect without garbage collection, and take what is there afterwards out of it.

    The libraries and the tests are half a million objects that stay. Each of the many collections of a run, most of
    them by the conformance kit, would look at all of them and last a third of a second.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        _freeze()


def pytest_runtest_logfinish():
    """Take out of garbage collection what a test imported too, such as a library at its first model, or dynamo."""
    if len(sys.modules) > _modules_frozen + _LIBRARY:
        gc.collect()  # garbage that were frozen would stay
        _freeze()


def _freeze():
    """Take what is there out of garbage collection, and note how many modules are."""
    global _modules_frozen  # noqa: PLW0603 - as much of the process as what is frozen
    gc.freeze()
    _modules_frozen = len(sys.modules)


_modules_frozen = 0
_LIBRARY = 100
"""So many new modules are worth it."""


def pytest_unconfigure():
    """Let the process end as any other: libraries print what of theirs is still frozen then as leaks."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _own_settings(tmp_path, monkeypatch):
    """No test sees the settings of the shell it runs in, nor shares a cache with another."""
    for name in [name for name in os.environ if name.startswith("ZOO_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ZOO_CONFIG", "0")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture(autouse=True)
def _own_registrations():
    """What a test or an example registers is gone after it."""
    yield
    registry = sys.modules.get("zoo_core.registry.zoo")  # not imported for this, since torch may not be either
    if registry and "claims" in vars(registry.current_zoo()):
        claims = registry.current_zoo().claims
        for family in [
            name for name, (member, *_) in claims.items() if member.plugin.source == "registered in this process"
        ]:
            del claims[family]
            vars(registry.current_zoo()).pop("order", None)


@pytest.fixture(autouse=True)
def _exact_arithmetic(request):
    """On a GPU: TF32 and autotuned kernels are faster, and their outputs differ from run to run."""
    if not request.node.get_closest_marker("gpu"):
        yield
        return
    before = _cudnn(deterministic=True, allow_tf32=False, benchmark=False)
    yield
    _cudnn(**before)


def _cudnn(**flags):
    """Set some of its switches; how they were."""
    from torch.backends import cudnn

    with warnings.catch_warnings(action="ignore"):  # some versions of torch call these names old
        before = {name: getattr(cudnn, name) for name in flags}
        for name, value in flags.items():
            setattr(cudnn, name, value)
    return before


def pytest_pycollect_makeitem(collector, obj):
    """Make no tests of a function that a mark leaves out: three of four are sweeps, and each worker would list them."""
    marks = {mark.name for mark in (*collector.iter_markers(), *getattr(obj, "pytestmark", ()))}
    return [] if isfunction(obj) and _excluded(collector.config) & marks else None


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc):
    """Nor make tests of the parameters that such a mark leaves out: two of three are."""
    parametrize, excluded = metafunc.parametrize, _excluded(metafunc.config)

    def without_excluded(names, values, *rest, **options):
        values = list(values)
        kept = [value for value in values if not excluded & {mark.name for mark in getattr(value, "marks", ())}]
        # where none is left pytest would make a skipped test, and names may be listed beside all of the values
        parametrize(names, values if not kept or isinstance(options.get("ids"), list) else kept, *rest, **options)

    metafunc.parametrize = without_excluded


def _excluded(config):
    """The marks that the expression of ``-m`` leaves out, whatever else a test is."""
    expression = config.option.markexpr
    return set() if " or " in expression else set(_EXCLUDED.findall(expression))


_EXCLUDED = re.compile(r"\bnot (full|sweep|extra)\b")


def pytest_collection_modifyitems(config, items):
    """Skip, visibly, what needs a GPU where there is none; and in a sweep, build each model once for all its tests."""
    _take_part(config, items)
    # The examples of a page use each other's names, and an idle worker takes tests from the end of another's list.
    items.sort(key=lambda item: not isinstance(item, SybilItem))
    if config.option.markexpr.startswith(("full", "sweep", "gpu")):
        items.sort(key=lambda item: str(item.callspec.params.get("name", "")) if hasattr(item, "callspec") else "")
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu:
        return
    import torch

    for item in gpu:  # what torch says of a GPU's settings, such as that a compiler could use TF32, is not our doing
        item.add_marker(pytest.mark.filterwarnings("default"))
    if not torch.cuda.is_available():
        for item in gpu:
            if not ("device" in item.fixturenames and os.environ.get("ZOO_TEST_DEVICE")):  # see tests/gpu
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _take_part(config, items):
    """Keep one part of the sweeps, as ``ZOO_TEST_PART=3/8`` says: all those of a model are in the same part.

    Neighbours, such as detectors or the networks of videos, take alike long, and are dealt out.
    """
    part, _, parts = os.environ.get("ZOO_TEST_PART", "").partition("/")
    if not parts:
        return
    sweeps = [item for item in items if item.get_closest_marker("sweep")]
    mine = set([*dict.fromkeys(map(_model_of, sweeps))][int(part) - 1 :: int(parts)])
    out = {item for item in sweeps if _model_of(item) not in mine}
    config.hook.pytest_deselected(items=[*out])
    items[:] = [item for item in items if item not in out]


def _model_of(item):
    """The model that a test is about, or else the test itself."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    card = parameters.get("card")
    return str(parameters.get("name") or getattr(card, "id", None) or item.nodeid)


class FileServer:
    """A real HTTP server on the loopback address that serves a folder and remembers what it was requested."""

    def __init__(self, folder):
        self.paths: list[str] = []
        paths = self.paths

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self):
                paths.append(self.path)
                super().do_GET()

            def log_message(self, *args):
                """Keep the output of the tests clean."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self):
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def file_server():
    """Serve a folder: ``file_server(folder).url``."""
    servers = []

    def serve(folder):
        servers.append(FileServer(folder))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


@pytest.fixture
def closed_port():
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def resnet18_file(tmp_path_factory):
    """An untrained resnet18 as torchvision's own file, and its digest; made once."""
    import hashlib

    import torch
    import torchvision

    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def served_resnet18(file_server, resnet18_file):
    """resnet18's default weights are a file made here and served on the loopback address, through the usual path."""
    from dataclasses import replace

    import zoo_core as zoo

    path, digest = resnet18_file
    own = zoo.Zoo()
    card = own.resolve("torchvision/resnet18")[0]
    weights = replace(card.find(), urls=(f"{file_server(path.parent).url}/{path.name}",), sha256=digest)
    own.add(replace(card, weights=(weights,)))
    with zoo.use(own):
        yield


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=ELLIPSIS)],
    patterns=["README.md", "docs/*.md", "docs/tutorials/*.md", "docs/coming_from/*.md", "plugins/*/README.md"],
    fixtures=["served_resnet18"],
).pytest()

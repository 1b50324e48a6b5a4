"""One road for bytes: every request is made in one place, and goes through few files to the published one."""

import inspect
import re
from pathlib import Path

import torch
from safetensors.torch import save
from support.loopback import sha256

import zoo_core as zoo
from zoo_core import Anatomy, Head
from zoo_core.weights.download.partial import Partial
from zoo_core.weights.transport.http import HttpSource

ROOT = Path(zoo.__file__).parent
MOST = 10


def test_requests_are_made_by_the_three_that_need_a_file():
    texts = {path.name: path.read_text("utf-8") for path in (ROOT / "weights").rglob("*.py")}
    callers = {name for name, text in texts.items() if re.search(r"^(?! *>>>).*\bRequest\(", text, re.MULTILINE)}
    assert callers == {"proven_file.py", "fetch_to_folder.py", "other_caches.py"}


def test_a_request_goes_through_few_files_on_its_way(server, monkeypatch):
    """From ``zoo.get`` to the socket, and to the file under its final name."""
    files = set()

    def watched(owner, name):
        real = getattr(owner, name)

        def call(*arguments, **options):
            files.update(Path(frame.filename) for frame in inspect.stack(context=0))
            files.add(Path(inspect.getfile(real)))
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    watched(Partial, "publish")
    watched(Partial, "write")
    watched(HttpSource, "_ask")
    data = save({"0.weight": torch.zeros(2, 2), "0.bias": torch.zeros(2)})
    anatomy = Anatomy(heads=(Head("0", in_features=2, num_classes=2),))
    net = zoo.register("acme/net", weights=server.put("/net.safetensors", data), sha256=sha256(data), anatomy=anatomy)
    net(lambda: torch.nn.Sequential(torch.nn.Linear(2, 2)))
    zoo.get("acme/net")
    road = {path.relative_to(ROOT).as_posix() for path in files if path.is_relative_to(ROOT)}
    road -= {"utils/arguments.py", "utils/gc.py", "utils/random_state.py"}  # around every public function
    assert {"build/get.py", "weights/transport/http.py", "weights/download/partial.py"} <= road
    assert len(road) <= MOST, sorted(road)

"""A bench of faults, injected one by one at both doors: the right bytes come, or a clear error.

The faults are the table of :mod:`support.faults`; what follows a fault must be right again.
"""

import shutil
from collections import Counter

import pytest
import torch
from safetensors.torch import save
from support.faults import DOORS, FAULTS, PATH, Scene
from support.loopback import sha256
from torch import nn

import zoo_core as zoo
from zoo_core import Anatomy, Head
from zoo_core.errors import ZooError
from zoo_core.weights import Cache, fetch
from zoo_core.weights.transport.policy import Policy

STATE = {"0.weight": torch.arange(15_000.0).reshape(100, 150), "0.bias": torch.arange(100.0)}
DATA = save(STATE)
DIGEST = sha256(DATA)
ANATOMY = Anatomy(heads=(Head("0", in_features=150, num_classes=100),))
POLICY = Policy(timeout=2, sleep=lambda _seconds: None)


class AtFetch:
    """``weights.fetch`` into a folder."""

    def __init__(self, url, folder, _monkeypatch):
        self.url = url
        self.folder = self.in_progress = folder
        self.final = folder / f"net-{DIGEST[:16]}.safetensors"
        self.ref = None

    def bytes(self):
        """What comes."""
        return fetch(self.url, self.folder, sha256=DIGEST, policy=POLICY).read_bytes()


class AtGet:
    """``zoo.get`` of a model with these weights."""

    def __init__(self, url, folder, monkeypatch):
        monkeypatch.setenv("ZOO_CACHE", str(folder))
        monkeypatch.setattr("zoo_core.weights.request.Policy", lambda: POLICY)
        net = zoo.register("acme/net", weights=url, sha256=DIGEST, anatomy=ANATOMY)
        net(lambda: nn.Sequential(nn.Linear(150, 100)))
        cache = Cache()
        self.folder, self.in_progress = folder, cache.arriving
        self.final = cache.place(DIGEST, "net.safetensors")
        self.ref = cache.ref_path("acme", "net", "own")

    def bytes(self):
        """What comes."""
        return save(dict(zoo.get("acme/net").state_dict()))


def cases():
    for fault in FAULTS:
        for door in fault.doors:
            at_get = door == DOORS[1]
            is_rare = fault.name.endswith((", always", "the 4. time")) or (at_get and "is continued" in fault.name)
            marks = pytest.mark.full if is_rare else ()
            yield pytest.param(fault, AtGet if at_get else AtFetch, id=f"{door}: {fault.name}", marks=marks)


@pytest.mark.parametrize(("fault", "door"), list(cases()))
def test_a_fault_is_survived(fault, door, server, tmp_path):
    url = server.put(PATH, DATA)
    with pytest.MonkeyPatch.context() as settings:
        opened = door(url, tmp_path / "folder", settings)
        opened.in_progress.mkdir(parents=True)
        with pytest.MonkeyPatch.context() as injected:
            fault.inject(Scene(server, DATA, opened.in_progress, opened.final, opened.ref, injected))
            before = everything(tmp_path / "outside", tmp_path / "folder" / "outside")
            result = outcome(opened)
        assert result == "right" or (isinstance(result, ZooError) and not fault.must_be_right), result
        assert everything(tmp_path / "outside", tmp_path / "folder" / "outside") == before
        server.scripts.clear()
        server.always.clear()
        if result != "right" and outcome(opened) != "right":  # a person removes what the error names
            remove(result.path)
            assert outcome(opened) == "right"
        assert opened.final.read_bytes() == DATA


def outcome(door):
    """That the right bytes came, or the error."""
    try:
        return "right" if door.bytes() == DATA else "wrong"
    except ZooError as error:
        return error


def remove(path):
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def everything(*paths):
    return [content(path) for path in paths]


def content(path):
    try:
        with open(path, "rb") as opened:  # noqa: PTH123 - the calls of os may be made to fail just now
            return opened.read()
    except OSError:
        return None


def test_there_are_more_faults_than_were_promised():
    count = Counter(door for fault in FAULTS for door in fault.doors)
    assert min(count[door] for door in DOORS) >= 235
    assert len({(fault.name, door) for fault in FAULTS for door in fault.doors}) == count.total()

"""What only a CUDA device can show: its memory, and who wakes it up. Graphs have ``test_compiled.py``."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

import zoo_core as zoo

pytestmark = pytest.mark.gpu

PEAKS = """
import hashlib, json, sys, threading, time, torch
from dataclasses import replace
from pathlib import Path
import zoo_core as zoo
from zoo_core.build.place import buffer_bytes

def anonymous():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("RssAnon"))

name, path, device, options = sys.argv[1], Path(sys.argv[2]), sys.argv[3], eval(sys.argv[4])
on_gpu = device.startswith("cuda")
own = zoo.Zoo()
card = own.resolve(name)[0]
digest = hashlib.sha256(path.read_bytes()).hexdigest()
entry = replace(card.find(), urls=(path.as_uri(),), sha256=digest, size=path.stat().st_size)
own.add(replace(card, weights=(entry,), default=entry.tag))
with zoo.use(own):
    zoo.get(name)                                             # into the cache
    zoo.get("tiny/glyphnet", device=device, **options)          # what is imported and woken up once is not the model's

if on_gpu:
    torch.cuda.synchronize(); torch.cuda.empty_cache(); torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_allocated()
before, most, watching = anonymous(), 0, True
def watch():
    global most
    while watching:
        most = max(most, anonymous() - before)
        time.sleep(0.001)  # peaks shorter than this are missed; looking more often would slow what is looked at
watcher = threading.Thread(target=watch); watcher.start()
with zoo.use(own):
    model = zoo.get(name, device=device, **options)
if on_gpu:
    torch.cuda.synchronize()
watching = False; watcher.join()
tensors = [*model.parameters(), *model.buffers()]
pinned = 2 * buffer_bytes(zoo.get(name, weights=None, device="meta")) if on_gpu else 0   # no page of these is anonymous
weights = sum(each.nbytes for each in tensors)
print(json.dumps({
    "device": (torch.cuda.max_memory_allocated() - start) / weights if on_gpu else None,
    "host": (most + pinned) / path.stat().st_size,
}))
"""
FAMILIES = {
    "tiny": "glyphnet",
    "torchvision": "resnet18",
    "timm": "test_resnet",
    "efficientnet_pytorch": "efficientnet-b0",
    "pretrainedmodels": "resnet18",
}


def run(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


INSTALLED = {name.partition("/")[0] for name in zoo.list()}


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("family", [name for name in FAMILIES if name in INSTALLED])
def test_nothing_wakes_the_gpu_before_it_is_asked_for(family, folder):
    code = (
        "import json, sys, torch, zoo_core as zoo; zoo.list(); zoo.info(sys.argv[1])\n"
        "model = zoo.get(sys.argv[1], weights=None, num_classes=9, in_channels=4, seed=0, freeze='backbone')\n"
        "zoo.swap_head(model, zoo.mlp_head(3, hidden=(4,)), seed=1)\n"
        "zoo.init_weights(model, 'orthogonal', where='new', seed=2)\n"
        "zoo.param_groups(zoo.load(zoo.save(model, sys.argv[2])), lr=1)\n"
        "zoo.encoder(sys.argv[1], weights=None)\n"
        "print(json.dumps(torch.cuda.is_initialized()))"
    )
    assert run(code, f"{family}/{FAMILIES[family]}", folder / "saved") is False


def test_nothing_comes_to_lie_on_a_default_device_that_was_not_asked_for(device, folder):
    if device.type != "cuda":
        pytest.skip("tests/test_default_device.py shows the same with the meta device")
    zoo.get("tiny/glyphnet", device=device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.device(device):
        model = zoo.get("resnet18", weights=None, num_classes=9, device="cpu", seed=0)
        zoo.swap_head(model, zoo.mlp_head(3, hidden=(4,)), at="features")
        zoo.swap_head(model, 3)
        zoo.encoder(model, output_stride=16)
        zoo.load(zoo.save(model, folder / "saved"), device="cpu")
        branched = zoo.branch(zoo.get("tiny/glyphnet", device="cpu"), at="layer3", heads={"a": 2})
    assert {each.device.type for each in (*model.parameters(), *branched.parameters())} == {"cpu"}
    assert torch.cuda.max_memory_allocated() == before


def test_a_default_device_is_where_models_go(device):
    with torch.device(device):
        model = zoo.get("tiny/glyphnet", num_classes=9)
    assert {each.device.type for each in (*model.parameters(), *model.buffers())} == {device.type}


LOADS = {
    "vit_l_16": ("vit_l_16", "{}"),
    "vit_l_16 in bfloat16": ("vit_l_16", "{'dtype': 'bfloat16'}"),
    "resnet50": ("resnet50", "{}"),
    "resnet50 with its channels last": ("resnet50", "{'channels_last': True}"),
    "resnet50 in bfloat16 with its channels last": ("resnet50", "{'dtype': 'bfloat16', 'channels_last': True}"),
}


@pytest.mark.parametrize(("name", "options"), LOADS.values(), ids=LOADS)
def test_loading_takes_little_more_memory_than_the_weights(folder, device, name, options):
    if device.type != "cuda" and options != "{}":
        pytest.skip("on the CPU what is converted or laid out anew is a second copy of the file, and has to be")
    path = folder / f"{name}.pth"
    torch.save(zoo.get(name, weights=None).state_dict(), path)
    peaks = run(PEAKS, f"torchvision/{name}", path, device, options)
    assert peaks["device"] is None or peaks["device"] <= 1.05
    assert peaks["host"] <= 0.2

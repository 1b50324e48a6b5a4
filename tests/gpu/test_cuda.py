"""What only a CUDA device can show: its memory, its graphs, and who wakes it up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import zoo_core as zoo

pytestmark = pytest.mark.gpu

PEAKS = """
import hashlib, json, sys, threading, time, torch, torchvision
from dataclasses import replace
from pathlib import Path
import zoo_core as zoo, zoo_core.build

def anonymous():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("RssAnon"))

path = Path(sys.argv[1])
own = zoo.Zoo()
card = own.resolve("torchvision/vit_l_16")[0]
digest = hashlib.sha256(path.read_bytes()).hexdigest()
entry = replace(card.find(), urls=(path.as_uri(),), sha256=digest, size=path.stat().st_size)
own.member("torchvision").cards["vit_l_16"] = replace(card, weights=(entry,), default=entry.tag)
with zoo.use(own):
    zoo.get("vit_l_16")                                   # into the cache

torch.zeros(1, device="cuda"); torch.cuda.synchronize()
zoo.get("resnet18", weights=None, device="cuda")          # what CUDA and cuDNN load once is not the model's
before, most = anonymous(), 0
torch.cuda.reset_peak_memory_stats(); start = torch.cuda.memory_allocated()

watching = True
def watch():
    global most
    while watching:
        most = max(most, anonymous() - before)
        time.sleep(0.002)
watcher = threading.Thread(target=watch); watcher.start()
with zoo.use(own):
    model = zoo.get("vit_l_16", device="cuda")
torch.cuda.synchronize(); watching = False; watcher.join()
print(json.dumps({
    "weights": sum(p.nbytes for p in model.parameters()),
    "device": torch.cuda.max_memory_allocated() - start,
    "host": most,
}))
"""


def run(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_nothing_wakes_the_gpu_before_it_is_asked_for():
    code = (
        "import json, torch, zoo_core as zoo; zoo.list(); zoo.info('resnet18'); m = zoo.get('resnet18', weights=None)\n"
        "zoo.freeze(zoo.swap_head(m, 9)); print(json.dumps(torch.cuda.is_initialized()))"
    )
    assert run(code) is False


@pytest.mark.parametrize("name", ["resnet18", "vit_b_32"])
def test_a_swapped_model_runs_in_a_cuda_graph(name):
    model = zoo.get(name, weights=None, num_classes=9, device="cuda").eval()
    x = torch.randn(2, 3, 224, 224, device="cuda")
    with torch.no_grad():
        expected = model(x)
        found = torch.cuda.make_graphed_callables(model, (x,))(x).clone()
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "vit_b_32"])
def test_a_swapped_model_compiles_with_reduced_overhead(name):
    model = zoo.get(name, weights=None, num_classes=9, device="cuda", freeze="backbone").eval()
    x = torch.randn(2, 3, 224, 224, device="cuda")
    with torch.no_grad():
        expected = model(x)
        compiled = torch.compile(model, mode="reduce-overhead")
        for _ in range(3):
            found = compiled(x).clone()
    assert torch.allclose(found, expected, atol=1e-3)


def test_a_default_device_changes_nothing_that_was_not_asked_for():
    with torch.device("cuda"):
        model = zoo.get("resnet18", weights=None, num_classes=9, device="cpu")
    assert {each.device.type for each in (*model.parameters(), *model.buffers())} == {"cpu"}


def test_loading_takes_little_more_memory_than_the_weights(tmp_path):
    path = tmp_path / "vit_l_16.pth"
    torch.save(zoo.get("vit_l_16", weights=None).state_dict(), path)
    peaks = run(PEAKS, path)
    assert peaks["device"] <= 1.05 * peaks["weights"]
    assert peaks["host"] <= 0.2 * peaks["weights"]


def test_models_on_two_gpus_keep_their_halves(tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only; tests/surgery/test_two_devices.py shows the same with the meta device")
    model = zoo.get("resnet18", weights=None, device="cuda:0")
    model.fc.to("cuda:1")
    assert zoo.swap_head(model, 9).fc.weight.device == torch.device("cuda:1")
    assert Path(zoo.save(model, tmp_path / "saved")).is_dir()

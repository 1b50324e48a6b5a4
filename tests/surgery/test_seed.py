"""A seed makes what is drawn reproducible, and every generator is afterwards as it was: those of GPUs too."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support.unchained import unchained

import zoo_core as zoo

MOVES = {
    "get": lambda _: zoo.get("tiny/glyphnet", num_classes=9, seed=5),
    "swap_head": lambda _: zoo.swap_head(zoo.get("tiny/glyphnet"), 9, seed=5),
    "swap_head at the features": lambda _: zoo.swap_head(zoo.get("tiny/glyphnet"), 9, at="features", seed=5),
    "adapt_stem": lambda _: zoo.adapt_stem(zoo.get("tiny/glyphnet"), 4, policy="random", seed=5),
    "branch": lambda _: zoo.branch(zoo.get("tiny/glyphnet"), at="layer3", heads={"a": 2, "b": 3}, seed=5),
    "branch of unchained stages": lambda _: zoo.branch(
        unchained(zoo.get("tiny/glyphnet")), at="layer3", heads={"a": 2}, seed=5
    ),
    "init_weights": lambda _: zoo.init_weights(zoo.get("tiny/glyphnet"), "xavier_uniform", seed=5),
    "save and load": lambda folder: zoo.load(zoo.save(zoo.get("tiny/glyphnet"), folder)),
    "encoder": lambda _: zoo.encoder("tiny/glyphnet", seed=5),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_the_random_state_is_as_it_was(move, tmp_path):
    before = torch.get_rng_state()
    move(tmp_path / "saved")
    assert torch.equal(torch.get_rng_state(), before)


def test_threads_with_a_seed_draw_what_each_would_alone():
    start = threading.Barrier(4)

    def draw(number):
        start.wait()
        seed = number if number < 3 else None  # the last draws from the generator of all threads
        return zoo.get("tiny/glyphnet", weights=None, num_classes=9, seed=seed).state_dict()

    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for number, state in enumerate([*pool.map(draw, range(4))][:3]):
                alone = zoo.get("tiny/glyphnet", weights=None, num_classes=9, seed=number).state_dict()
                assert all(torch.equal(state[name], alone[name]) for name in alone)


FORK = """
import os, signal, threading, time, torch
from zoo_core.utils.random_state import seeded

torch.manual_seed(123)
drawing = threading.Event()
def draw():
    with seeded(0):
        drawing.set()
        torch.empty(20_000_000).normal_()  # torch holds the lock of its generator meanwhile
threading.Thread(target=draw).start()
drawing.wait()
child = os.fork()
if not child:
    signal.alarm(20)
    seed = torch.initial_seed()
    torch.manual_seed(1)  # as the worker of a DataLoader does first
    os._exit(0 if seed == 123 else 1)
raise SystemExit(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_that_is_forked_while_a_thread_draws_has_the_generator_of_the_user():
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=True, timeout=60)


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_no_generator_of_a_gpu_is_seeded(move, tmp_path, monkeypatch):
    seeds = []
    for module in (torch.cuda, torch.mps, torch.xpu):
        for name in ("manual_seed", "manual_seed_all"):
            monkeypatch.setattr(module, name, seeds.append, raising=False)
    torch.manual_seed(1)
    assert seeds, "torch.manual_seed seeds them, which is what zoo must not do"
    seeds.clear()
    move(tmp_path / "saved")
    assert not seeds


def test_the_draws_are_those_of_torch_for_that_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expected = torch.nn.Linear(64, 9).weight
    assert torch.equal(zoo.get("tiny/glyphnet", num_classes=9, seed=5).fc.weight, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_the_random_state_of_a_gpu_is_as_it_was(move, tmp_path):
    torch.cuda.manual_seed_all(123)
    before = torch.cuda.get_rng_state_all()
    move(tmp_path / "saved")
    assert all(map(torch.equal, torch.cuda.get_rng_state_all(), before))


@pytest.mark.gpu
def test_a_model_on_a_gpu_is_initialized_from_the_seed_and_its_generator_put_back():
    model = zoo.get("tiny/glyphnet", device="cuda")
    before = torch.cuda.get_rng_state()
    first = zoo.init_weights(model, "normal", seed=5).fc.weight.clone()
    assert torch.equal(torch.cuda.get_rng_state(), before)
    torch.randn(3, device="cuda")
    assert torch.equal(zoo.init_weights(model, "normal", seed=5).fc.weight, first)


@pytest.mark.gpu
def test_a_seed_means_the_same_head_on_a_gpu():
    there = zoo.swap_head(zoo.get("tiny/glyphnet", device="cuda"), 9, seed=5)
    here = zoo.swap_head(zoo.get("tiny/glyphnet"), 9, seed=5)
    assert torch.equal(there.fc.weight.cpu(), here.fc.weight)

"""Models that `torchrun` trains on two processes, in DDP and sharded by `fully_shard`, beside the same in one."""

from __future__ import annotations

import copy
import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import zoo_core as zoo
from zoo_core.errors import ZooError

RANKS = 2
BATCH = 4
REFUSED = {
    "swap_head": lambda model: zoo.swap_head(model, 3),
    "branch": lambda model: zoo.branch(model, at="layer3", heads={"a": 2}),
    "adapt_stem": lambda model: zoo.adapt_stem(model, 3),
    "init_weights": lambda model: zoo.init_weights(model, "xavier_normal"),
    "load_partial": lambda model: zoo.load_partial(model, {}),
}


def images():
    return torch.randn(RANKS * BATCH, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def trained():
    """A pretrained net with a new head, half of it frozen; in eval mode, since batch norm sees only its own shard."""
    return zoo.freeze(zoo.get("tiny/glyphnet", num_classes=5, seed=0).eval(), until="layer3")


def steps(model, x, count=2):
    """Train, and say the scores before."""
    optimizer = torch.optim.SGD(zoo.param_groups(model, lr=1e-2, head_lr=1e-1))
    first = model(x)
    for _ in range(count):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(len(x)) % BATCH).backward()
        optimizer.step()
    return first.detach()


def said(call, *args):
    try:
        call(*args)
    except ZooError as error:
        return str(error)
    return ""


def in_data_parallel(rank, folder):
    """Surgery before and after DDP wraps a model, two steps, and a save that every process makes and loads."""
    wrapped = DistributedDataParallel(zoo.swap_head(trained(), 3))
    zoo.swap_head(wrapped, 4)
    steps(wrapped, images()[rank * BATCH :][:BATCH])
    zoo.save(wrapped, folder / "data parallel")
    dist.barrier()
    loaded = zoo.load(folder / "data parallel").eval()
    with torch.no_grad():
        return {"scores": wrapped(images()), "scores of the save": loaded(images())}


def sharded(rank, folder):
    """What one of the processes does to a sharded model and sees."""
    mesh = init_device_mesh("cpu", (RANKS,))
    model = trained()
    for stage in zoo.anatomy(model).stages:
        for path in stage.modules:
            fully_shard(model.get_submodule(path), mesh=mesh)
    fully_shard(model, mesh=mesh)
    local = sum(each.to_local().numel() for each in model.parameters())
    before = copy.deepcopy(model.state_dict())
    x = images()[rank * BATCH :][:BATCH]
    with torch.no_grad():
        maps, vectors = zoo.features(model, x, at=["layer2"])["layer2"], zoo.split(model)[0](x)
    seen = {
        "maps": maps,
        "vectors": vectors,
        "local": local,
        "refused": {name: said(call, model) for name, call in REFUSED.items()},
        "scores": steps(model, x),
        "trainable": [name for name, each in model.named_parameters() if each.requires_grad],
        "drift": zoo.drift(model, before),
    }
    with torch.no_grad():
        model.get_parameter("stem.0.weight").add_(0.5)
    seen["moved"] = zoo.drift(model, before)
    zoo.save(model, f"{folder}/saved")
    zoo.unfreeze(zoo.freeze(model, "all"), "fc")
    model.zero_grad()
    model(x).sum().backward()
    seen["learns"] = [name for name, each in model.named_parameters() if each.grad is not None]
    (folder / "file").write_text("somebody else's", encoding="utf-8")
    seen["failed save"] = said(zoo.save, model, folder / "file")
    return seen


def one_rank(folder):
    """What one of the processes that torchrun starts does and sees, written down for the tests."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    torch.save({"in data parallel": in_data_parallel(rank, folder), **sharded(rank, folder)}, folder / f"seen{rank}")
    dist.barrier()  # a group that goes while the other process still uses it can abort that process
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    command = [*launcher, "--nproc-per-node", str(RANKS), __file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def seen(folder):
    return [torch.load(folder / f"seen{rank}") for rank in range(RANKS)]


@pytest.fixture(scope="module")
def whole():
    """The same training in one process."""
    model = trained()
    with torch.no_grad():
        model.maps = zoo.features(model, images(), at=["layer2"])["layer2"]
        model.vectors = zoo.split(model)[0](images())
    model.before = steps(model, images())
    return model


def test_in_data_parallel_both_processes_train_one_model_and_load_what_was_saved(seen):
    first, second = (each["in data parallel"] for each in seen)
    assert first["scores"].shape == (RANKS * BATCH, 4)
    for found in (first["scores of the save"], second["scores"], second["scores of the save"]):
        assert torch.equal(found, first["scores"])


def test_each_process_holds_its_part_only(seen, whole):
    total = sum(each.numel() for each in whole.parameters())
    assert sum(each["local"] for each in seen) == total
    assert max(each["local"] for each in seen) < 0.6 * total


def test_the_scores_are_those_of_the_whole_model(seen, whole):
    assert torch.allclose(torch.cat([each["scores"] for each in seen]), whole.before, atol=1e-5)


@pytest.mark.parametrize("what", ["maps", "vectors"])
def test_features_and_the_backbone_are_those_of_the_whole_model(seen, whole, what):
    assert torch.allclose(torch.cat([each[what] for each in seen]), getattr(whole, what), atol=1e-5)


def test_what_trains_is_the_same(seen, whole):
    expected = [name for name, each in whole.named_parameters() if each.requires_grad]
    assert [each["trainable"] for each in seen] == [expected] * RANKS


def test_freezing_afterwards_leaves_gradients_in_the_head_alone(seen):
    assert [each["learns"] for each in seen] == [["fc.weight", "fc.bias"]] * RANKS


def test_what_is_frozen_does_not_drift(seen):
    assert [each["drift"] for each in seen] == [{}] * RANKS


def test_drift_measures_the_whole_tensor_on_every_process(seen):
    assert [each["moved"] for each in seen] == [{"stem.0.weight": pytest.approx(0.5)}] * RANKS


def test_the_save_is_that_of_the_model_trained_in_one_process(folder, whole):
    found = zoo.load(folder / "saved")
    assert type(found) is type(whole)
    with torch.no_grad():
        found.stem[0].weight -= 0.5
    expected = whole.state_dict()
    assert list(found.state_dict()) == list(expected)
    assert all(torch.allclose(found.state_dict()[name], expected[name], atol=1e-5) for name in expected)
    assert zoo.anatomy(found).main.num_classes == 5
    assert not found.layer2.conv1.weight.requires_grad


@pytest.mark.parametrize("verb", REFUSED)
def test_verbs_that_put_new_tensors_in_are_refused_with_the_way_out(seen, verb):
    for each in seen:
        assert f"zoo.{verb} cannot change a model that is sharded" in each["refused"][verb]
        assert "first, then fully_shard(model)" in each["refused"][verb]


def test_a_save_that_fails_on_the_first_process_fails_on_all(seen):
    assert [("is something else than a save of zoo" in each["failed save"]) for each in seen] == [True] * RANKS


def test_a_model_in_one_piece_is_not_taken_for_a_sharded_one(tmp_path):
    assert zoo.save(zoo.swap_head(trained(), 3), tmp_path / "saved").is_dir()


def memory_of_one_rank(rank, folder):
    """Anonymous memory, the kind that is not a page of the file, after ``get`` and at most while sharding; in bytes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=RANKS)
    mesh = init_device_mesh("cpu", (RANKS,))
    with zoo.use(published(folder)):
        zoo.get("resnet18", weights=None)  # what is imported on the way is not the model's
        before = anonymous()
        model = zoo.get("vit_b_16", num_classes=9, seed=0)
    loaded, most = anonymous() - before, 0
    for stage in zoo.anatomy(model).stages:
        for path in stage.modules:
            fully_shard(model.get_submodule(path), mesh=mesh)
            most = max(most, anonymous() - before)
    fully_shard(model, mesh=mesh)
    most = max(most, anonymous() - before)
    weights = sum(each.numel() * each.element_size() for each in model.parameters())  # of whole tensors
    torch.save({"loaded": loaded / weights, "most": most / weights}, folder / f"memory{rank}")
    dist.destroy_process_group()


def published(folder):
    """A registry whose vit_b_16 has the file in this folder for its weights."""
    own, path = zoo.Zoo(), folder / "weights.pth"
    card = own.resolve("torchvision/vit_b_16")[0]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = replace(card.find(), urls=(path.as_uri(),), sha256=digest, size=path.stat().st_size)
    own.add(replace(card, weights=(entry,), default=entry.tag))
    return own


def anonymous():
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon"))


@pytest.mark.full
def test_no_process_ever_holds_more_than_its_shard(tmp_path):
    torch.save(zoo.get("torchvision/vit_b_16", weights=None).state_dict(), tmp_path / "weights.pth")
    torch.multiprocessing.spawn(memory_of_one_rank, (tmp_path,), nprocs=RANKS)
    for rank in range(RANKS):
        memory = torch.load(tmp_path / f"memory{rank}")
        assert memory["loaded"] < 0.1
        assert memory["most"] < 0.6


if __name__ == "__main__":  # as torchrun starts it
    one_rank(Path(sys.argv[1]))

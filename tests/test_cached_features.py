"""Cached features: computed once, recognized by what they depend on, continued, and never silently wrong."""

from __future__ import annotations

import pickle
from functools import partial
from types import MethodType, SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import zoo_core as zoo
from zoo_core.embedding import feature_files as rows_module
from zoo_core.embedding.cached_features import Batches, room_on
from zoo_core.embedding.digests import digest_of_module, unknown_in
from zoo_core.errors import CacheError, UsageError, ZooWarning
from zoo_core.weights import Cache
from zoo_core.weights.cache import pruning

TOTAL = 50


class Images(Dataset):
    """Images that can be changed, counted, and that can break off."""

    def __init__(self, total=TOTAL, breaks_at=None):
        self.images = torch.randn(total, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        self.breaks_at = breaks_at
        self.preprocess = lambda image: image
        self.read = []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if index == self.breaks_at:
            raise InterruptedError
        self.read.append(index)
        return self.preprocess(self.images[index]), index % 7


class Backbone(nn.Sequential):
    """Convolution, norm, dropout and a pool; it counts what passes through it."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.requires_grad_(False)
        self.scale = 1.0
        self._seen = SimpleNamespace(images=0)

    @property
    def seen(self):
        return self._seen.images

    @seen.setter
    def seen(self, count):
        self._seen.images = count

    def forward(self, x):
        self._seen.images += len(x)
        return super().forward(x) * self.scale


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return Backbone()


def test_the_features_are_those_of_the_backbone_in_eval_mode(backbone):
    kept = zoo.cached_features(backbone, data := Images(), batch_size=TOTAL)
    assert torch.equal(kept.features, backbone.eval()(data.images))
    assert kept.targets.tolist() == [index % 7 for index in range(TOTAL)]
    assert not kept.features.requires_grad


def test_every_module_is_in_its_mode_again(backbone):
    backbone.train()[1].eval()
    zoo.cached_features(backbone, Images())
    assert [module.training for module in backbone] == [True, False, True, True, True]


def test_the_second_time_nothing_is_computed(backbone):
    first = zoo.cached_features(backbone, Images())
    seen = backbone.seen
    second = zoo.cached_features(backbone, Images())
    assert (backbone.seen, seen) == (TOTAL, TOTAL)
    assert torch.equal(first.features, second.features)


CHANGES = {
    "a weight": lambda backbone, _data: backbone[0].weight[0, 0, 0, 0].add_(1),
    "a running mean": lambda backbone, _data: backbone[1].running_mean[0].add_(1),
    "settings": lambda backbone, _data: setattr(backbone[0], "settings", {"scale": 5.0}),
    "a tensor that is no buffer": lambda backbone, _data: setattr(backbone, "scale", torch.tensor(5.0)),
    "an operation": lambda backbone, _data: setattr(backbone, "act", partial(torch.clamp, min=1.0)),
    "a method": lambda backbone, _data: setattr(
        backbone[0], "_conv_forward", lambda x, *_: x[:, :1] + torch.zeros(5, 1, 1)
    ),
    "a bound method": lambda backbone, _data: setattr(
        backbone[0], "_conv_forward", MethodType(lambda _, x, *__: x[:, :1] + torch.zeros(5, 1, 1), backbone[0])
    ),
    "a setting": lambda backbone, _data: setattr(backbone, "scale", 5.0),
    "a hook": lambda backbone, _data: backbone[0].register_forward_hook(lambda _module, _inputs, output: output * 0),
    "a hook before": lambda backbone, _data: backbone[0].register_forward_pre_hook(
        lambda _module, inputs: inputs[0] * 2
    ),
    "a forward of its own": lambda backbone, _data: setattr(backbone[4], "forward", lambda x: x.flatten(1) * 2),
    "the structure": lambda backbone, _data: setattr(backbone[0], "padding", (1, 1)),
    "an image": lambda _backbone, data: data.images[0].add_(1),
    "the preprocessing": lambda _backbone, data: setattr(data, "preprocess", lambda image: image * 2),
    "the length": lambda _backbone, data: setattr(data, "images", data.images[:-1]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_features_are_computed_anew_after_a_change(backbone, change):
    data = Images()
    zoo.cached_features(backbone, data)
    seen = backbone.seen
    change(backbone, data)
    zoo.cached_features(backbone, data)
    assert backbone.seen == seen + len(data)


@pytest.mark.parametrize("factor", [2.0, 3.0])
def test_a_hook_is_known_by_its_code_and_the_numbers_it_holds(backbone, factor):
    def hook(_module, _inputs, output):
        return output * factor

    plain = zoo.cached_features(backbone, data := Images()).features
    backbone.register_forward_hook(hook)
    for _ in range(2):
        assert torch.equal(zoo.cached_features(backbone, data).features, plain * factor)
    assert backbone.seen == 2 * TOTAL


FACTORS = {"factor": torch.tensor(2.0)}


def factor_of_all():
    return FACTORS["factor"]


def test_a_hook_is_known_by_the_global_values_that_its_functions_use(backbone, monkeypatch):
    backbone.register_forward_hook(lambda _module, _inputs, output: nn.functional.relu(output) * factor_of_all())
    first = zoo.cached_features(backbone, data := Images()).features
    assert backbone.seen == TOTAL
    monkeypatch.setitem(FACTORS, "factor", torch.tensor(3.0))
    assert torch.allclose(zoo.cached_features(backbone, data).features, first * 1.5)


def test_features_behind_an_unknown_hook_are_computed_each_time_until_it_is_removed(backbone):
    settings = SimpleNamespace(factor=2.0)
    handle = backbone.register_forward_hook(lambda _module, _inputs, output: output * settings.factor)
    for factor in (2.0, 3.0):
        settings.factor = factor
        with pytest.warns(ZooWarning, match="computed anew each time.*remove it"):
            kept = zoo.cached_features(backbone, data := Images(), batch_size=TOTAL)
        assert torch.equal(kept.features, backbone.eval()(data.images))
    handle.remove()
    first, second = (zoo.cached_features(backbone, data) for _ in range(2))
    assert first.folder == second.folder


def test_features_under_autocast_are_others(backbone):
    with torch.autocast("cpu", torch.bfloat16):
        cast = zoo.cached_features(backbone, data := Images()).features
    assert cast.dtype == torch.bfloat16
    assert zoo.cached_features(backbone, data).features.dtype == torch.float32


@pytest.mark.parametrize("name", ["resnet18", "timm/test_vit", "timm/test_efficientnet"])
def test_the_digest_of_a_backbone_knows_its_settings_and_no_mode_or_number_of_classes(name):
    models = [zoo.get(name, weights=None, num_classes=count, seed=0) for count in (3, 4)]
    zoo.freeze(models[1].train())
    first, second = (zoo.split(model)[0] for model in models)
    second.load_state_dict(first.state_dict())
    assert digest_of_module(first.eval()) == digest_of_module(second)
    assert not unknown_in(first)
    assert not unknown_in(torch.compile(first))
    next(each for each in second.modules() if hasattr(each, "eps")).eps = 0.5
    assert digest_of_module(first) != digest_of_module(second)


class Scaled(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) * 2


class ScaledMore(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) * 3


@pytest.mark.parametrize(
    "way", [torch.fx.symbolic_trace, lambda module: torch.jit.trace(module, torch.ones(1, 3, 4, 4))]
)
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_traced_backbone_is_known_by_its_code(way):
    first, again, other = (way(kind()) for kind in (Scaled, Scaled, ScaledMore))
    assert digest_of_module(first) == digest_of_module(again) != digest_of_module(other)
    assert not unknown_in(first)


def test_another_pooling_of_a_transformer_gives_other_features():
    model = zoo.get("timm/test_vit", weights=None, num_classes=3, freeze="backbone")
    before = digest_of_module(zoo.split(model)[0])
    model.global_pool = "avg"
    assert digest_of_module(zoo.split(model)[0]) != before


def test_features_are_computed_anew_for_data_of_another_name(backbone):
    zoo.cached_features(backbone, Images(), data="v1")
    zoo.cached_features(backbone, Images(), data="v2")
    assert backbone.seen == 2 * TOTAL


def test_an_interrupted_run_is_continued(backbone):
    whole = zoo.cached_features(backbone, Images(), batch_size=8, data="in one go")
    backbone.seen = 0
    with pytest.raises(InterruptedError):
        zoo.cached_features(backbone, Images(breaks_at=35), batch_size=8)
    assert backbone.seen == 32
    continued = zoo.cached_features(backbone, Images(), batch_size=8)
    assert backbone.seen == TOTAL
    assert torch.equal(continued.features, whole.features)
    assert torch.equal(continued.targets, whole.targets)


def test_rows_that_a_killed_process_wrote_half_are_dropped(backbone, tmp_path):
    with pytest.raises(InterruptedError):
        zoo.cached_features(backbone, Images(breaks_at=35), batch_size=8, folder=tmp_path)
    for path in tmp_path.glob("*/*.partial"):
        with path.open("ab") as file:
            file.write(b"half a row")
    continued = zoo.cached_features(backbone, data := Images(), batch_size=8, folder=tmp_path)
    assert torch.allclose(continued.features, backbone.eval()(data.images), atol=1e-6)


@pytest.mark.parametrize("left", ["{}", "nonsense", '{"rows": 9, "features": 1, "targets": 2}', None])
def test_what_an_interrupted_run_left_is_begun_again_when_it_makes_no_sense(backbone, tmp_path, left):
    with pytest.raises(InterruptedError):
        zoo.cached_features(backbone, Images(breaks_at=35), batch_size=8, folder=tmp_path)
    note = next(tmp_path.glob("*/so_far.json"))
    if left is None:
        next(tmp_path.glob("*/features.partial")).unlink()
    else:
        note.write_text(left)
    continued = zoo.cached_features(backbone, data := Images(), batch_size=8, folder=tmp_path)
    assert torch.allclose(continued.features, backbone.eval()(data.images), atol=1e-6)
    assert backbone.seen == 32 + TOTAL + TOTAL


def test_half_a_run_is_never_visible(backbone, tmp_path):
    with pytest.raises(InterruptedError):
        zoo.cached_features(backbone, Images(breaks_at=35), batch_size=8, folder=tmp_path)
    assert not list(tmp_path.glob("*/*.bin"))
    assert rows_module.read_rows(next(tmp_path.glob("*/"))) is None


DAMAGE = {
    "a flipped bit": lambda folder: flip(folder / "features.bin"),
    "half a file": lambda folder: (folder / "targets.bin").write_bytes((folder / "targets.bin").read_bytes()[:99]),
    "a file that is gone": lambda folder: (folder / "features.bin").unlink(),
    "a record of nonsense": lambda folder: (folder / "whole.json").write_text('{"rows": "many"}'),
}


def flip(path):
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_noticed_and_the_features_computed_again(backbone, damage):
    first = zoo.cached_features(backbone, Images())
    expected = first.features.clone()
    damage(first.folder)
    assert torch.equal(zoo.cached_features(backbone, Images()).features, expected)
    assert backbone.seen == 2 * TOTAL


def test_changing_what_is_returned_leaves_the_files_as_they_were(backbone):
    kept = zoo.cached_features(backbone, Images())
    expected = kept.features.clone()
    kept.features.zero_()
    assert torch.equal(zoo.cached_features(backbone, Images()).features, expected)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_data_loader_gives_batches_of_them(backbone, shuffle):
    kept = zoo.cached_features(backbone, Images())
    batches = list(DataLoader(kept, batch_size=16, shuffle=shuffle))
    assert [tuple(features.shape) for features, _ in batches] == [(16, 5)] * 3 + [(2, 5)]
    assert sorted(torch.cat([targets for _, targets in batches]).tolist()) == sorted(kept.targets.tolist())


def test_a_copy_for_a_worker_process_holds_the_path_and_no_numbers(backbone):
    kept = zoo.cached_features(backbone, Images())
    message = pickle.dumps(kept)
    assert len(message) < 500
    assert torch.equal(pickle.loads(message).features, kept.features)


def test_features_keep_their_dtype_and_their_shape(backbone):
    data = Images()
    data.preprocess = lambda image: image.bfloat16()
    maps = nn.Sequential(backbone[0], backbone[1]).bfloat16()
    kept = zoo.cached_features(maps, data, batch_size=TOTAL)
    assert (kept.features.dtype, kept.features.shape) == (torch.bfloat16, (TOTAL, 5, 6, 6))
    assert torch.equal(kept.features, maps.eval()(data.images.bfloat16()))


def test_a_backbone_that_can_be_trained_is_refused_with_the_way_out():
    backbone, _ = zoo.split(zoo.get("tiny/glyphnet"))
    with pytest.raises(UsageError, match=r"require a gradient(.|\n)*zoo\.freeze"):
        zoo.cached_features(backbone, Images())


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


class Gives(Dataset):
    def __init__(self, sample):
        self.sample = sample

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.sample


REFUSED = {
    "a stream": (Stream(), "does not give its samples by index"),
    "nothing": (Images(0), "empty"),
    "images without targets": (Gives(torch.zeros(3, 8, 8)), r"\(image, target\)"),
    "triples": (Gives((torch.zeros(3, 8, 8), 1, 2)), r"\(Tensor, int, int\)"),
    "images that are no tensors": (Gives(("image", 1)), r"\(str, int\)"),
    "targets in words": (Gives((torch.zeros(3, 8, 8), "cat")), "a target of type str"),
}


@pytest.mark.parametrize(("dataset", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_kept_is_refused(backbone, dataset, said):
    with pytest.raises(UsageError, match=said):
        zoo.cached_features(backbone, dataset)


def test_a_backbone_that_gives_no_tensor_is_refused():
    class Two(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(UsageError, match="got: a tuple"):
        zoo.cached_features(Two(), Images())


def test_targets_of_several_shapes_are_refused(backbone):
    data = Images()
    data.__class__ = type(
        "Boxes", (Images,), {"__getitem__": lambda self, i: (self.images[i], torch.zeros(1 if i < 20 else 2))}
    )
    with pytest.raises(UsageError, match="different shapes"):
        zoo.cached_features(backbone, data, batch_size=10)


def test_random_augmentation_is_warned_of(backbone):
    data = Images()
    data.preprocess = lambda image: image + torch.randn(())
    with pytest.warns(ZooWarning, match="one draw"):
        zoo.cached_features(backbone, data)


def test_no_room_is_found_out_at_the_first_batch(backbone, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(CacheError, match="no room"):
        zoo.cached_features(backbone, Images(), batch_size=10)
    assert backbone.seen == 10


def test_prune_removes_features_that_were_not_used_for_long(backbone, monkeypatch):
    kept = zoo.cached_features(backbone, Images())
    assert pruning.prune(Cache()) == 0
    assert pruning.prune(Cache(), unused_days=1) == 0
    monkeypatch.setattr(pruning.time, "time", lambda: kept.folder.stat().st_mtime + 2 * 86400)
    assert pruning.prune(Cache(), unused_days=1) > TOTAL * 5 * 4
    assert not kept.folder.exists()


def test_two_processes_compute_them_once(tmp_path):
    import subprocess
    import sys

    code = (
        "import sys, time, torch, zoo_core as zoo\n"
        "class Slow(torch.nn.Flatten):\n"
        "    def forward(self, x):\n"
        "        print('computed', flush=True); time.sleep(0.2)\n"
        "        return super().forward(x)\n"
        "data = torch.utils.data.TensorDataset(torch.ones(4, 2), torch.arange(4))\n"
        "print(len(zoo.cached_features(Slow(), data, folder=sys.argv[1], batch_size=2)))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = "".join(process.communicate()[0] for process in both).split()
    assert sorted(said) == ["4", "4", "computed", "computed"]


PLACES = {
    "mapped": {},
    "held by the CPU": {"keep": True},
    "held elsewhere": {"device": "meta", "keep": True},
    "sent elsewhere": {"device": "meta", "keep": False},
    "where the limit is unknown": {"device": "meta"},
}


@pytest.mark.parametrize("options", PLACES.values(), ids=PLACES)
def test_batches_are_on_the_device_that_was_asked_for(backbone, options):
    batches = zoo.cached_features(backbone, Images()).batches(16, **options)
    found = list(batches)
    assert [tuple(features.shape) for features, _ in found] == [(16, 5)] * 3 + [(2, 5)]
    assert {tensor.device.type for pair in found for tensor in pair} == {options.get("device", "cpu")}
    assert batches.kept is bool(options.get("keep"))
    assert len(batches) == len(found)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_of_batches_gives_every_row_once_with_its_target(backbone, shuffle, keep):
    kept = zoo.cached_features(backbone, Images())
    features, targets = map(torch.cat, zip(*kept.batches(16, shuffle=shuffle, keep=keep), strict=True))
    order = [int((kept.features == row).all(1).nonzero()) for row in features]
    assert sorted(order) == list(range(TOTAL))
    assert (order == sorted(order)) is not shuffle
    assert torch.equal(targets, kept.targets[order])


def test_each_epoch_has_an_order_of_its_own_which_the_seed_repeats_without_the_global_random_state(backbone):
    kept, before = zoo.cached_features(backbone, Images()), torch.get_rng_state()
    runs = []
    for keep in (False, True):
        batches = kept.batches(TOTAL, shuffle=True, seed=3, keep=keep)
        runs.append([targets.tolist() for _ in range(2) for _, targets in batches])
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[0][1]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("size", "count"), [(16, 3), (TOTAL, 1), (TOTAL + 1, 0)])
def test_a_smaller_last_batch_is_left_out_when_asked(backbone, size, count):
    batches = zoo.cached_features(backbone, Images()).batches(size, drop_last=True)
    assert [len(features) for features, _ in batches] == [size] * count
    assert len(batches) == count


WRONG = {
    "no rows": ({"batch_size": 0}, "batch_size cannot be 0"),
    "no device": ({"batch_size": 1, "device": "gpu"}, "device cannot be 'gpu'"),
    "no seed": ({"batch_size": 1, "seed": "x"}, "seed cannot be 'x'"),
    "a typo": ({"batch_size": 1, "shufle": True}, "did you mean 'shuffle'"),
}


@pytest.mark.parametrize(("options", "said"), WRONG.values(), ids=WRONG)
def test_impossible_batches_are_refused(backbone, options, said):
    kept = zoo.cached_features(backbone, Images())
    with pytest.raises(UsageError, match=said):
        kept.batches(**options)


MEMORY = {
    "free": (1000, 0, 0, 750),
    "held by torch and not in use": (1000, 3000, 2000, 1500),
    "none": (0, 500, 500, 0),
}


@pytest.mark.parametrize(("free", "reserved", "allocated", "expected"), MEMORY.values(), ids=MEMORY)
def test_features_may_take_three_quarters_of_what_a_gpu_can_give(monkeypatch, free, reserved, allocated, expected):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: allocated)
    assert room_on(torch.device("cuda")) == expected


def gpu_with(monkeypatch, free):
    """A GPU of which only its memory is there."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, free))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)
    return torch.device("cuda")


def test_features_that_do_not_fit_on_a_gpu_are_sent_batch_by_batch_and_a_warning_says_so(monkeypatch):
    device = gpu_with(monkeypatch, free=1 << 20)
    with pytest.warns(ZooWarning, match=r"do not fit on cuda(.|\n)*take 4 MiB of the 1 that could be used"):
        batches = Batches((torch.zeros(1024, 1024), torch.zeros(1024)), 16, device)
    assert not batches.kept


def test_features_that_are_not_to_be_kept_are_sent_without_a_warning(monkeypatch):
    device = gpu_with(monkeypatch, free=1 << 20)
    assert not Batches((torch.zeros(1024, 1024), torch.zeros(1024)), 16, device, keep=False).kept


class TooLarge(torch.Tensor):
    """Fits by the numbers, and does not when it is copied."""

    def to(self, *_, **__):
        raise torch.OutOfMemoryError


def test_memory_in_pieces_is_survived_with_a_warning_unless_keeping_was_insisted_on(monkeypatch):
    device = gpu_with(monkeypatch, free=1 << 30)
    rows = (torch.zeros(1024, 1024).as_subclass(TooLarge), torch.zeros(1024))
    with pytest.warns(ZooWarning, match="in pieces"):
        assert not Batches(rows, 16, device).kept
    with pytest.raises(torch.OutOfMemoryError):
        Batches(rows, 16, device, keep=True)


@pytest.mark.gpu
@pytest.mark.parametrize("keep", [None, False])
def test_batches_on_a_gpu_are_those_of_the_cpu(backbone, keep):
    kept = zoo.cached_features(backbone, Images())
    there = kept.batches(16, device="cuda", shuffle=True, seed=3, keep=keep)
    assert there.kept is (keep is None)
    for ours, theirs in zip(there, kept.batches(16, shuffle=True, seed=3), strict=True):
        assert ours[0].device.type == ours[1].device.type == "cuda"
        assert torch.equal(ours[0].cpu(), theirs[0])
        assert torch.equal(ours[1].cpu(), theirs[1])


@pytest.mark.gpu
def test_an_epoch_of_kept_batches_takes_no_more_memory_of_the_gpu_than_a_batch(backbone):
    kept = zoo.cached_features(backbone, Images())
    batches = kept.batches(16, device="cuda", shuffle=True)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in batches:
        pass
    assert torch.cuda.max_memory_allocated() - before < 16 * 1024


@pytest.mark.gpu
def test_features_of_a_backbone_on_a_gpu_are_kept_on_the_cpu(backbone):
    kept = zoo.cached_features(backbone.cuda(), data := Images())
    assert kept.features.device.type == "cpu"
    assert torch.allclose(kept.features, backbone.cpu().eval()(data.images), atol=1e-4)

"""A saved folder may come from a stranger: loading it opens no socket, no file but its own, and runs nothing of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import zoo_core as zoo
from zoo_core.errors import DigestMismatch, Unreadable, UsageError, WeightsError
from zoo_core.recipe.edits import RECORDS, from_plain, to_plain
from zoo_core.recipe.rebuild import Limit
from zoo_core.registry.zoo import current_zoo
from zoo_core.surgery.head.describe import LAYERS
from zoo_core.weights import Cache

ONE_OF_EACH_FAMILY = (
    *("tiny/glyphnet", "timm/test_resnet", "timm/test_vit", "torchvision/squeezenet1_1", "torchvision/googlenet"),
    *("torchvision/ssdlite320_mobilenet_v3_large", "pretrainedmodels/squeezenet1_1"),
    "efficientnet_pytorch/efficientnet-b0",
)

WATCH = """
import json, sys
names, events = sys.argv[2:], {}
now = None
WATCHED = {"open", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.rename", "os.remove"}
def look(event, arguments):
    if now and event in WATCHED:
        events.setdefault(now, []).append((event, str(arguments[0])))
sys.addaudithook(look)
import zoo_core as zoo
for name in names:
    zoo.get(name, weights=None)  # what libraries open when they are first used is not the folder's doing
    now = name
    zoo.load(f"{sys.argv[1]}/{name}")
    now = None
print(json.dumps(events))
"""


def change(folder, **fields):
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe.update(fields)
    (folder / "recipe.json").write_text(json.dumps(recipe))


def test_loading_opens_no_socket_and_no_file_but_the_folders_own_and_the_librarys_code(tmp_path):
    for name in ONE_OF_EACH_FAMILY:
        zoo.save(zoo.get(name, weights=None), tmp_path / name)
    command = [sys.executable, "-W", "ignore", "-c", WATCH, str(tmp_path), *ONE_OF_EACH_FAMILY]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    events = json.loads(answer.stdout.splitlines()[-1])
    assert events.keys() == set(ONE_OF_EACH_FAMILY)
    code = (sys.prefix, sys.base_prefix, str(Path(zoo.__file__).parent.parent), "/proc/", "/sys/")
    for name, seen in events.items():
        assert {event for event, _ in seen} == {"open"}
        others = [what for _, what in seen if not what.startswith((str(tmp_path / name), *code)) and not what.isdigit()]
        assert others == []


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("timm/test_resnet", {"pretrained": True}),
        ("timm/test_resnet", {"pretrained_cfg": {"url": "http://127.0.0.1:9/x.pth"}}),
        ("timm/test_resnet", {"pretrained_cfg": "hf-hub:somebody/something"}),
        ("timm/test_resnet", {"checkpoint_path": "x.pth"}),
        ("timm/test_resnet", {"model_name": "hf-hub:somebody/something"}),
        ("timm/test_resnet", {"act_layer": "os:system"}),
        ("timm/test_resnet", {"drop_rate": {"url": "x"}}),
        ("timm/test_resnet", {"img_size": 10**12}),
        ("torchvision/squeezenet1_1", {"weights": "IMAGENET1K_V1"}),
        ("torchvision/squeezenet1_1", {"weights": "x.pth"}),
        ("pretrainedmodels/squeezenet1_1", {"pretrained": "imagenet"}),
        ("pretrainedmodels/squeezenet1_1", {"name": "resnet18"}),
        ("efficientnet_pytorch/efficientnet-b0", {"weights_path": "x.pth"}),
        ("tiny/glyphnet", {"anything": 1}),
    ],
)
def test_an_option_that_is_no_plain_architecture_is_refused_before_anything_is_built(name, options, tmp_path):
    folder = zoo.save(zoo.get(name, weights=None), tmp_path / "save")
    recipe = json.loads((folder / "recipe.json").read_text())
    change(folder, options={**recipe["options"], **options})
    with pytest.raises(Unreadable, match="an option that a folder may not set"):
        zoo.load(folder)


def test_an_option_that_is_refused_can_be_vouched_for_as_the_error_says(tmp_path):
    model = zoo.get("timm/test_resnet", weights=None, options={"stem_type": "deep", "stem_width": 8})
    folder = zoo.save(model, tmp_path / "save")
    with pytest.raises(Unreadable, match=r"zoo.load\(folder, options=\{'stem_type': ...\}\)"):
        zoo.load(folder)
    loaded = zoo.load(folder, options={"stem_type": "deep", "stem_width": 8})
    assert loaded.state_dict().keys() == model.state_dict().keys()


def test_a_plain_option_comes_back(tmp_path):
    model = zoo.get("timm/test_resnet", weights=None, options={"drop_rate": 0.25, "global_pool": "max"})
    assert zoo.load(zoo.save(model, tmp_path / "save")).drop_rate == 0.25


@pytest.mark.parametrize("name", ["recipe.json", "model"])
@pytest.mark.parametrize("kind", ["link", "loop", "pipe", "folder"])
def test_what_is_no_ordinary_file_is_not_opened(name, kind, tmp_path):
    folder = zoo.save(zoo.get("tiny/glyphnet"), tmp_path / "save")
    path = next(each for each in folder.iterdir() if each.name.startswith(name))
    moved = path.rename(tmp_path / path.name)
    if kind == "link":
        path.symlink_to(moved)
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "pipe":
        os.mkfifo(path)  # a read of it would wait for ever
    else:
        path.mkdir()
    with pytest.raises(Unreadable, match="is not read"):
        zoo.load(folder)


def test_the_links_of_the_hugging_face_cache_are_followed(tmp_path):
    folder = zoo.save(zoo.get("tiny/glyphnet"), tmp_path / "snapshots" / "abc")
    (tmp_path / "blobs").mkdir()
    for path in list(folder.iterdir()):
        path.rename(tmp_path / "blobs" / path.name)
        path.symlink_to(f"../../blobs/{path.name}")
    zoo.load(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": 1, "edits": ' + "[" * 90 + "]" * 90 + "}"])
def test_a_recipe_that_is_nested_without_end_is_refused(text, tmp_path):
    folder = zoo.save(zoo.get("tiny/glyphnet"), tmp_path / "save")
    (folder / "recipe.json").write_text(text)
    with pytest.raises(Unreadable, match="not a recipe that can be read"):
        zoo.load(folder)


@pytest.mark.parametrize("kind", ["Module", "os:system", "modules.module.Module", "zoo_core.cli:main", "Container"])
def test_a_layer_that_no_table_names_is_refused(kind, tmp_path):
    folder = zoo.save(zoo.get("tiny/glyphnet"), tmp_path / "save")
    change(folder, edits=[{"verb": "swap_head", "head": {"$record": "layers", "kind": kind}}])
    with pytest.raises((Unreadable, zoo.ZooError), match=r"cannot build a layer|cannot be followed"):
        zoo.load(folder)


def test_every_layer_of_the_table_is_a_class_that_only_computes():
    assert all(issubclass(layer, torch.nn.Module) for layer in LAYERS.values())
    assert "ScriptModule" not in LAYERS


def test_a_recipe_of_before_names_records_by_where_they_were_and_still_loads():
    head = zoo.mlp_head(3, hidden=(8,))
    assert to_plain(head, "head")["$record"] == "mlp_head"
    assert from_plain({**to_plain(head, "head"), "$record": "zoo_core.surgery.mlp:MLPHead"}) == head
    old = {"$record": "zoo_core.surgery.described:Layers", "kind": "zoo_core.surgery.mlp:Squeeze"}
    assert isinstance(from_plain(old).build(), LAYERS["Squeeze"])


def test_no_record_is_named_by_a_module():
    assert all(name.isidentifier() for name in RECORDS)


@pytest.mark.parametrize(
    "edit",
    [
        {"verb": "swap_head", "head": 10**9},
        {"verb": "swap_head", "head": {"$record": "mlp_head", "num_classes": 3, "hidden": [2000] * 400}},
        {"verb": "branch", "at": "layer2", "heads": {f"h{number}": 10**5 for number in range(300)}},
        {"verb": "adapt_stem", "in_channels": 10**8},
    ],
)
def test_a_recipe_that_says_far_more_than_its_file_holds_is_stopped_before_memory_is_taken(edit, tmp_path):
    folder = zoo.save(zoo.get("tiny/glyphnet"), tmp_path / "save")
    change(folder, edits=[edit])
    with pytest.raises(Unreadable, match="far larger tensors than its save holds"):
        zoo.load(folder)


def test_options_of_a_recipe_cannot_make_more_than_its_file_holds(tmp_path):
    folder = zoo.save(zoo.get("timm/test_vit", weights=None), tmp_path / "save")
    recipe = json.loads((folder / "recipe.json").read_text())
    change(folder, options={**recipe["options"], "embed_dim": 1 << 19, "depth": 1 << 12})
    with pytest.raises((Unreadable, UsageError), match="far larger tensors than its save holds"):
        zoo.load(folder)


@pytest.mark.parametrize(
    "edits",
    [
        [{"verb": "swap_head", "head": 9}] * 1001,
        [{"verb": "swap_head", "head": {"$record": "layers", "kind": "Sequential", "children": {"0": [0] * 20_000}}}],
    ],
)
def test_a_recipe_with_edits_without_end_is_refused(edits, tmp_path):
    folder = zoo.save(zoo.get("tiny/glyphnet"), tmp_path / "save")
    change(folder, edits=edits)
    with pytest.raises(Unreadable, match="more than 1000 edits, or 20000 values"):
        zoo.load(folder)


@pytest.mark.parametrize("dtype", ["int8", "quint8", "complex64", "nn", "xxx"])
def test_a_dtype_that_no_model_has_is_refused(dtype, tmp_path):
    folder = zoo.save(zoo.get("tiny/glyphnet"), tmp_path / "save")
    change(folder, dtype=dtype)
    with pytest.raises(Unreadable, match=f"with the dtype {dtype}"):
        zoo.load(folder)


def test_a_save_never_moves_the_pin_of_published_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    cache = Cache()
    cache.make()
    other = b"bytes of something else in the cache"
    digest = hashlib.sha256(other).hexdigest()
    cache.place(digest, "model.safetensors").parent.mkdir(parents=True)
    cache.place(digest, "model.safetensors").write_bytes(other)
    tag = current_zoo().resolve("timm/test_resnet")[0].weights[0].tag
    folder = zoo.save(zoo.get("timm/test_resnet", weights=None), tmp_path / "save")
    change(folder, weights={"tag": tag, "sha256": digest}, from_base=["conv1"])
    with pytest.raises(WeightsError, match="not in the cache"):
        zoo.load(folder)
    assert not (cache.root / "refs").exists()


@pytest.mark.parametrize("names", [["cat"], ["cat", "dog", "bird", "fish"]])
def test_another_number_of_class_names_than_scores_is_refused(tmp_path, names):
    model = zoo.get("tiny/glyphnet", weights=None, num_classes=3)
    zoo.save(model, tmp_path / "save", class_names=["cat", "dog", "bird"])
    change(tmp_path / "save", class_names=names)
    with pytest.raises(Unreadable, match=f"names {len(names)} classes, and its model has 3 scores"):
        zoo.load(tmp_path / "save")


@pytest.mark.parametrize(
    "fault", ["too many means", "no mean", "one std less", "a mean that is no number", "a std of 0"]
)
def test_a_preprocessing_that_fits_no_channels_is_refused(fault, tmp_path):
    zoo.save(zoo.get("timm/test_resnet", weights=None, in_channels=4), tmp_path / "net")
    recipe = json.loads((tmp_path / "net" / "recipe.json").read_text())
    means, stds = {
        "too many means": ([0.5] * 1000, [0.5] * 1000),
        "no mean": ([], []),
        "one std less": ([0.5] * 3, [0.5] * 2),
        "a std of 0": ([0.5] * 3, [0.5, 0.0, 0.5]),
        "a mean that is no number": ([0.5, 0.5, float("nan")], [0.5] * 3),
    }[fault]
    change(tmp_path / "net", preprocessing={**recipe["preprocessing"], "mean": means, "std": stds})
    with pytest.raises(Unreadable, match=r"prepares images with \d+ means"):
        zoo.load(tmp_path / "net")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_preprocessing_for_the_channels_before_an_edit_or_after_it_is_read(channels, tmp_path):
    zoo.save(zoo.get("timm/test_resnet", weights=None, in_channels=channels), tmp_path / "net")
    recipe = json.loads((tmp_path / "net" / "recipe.json").read_text())
    for count in {3, channels}:
        numbers = {"mean": [0.5] * count, "std": [0.5] * count}
        change(tmp_path / "net", preprocessing={**recipe["preprocessing"], **numbers})
        zoo.load(tmp_path / "net")


_LARGE = {
    "cyclic": lambda old: old.index_select(1, torch.arange(10**7) % 3),
    "alike": lambda old: old[:, :1].repeat_interleave(10**7, dim=1),
    "times": lambda _: torch.repeat_interleave(torch.tensor([10**9])),
    "indexed": lambda old: old[torch.zeros(1, dtype=torch.long).expand(10**7)],
    "chosen": lambda old: old.expand(10**6, *old.shape)[torch.ones(1, dtype=torch.bool).expand(10**6)],
    "copied": lambda old: old.expand(10**6, *old.shape).contiguous(),
    "resized": lambda old: old.resize_(10**10),
    "replicated": lambda old: functional.pad(old, (1, 1, 0, 1 << 20), mode="replicate"),
    "padded": lambda old: functional.pad(old, (1 << 20, 0)),
    "resampled": lambda old: functional.interpolate(old, size=(1 << 15, 1 << 12)),
    "pooled": lambda old: functional.adaptive_avg_pool2d(old, 1 << 14),
    "convolved": lambda old: functional.conv2d(old, old, padding=1 << 13),
    "unfolded": lambda _: functional.unfold(torch.zeros(1, 1, 600, 600), 300),
    "multiplied": lambda _: torch.einsum("i,j->ij", torch.zeros(1 << 14), torch.zeros(1 << 14)),
    "compared": lambda _: torch.allclose(torch.zeros(1 << 14, 1), torch.zeros(1, 1 << 14)),
    "attended": lambda _: nn.MultiheadAttention(2, 2, batch_first=True).eval()(*[torch.zeros(1, 1 << 14, 2)] * 3),
}


@pytest.mark.parametrize("kind", _LARGE)
@torch.no_grad()
def test_no_operation_makes_more_than_the_limit_of_a_save(kind):
    old = torch.zeros(64, 3, 7, 7)
    with pytest.raises(Unreadable, match="before they were allocated"), Limit("tiny/glyphnet", {"weight": old}):
        _LARGE[kind](old)


def test_a_limit_refuses_also_where_a_forward_on_trial_may_fail():
    refused = pytest.raises(Unreadable, match="before they were allocated")
    with refused, Limit("tiny/glyphnet", {}), contextlib.suppress(Exception):
        functional.pad(torch.zeros(1, 1, 8, 8), (1 << 27, 0))


def test_a_limit_leaves_alone_a_run_on_trial_that_fails_by_itself(tmp_path):
    model = zoo.get("tiny/glyphnet", num_classes=9, seed=0)
    model.stem[0] = nn.Sequential(nn.Conv2d(5, 1, 1), model.stem[0])  # it takes five channels, and the trial has one
    loaded = zoo.load(zoo.save(model, tmp_path / "save"))
    image = torch.rand(1, 5, 32, 32)
    assert torch.equal(model.eval()(image), loaded.eval()(image))


class Rounded(nn.Module):
    """A head with an operation that has no size before it runs."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 3)

    def forward(self, x):
        return self.fc(torch.fake_quantize_per_tensor_affine(x, 0.1, 0, 0, 255).to_sparse().to_dense())


def test_operations_of_the_users_own_head_need_no_size_before_they_run(tmp_path):
    model = zoo.swap_head(zoo.get("tiny/glyphnet", seed=0), Rounded())
    loaded = zoo.load(zoo.save(model, tmp_path / "save", custom_heads=True), heads={"main": Rounded()})
    image = torch.ones(1, 1, 32, 32)
    assert torch.equal(model.eval()(image), loaded.eval()(image))
    with pytest.raises(Unreadable, match="size is not known before it runs"), Limit("tiny/glyphnet", {}):
        Rounded()(torch.ones(1, 64))


def test_what_a_mask_chooses_is_within_the_limit_of_a_save():
    values = torch.arange(6.0)
    with Limit("tiny/glyphnet", {}):
        assert values[values > 3].tolist() == [4, 5]
        assert [each.tolist() for each in torch.where(values > 3)] == [[4, 5]]


def test_a_layer_changed_by_hand_cannot_pad_beyond_what_its_file_holds(tmp_path):
    model = zoo.get("timm/test_resnet", weights=None)
    model.layer4 = nn.Sequential(nn.Conv2d(model.layer4[0].conv1.in_channels, model.num_features, 3, padding=1))
    folder = zoo.save(model, tmp_path / "save")
    edits = json.loads((folder / "recipe.json").read_text())["edits"]
    text = json.dumps(edits)
    pad = '"padding": {"$tuple": [1, 1]}'
    assert pad in text
    change(folder, edits=json.loads(text.replace(pad, '"padding": {"$tuple": [1, 1048576]}')))
    with pytest.raises(Unreadable, match="far larger tensors than its save holds"):
        zoo.load(folder)


def test_tensors_of_another_size_are_refused_before_they_are_read(tmp_path):
    folder = zoo.save(zoo.get("tiny/glyphnet", weights=None), tmp_path / "save")
    (tensors,) = folder.glob("*.safetensors")
    os.truncate(tensors, 1 << 40)  # a hole, which would be hashed for an hour
    with pytest.raises(DigestMismatch, match="1,099,511,627,776 bytes"):
        zoo.load(folder)


@pytest.mark.parametrize("size", [-1, 1.5, "many", True, None, [1]])
def test_a_size_of_the_tensors_that_is_no_number_of_bytes_is_refused(tmp_path, size):
    folder = zoo.save(zoo.get("tiny/glyphnet", weights=None), tmp_path / "save")
    tensors = json.loads((folder / "recipe.json").read_text())["tensors"]
    change(folder, tensors={**tensors, "size": size})
    with pytest.raises(Unreadable, match="no number of bytes"):
        zoo.load(folder)


@pytest.mark.parametrize("number", [0, -1])
def test_a_format_that_there_never_was_is_refused(tmp_path, number):
    folder = zoo.save(zoo.get("tiny/glyphnet", weights=None), tmp_path / "save")
    change(folder, format=number)
    with pytest.raises(Unreadable, match="never was"):
        zoo.load(folder)

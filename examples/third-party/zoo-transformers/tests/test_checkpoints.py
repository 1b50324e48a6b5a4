"""A file that the library itself writes, served on the loopback address, loads through zoo's own path."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import ViTImageProcessor
from zoo_transformers.index import repository
from zoo_transformers.models import build, convert

import zoo_core as zoo

_TOKENS = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
VIT = "ViTForImageClassification"
SMALL = {
    VIT: {**_TOKENS, "intermediate_size": 32, "num_labels": 7},
    "Dinov2ForImageClassification": {**_TOKENS, "use_swiglu_ffn": True, "num_labels": 7},
    "ResNetForImageClassification": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 7},
}
"""Configurations that are quick to build; the files of Dinov2 have one tensor where the model has two."""


class Hub(SimpleHTTPRequestHandler):
    """As much of the hub as zoo asks for: the file, and its digest in the headers."""

    def end_headers(self):
        path = Path(self.translate_path(self.path))
        content = path.read_bytes() if path.is_file() else b""
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if not path.is_file():
            self.send_header("X-Error-Code", "EntryNotFound")
        super().end_headers()

    def log_message(self, *args):
        """Keep the output of the tests clean."""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder that stands for the hub."""
    folder = tmp_path / "hub"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()


def saved(name, folder, **options):
    """A model with noise in every parameter, which the library itself saved to the folder."""
    model = zoo.get(f"transformers/{name}", weights=None, seed=1, options=options).eval()
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise), alpha=0.02)
    model.save_pretrained(folder)
    return model


def test_a_file_of_the_hub_loads_into_the_model_that_was_saved(hub):
    name = "deit-tiny-distilled-patch16-224"
    card = zoo.info(f"transformers/{name}")
    theirs = saved(name, hub / "facebook" / name / "resolve" / "main")

    ours = zoo.get(card.id).eval()

    assert zoo.receipt(ours).strength == "declared"
    assert set(zoo.receipt(ours).counts) == {"loaded"}
    assert sum(parameter.numel() for parameter in ours.parameters()) == card.parameters
    x = torch.randn(1, *card.input_size)
    with torch.no_grad():
        assert torch.equal(ours(x).logits, theirs(x).logits)


@pytest.mark.parametrize("name", SMALL)
def test_names_of_a_file_become_those_of_the_model(name, tmp_path):
    theirs = saved(name, tmp_path, **SMALL[name])
    converted = convert(load_file(tmp_path / "model.safetensors"), build(name, **SMALL[name]))
    assert {*converted} == {*theirs.state_dict()}
    assert all(torch.equal(converted[key], tensor) for key, tensor in theirs.state_dict().items())


def test_what_a_file_lacks_has_too_much_or_in_another_shape_is_not_hidden():
    model = build(VIT, **SMALL[VIT])
    state = {**model.state_dict(), "odd": torch.zeros(1), "classifier.weight": torch.zeros(9, 24)}
    del state["classifier.bias"]
    converted = convert(state, model)
    assert {*converted} == {*state}
    assert converted["classifier.weight"].shape == (9, 24)


COMMIT = "5dca96d358b3fcb9d53b3d3881eb1ae20b6752d1"
PRINT_URLS = "from zoo_transformers.index import repository; print(*repository('me/vit').weights[0].urls)"


@pytest.mark.parametrize(("commit", "code"), [(COMMIT, 0), (None, 1)])
def test_the_urls_of_a_repository_are_of_the_commit_that_its_configuration_was_read_at(hub, commit, code):
    saved(VIT, hub / "me" / "vit" / "resolve" / (commit or "main"), **SMALL[VIT])
    ViTImageProcessor().save_pretrained(hub / "me" / "vit" / "resolve" / (commit or "main"))
    (hub / "api" / "models" / "me").mkdir(parents=True)
    (hub / "api" / "models" / "me" / "vit").write_text(json.dumps({"id": "me/vit", "sha": commit}))
    environment = os.environ | {"HF_HOME": str(hub), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", PRINT_URLS]  # of its own, for the library reads HF_ENDPOINT when it is imported
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    files = ("model.safetensors", "pytorch_model.bin")
    assert (
        done.stdout.split()
        == [f"https://huggingface.co/me/vit/resolve/{COMMIT}/{file}" for file in files][: 2 - 2 * code]
    )
    assert not code or "me/vit: the hub does not say its commit" in done.stderr


def test_a_repository_becomes_a_card_that_gives_the_scores_of_the_library(tmp_path):
    theirs = saved(VIT, tmp_path, **SMALL[VIT])
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.4] * 3)
    processor.save_pretrained(tmp_path)
    card = repository(str(tmp_path))
    weights = replace(card.find("hub"), urls=card.find("hub").urls[:1])
    assert weights.urls == ((tmp_path / "model.safetensors").as_uri(),)
    own = zoo.Zoo()
    own.member("transformers").cards = {"mine": replace(card, name="mine", weights=(weights,))}

    with zoo.use(own):
        ours = zoo.get("transformers/mine", trust="first-use").eval()
        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))
        x, expected = zoo.transforms(ours)(image)[None], processor(image, return_tensors="pt")["pixel_values"]
        assert [*zoo.class_names(ours)] == [f"LABEL_{number}" for number in range(7)]
    torch.testing.assert_close(x, expected, atol=0.02, rtol=0)
    with torch.no_grad():
        assert torch.equal(ours(x).logits, theirs(x).logits)


def test_the_loss_of_the_library_follows_a_new_head():
    model = zoo.get("transformers/deit-tiny-patch16-224", weights=None, num_classes=9)
    output = model(pixel_values=torch.randn(2, 3, 224, 224), labels=torch.tensor([0, 8]))
    assert output.logits.shape == (2, 9)
    assert output.loss.isfinite()


def test_both_heads_of_a_distilled_model_are_replaced():
    model = zoo.get("transformers/deit-tiny-distilled-patch16-224", weights=None, num_classes=9).eval()
    output = model(torch.randn(2, 3, 224, 224))
    assert output.cls_logits.shape == output.distillation_logits.shape == output.logits.shape == (2, 9)


def test_more_channels_get_past_the_librarys_own_check():
    model = zoo.get("transformers/deit-tiny-patch16-224", weights=None, in_channels=4).eval()
    assert model(torch.randn(1, 4, 224, 224)).logits.shape == (1, 1000)


def test_tokens_become_maps():
    encoder = zoo.encoder("transformers/swin-tiny-patch4-window7-224", weights=None).eval()
    maps = encoder(torch.randn(1, 3, 224, 224))
    assert [tuple(found.shape[1:]) for found in maps] == [(96, 56, 56), (192, 28, 28), (384, 14, 14), (768, 7, 7)]


def test_a_saved_model_comes_back(tmp_path):
    model = zoo.get("transformers/deit-tiny-patch16-224", weights=None, num_classes=9).eval()
    x = torch.randn(1, 3, 224, 224)
    zoo.save(model, tmp_path / "flowers")
    with torch.no_grad():
        assert torch.equal(zoo.load(tmp_path / "flowers").eval()(x).logits, model(x).logits)

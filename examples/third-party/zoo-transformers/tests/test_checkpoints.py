"""A file that the library itself writes, served on the loopback address, loads through zoo's own path."""

from __future__ import annotations

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

import zoo_core as zoo


class Hub(SimpleHTTPRequestHandler):
    """As much of the hub as zoo asks for: the file, and its digest in the headers."""

    def end_headers(self):
        content = Path(self.translate_path(self.path)).read_bytes()
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
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


@pytest.mark.parametrize("name", zoo.list("*-tiny-*", family="transformers"))
def test_a_file_that_the_library_saved_loads_into_the_same_model(name, hub, tmp_path):
    card = zoo.info(name)
    theirs = zoo.get(name, weights=None, seed=1).eval()
    repo = card.find().docs.removeprefix("https://huggingface.co/")
    theirs.save_pretrained(hub / repo / "resolve" / "main")

    ours = zoo.get(name).eval()

    assert zoo.receipt(ours).strength == "declared"
    assert set(zoo.receipt(ours).counts) == {"loaded"}
    assert sum(parameter.numel() for parameter in ours.parameters()) == card.parameters
    x = torch.randn(1, *card.input_size)
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

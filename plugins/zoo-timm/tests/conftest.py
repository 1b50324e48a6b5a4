"""A hub and a web server of this machine, with files in the place of the weights of timm's models."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from safetensors.torch import save_file
from support.loopback import Server, status

import zoo_core as zoo


@pytest.fixture
def server():
    """A real web server on the loopback address."""
    running = Server()
    yield running
    running.close()


@pytest.fixture
def hub(server, monkeypatch, tmp_path):
    """Put a state dict on the hub as the file of some weights: ``hub("resnet18.a1_in1k", state)``; returns the file."""
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))

    def put(name, state):
        path = tmp_path / f"{name}.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        location = f"/timm/{name}/resolve/main/model.safetensors"
        server.always[location] = status(
            302, Location=server.put(f"/blobs/{digest}", data), X_Linked_Etag=f'"{digest}"'
        )
        return path

    return put


@pytest.fixture
def url(server, tmp_path):
    """Serve a file at the url of some weights, whose digest is then that of the file; returns the file."""
    own = zoo.Zoo()

    def put(name, write, called=None, **changes):
        card, tag = own.resolve(f"timm/{name}")
        file = card.find(tag).files[-1]
        path = tmp_path / (called or file.file_name.replace(".safetensors", ".pth"))
        write(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8] if "sha256" not in changes else ""
        changes = {"urls": (server.put(f"/{path.name}", path.read_bytes()),), "sha256": digest, **changes}
        weights = tuple(replace(file, **changes) if each.tag == tag else each for each in card.weights)
        own.add(replace(card, weights=weights))
        return path

    with zoo.use(own):
        yield put

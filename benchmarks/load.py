"""From a file in the cache to a model with weights, every page touched: zoo beside the loaders of the libraries.

Run as ``uv run --group bench python -m benchmarks.load``. Checkpoints are made from random weights in the form in
which each library publishes its own. zoo does its whole work: it resolves the name, checks the ref, builds, loads, puts
a head for nine classes in and writes the receipt. Each peer is used as its documentation says, its file where it keeps
files: ``torchvision.models.get_model(name, weights=...)``, ``timm.create_model(name, pretrained=True, num_classes=9)``
with the file in ``pretrained_cfg_overlay``, ``EfficientNet.from_pretrained(name, weights_path=...)``,
``pretrainedmodels.__dict__[name](pretrained="imagenet")`` and ``ViTForImageClassification.from_pretrained(folder)``.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import io
import os
import tempfile
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from benchmarks.harness import Figures, Row, forked, in_turns, measured, metered, report

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

_PAGE_FLOATS = 1024


@dataclass(frozen=True)
class Case:
    """A model to load.

    Attributes:
        peer: The library it is loaded by on the other side.
        name: What that library calls it.
        form: ``"zip"``, ``"pickle"`` as before torch 1.6, or ``"safetensors"``.
        zoo: What zoo calls it; the peer's name in the peer's family when empty.
        forward: Whether the first forward pass counts too.
    """

    peer: str
    name: str
    form: str = "zip"
    zoo: str = ""
    forward: bool = False

    def __str__(self) -> str:
        words = {"zip": ".pth", "pickle": "old .pth", "safetensors": "safetensors"}
        return f"{self.name}, {words[self.form]}{', with the first forward' if self.forward else ''}"

    @property
    def id(self) -> str:
        """``family/name`` in zoo."""
        return self.zoo or f"{self.peer}/{self.name}"


CASES = [
    Case("torchvision", "resnet18"),
    Case("torchvision", "resnet50"),
    Case("torchvision", "resnet50", forward=True),
    Case("torchvision", "resnet50", "pickle"),
    Case("torchvision", "vgg16"),
    Case("torchvision", "vit_l_16"),
    Case("torchvision", "vit_l_16", "pickle"),
    Case("torchvision", "convnext_large"),
    Case("timm", "vit_large_patch16_224", "safetensors"),
    Case("efficientnet_pytorch", "efficientnet-b7"),
    Case("pretrainedmodels", "inceptionresnetv2", "pickle"),
    Case("transformers", "ViT-L/16", "safetensors", zoo="torchvision/vit_l_16"),
]


def build(case: Case) -> nn.Module:
    """The model of the peer, with random weights."""
    if case.peer == "torchvision":
        import torchvision

        return torchvision.models.get_model(case.name, weights=None)
    if case.peer == "timm":
        import timm

        return timm.create_model(case.name)
    if case.peer == "efficientnet_pytorch":
        from efficientnet_pytorch import EfficientNet

        return EfficientNet.from_name(case.name)
    if case.peer == "pretrainedmodels":
        import pretrainedmodels

        return pretrainedmodels.__dict__[case.name](num_classes=1001, pretrained=None)
    from transformers import ViTConfig, ViTForImageClassification

    size = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    return ViTForImageClassification(ViTConfig(**size, num_labels=1000))


def publish(case: Case, folder: Path) -> None:
    """Write the checkpoint as its library would publish it; for transformers, one for each side."""
    import torch

    model = build(case)
    path = file_of(case, folder)
    if case.peer == "transformers":
        model.save_pretrained(folder / "transformers")
        import torchvision
        from safetensors.torch import save_file

        save_file(torchvision.models.vit_l_16().state_dict(), path)
    elif case.form == "safetensors":
        from safetensors.torch import save_file

        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=case.form == "zip")


def file_of(case: Case, folder: Path) -> Path:
    """Where the checkpoint for zoo is."""
    return folder / f"weights.{'safetensors' if case.form == 'safetensors' else 'pth'}"


def with_zoo(case: Case, folder: Path, digest: str) -> Callable[[], nn.Module]:
    """The default weights of the card are the file in the folder."""
    import zoo_core as zoo
    import zoo_core.build.get  # zoo imports its parts when they are first used; here as elsewhere imports do not count
    import zoo_core.weights.formats.safetensors
    import zoo_core.weights.formats.torch_legacy
    import zoo_core.weights.formats.torch_zip

    path = file_of(case, folder)
    own = zoo.Zoo()
    card = own.resolve(case.id)[0]
    resolve_name(own.member(card.family).family.anatomy)
    first = card.weights[0]
    weights = replace(
        first,
        urls=(path.as_uri(),),
        sha256=digest,
        size=path.stat().st_size,
        convert=None,
        ignore=(),
        options={},
        digests={},
    )
    own.add(replace(card, weights=(weights,), default=weights.tag))

    def load() -> nn.Module:
        with zoo.use(own):
            return zoo.get(card.id, num_classes=9)

    return load


def with_peer(case: Case, folder: Path) -> Callable[[], nn.Module]:
    """As the documentation of the library says."""
    path = file_of(case, folder)
    if case.peer == "torchvision":
        import torchvision

        weights = torchvision.models.get_model_weights(case.name).DEFAULT
        put_in_torch_hub(weights.url, path)
        return lambda: torchvision.models.get_model(case.name, weights=weights)
    if case.peer == "timm":
        import timm

        overlay = {"file": str(path)}
        return lambda: timm.create_model(case.name, pretrained=True, num_classes=9, pretrained_cfg_overlay=overlay)
    if case.peer == "efficientnet_pytorch":
        from efficientnet_pytorch import EfficientNet

        return lambda: EfficientNet.from_pretrained(case.name, weights_path=str(path), num_classes=1000)
    if case.peer == "pretrainedmodels":
        import pretrainedmodels

        settings = pretrainedmodels.pretrained_settings[case.name]["imagenet"]
        put_in_torch_hub(settings["url"], path)
        return lambda: pretrainedmodels.__dict__[case.name](pretrained="imagenet")
    from transformers import ViTForImageClassification

    return lambda: ViTForImageClassification.from_pretrained(
        folder / "transformers", num_labels=9, ignore_mismatched_sizes=True
    )


def put_in_torch_hub(url: str, path: Path) -> None:
    """Where torch.hub looks for what it has downloaded: that it is there is all that it checks."""
    held = Path(os.environ["TORCH_HOME"], "hub", "checkpoints", url.rsplit("/", 1)[-1])
    held.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        held.unlink()
    held.symlink_to(path)


def once(load: Callable[[], nn.Module], case: Case) -> Figures:
    """Load, touch every page, and where that counts run once."""
    import torch

    def work() -> float:
        with redirect_stdout(io.StringIO()):  # efficientnet_pytorch prints that it has loaded
            model = load()
        touched = sum(float(p.detach().flatten()[::_PAGE_FLOATS].sum()) for p in model.parameters())
        if case.forward:
            with torch.no_grad():
                model.eval()(torch.zeros(1, 3, 224, 224))
        return touched

    gc.collect()  # touches every object, so that the memory which a fork shares is copied before and not meanwhile
    return metered(work)[1]


def measure(case: Case, rounds: int) -> Row:
    """One case; its files are gone before those of the next are made."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.update(ZOO_CACHE=str(folder / "cache"), TORCH_HOME=str(folder / "torch"))
        forked(partial(publish, case, folder))
        digest = hashlib.file_digest(file_of(case, folder).open("rb"), "sha256").hexdigest()
        ours, theirs = with_zoo(case, folder, digest), with_peer(case, folder)
        forked(partial(once, ours, case))  # the first use, which fetches and converts
        sides = {"zoo": partial(once, ours, case), case.peer: partial(once, theirs, case)}
        row = in_turns("load", str(case), sides, rounds)
        row.notes["file MB"] = file_of(case, folder).stat().st_size / 1e6
        return row


def main() -> None:
    """Print a table, and write the figures on request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", help="only cases beside this library, in whose process no other is imported")
    parser.add_argument("--only", default="", help="only cases with this in their name")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    chosen = [case for case in CASES if options.peer in (None, case.peer) and options.only in str(case)]
    report(measured((str(case), partial(measure, case, options.rounds)) for case in chosen), options.json)


if __name__ == "__main__":
    main()

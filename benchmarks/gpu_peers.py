"""How each side of `gpu_placing` loads a model, and the file that it loads: as its documentation says it is done."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import torch

from zoo_core.build.skip_init import without_values

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    Load = Callable[[], nn.Module]

IN_TIMM = {
    "torchvision/resnet18": "resnet18",
    "torchvision/resnet50": "resnet50",
    "torchvision/vit_l_16": "vit_large_patch16_224",
    "torchvision/convnext_large": "convnext_large",
    "timm/vit_giant_patch14_clip_224": "vit_giant_patch14_clip_224",
}
IN_TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "torchvision/resnet50": ("ResNet", {}),
    "torchvision/vit_l_16": (
        "ViT",
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    ),
    "torchvision/convnext_large": ("ConvNext", {"depths": [3, 3, 27, 3], "hidden_sizes": [192, 384, 768, 1536]}),
    "timm/vit_giant_patch14_clip_224": (
        "ViT",
        {
            "hidden_size": 1408,
            "num_hidden_layers": 40,
            "num_attention_heads": 16,
            "intermediate_size": 6144,
            "patch_size": 14,
        },
    ),
}
"""The same kind of model of the same size: its values are of no interest here."""


def own_model(library: str, name: str) -> nn.Module:
    """The untrained model of a library; for torch, the one that zoo places too."""
    family, _, own_name = name.partition("/")
    if library == "timm" or (library in ("zoo", "torch") and family == "timm"):
        import timm

        return timm.create_model(IN_TIMM[name])
    if library == "transformers":
        import transformers

        kind, options = IN_TRANSFORMERS[name]
        config = getattr(transformers, f"{kind}Config")(**options, num_labels=1000)
        return getattr(transformers, f"{kind}ForImageClassification")(config)
    from torchvision import models

    return models.get_model(own_name, weights=None)


def prepare(side: str, name: str, folder: Path) -> int:
    """Write the checkpoint of a side, as its library would publish it, and say how many bytes of weights it has."""
    path = checkpoint(side, name, folder)
    if path.exists():  # torch loads what zoo loads, and so does the library whose model it is
        return 0
    with without_values():  # drawing a thousand million numbers takes longer than all the rest
        model = own_model(side, name)
    for tensor in model.state_dict().values():
        tensor.fill_(1)
    if side == "transformers":
        model.save_pretrained(path)  # type: ignore[operator]  # a method that torch's types do not know
        return 0
    state = model.state_dict()
    torch.save(state, path)
    if side == "zoo":
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        (folder / "sha256").write_text(digest, encoding="utf-8")
    return sum(tensor.nbytes for tensor in state.values())


def checkpoint(side: str, name: str, folder: Path) -> Path:
    """Where the file of a side is."""
    if side in ("zoo", "torch") or side == name.partition("/")[0]:
        return folder / "weights.pth"
    return folder / side if side == "transformers" else folder / f"{side}.pth"


def with_zoo(name: str, folder: Path, device: torch.device) -> Load:
    """The model's default weights are the file, which the cache already holds."""
    import zoo_core as zoo
    import zoo_core.build.get  # zoo imports its parts when they are first used; imports do not count, here as for peers
    import zoo_core.build.place
    import zoo_core.weights.formats.safetensors

    own = zoo.Zoo()
    card = own.resolve(name)[0]
    family = own.member(card.family).family
    resolve_name(family.anatomy)
    resolve_name(card.build)
    path = checkpoint("zoo", name, folder)
    entry = replace(
        card.find(),
        urls=(path.as_uri(),),
        sha256=(folder / "sha256").read_text(encoding="utf-8"),
        size=path.stat().st_size,
        digests={},
        convert=None,
        whole=False,
        ignore=(),
        absent=(),
        options={},
    )
    own.add(replace(card, weights=(entry,), default=entry.tag))

    def load() -> nn.Module:
        with zoo.use(own):
            return zoo.get(name, device=device)

    return load


def with_torchvision(name: str, folder: Path, device: torch.device) -> Load:
    """The entry's url names the file in torch.hub's cache, whose presence is all that torchvision checks."""
    from torchvision import models

    own_name = name.partition("/")[2]
    weights = models.get_model_weights(own_name).DEFAULT
    held = Path(os.environ["TORCH_HOME"], "hub", "checkpoints", weights.url.rsplit("/", 1)[-1])
    held.parent.mkdir(parents=True, exist_ok=True)
    if not held.exists():
        held.symlink_to(checkpoint("torchvision", name, folder))
    return lambda: models.get_model(own_name, weights=weights).to(device)


def with_timm(name: str, folder: Path, device: torch.device) -> Load:
    """``create_model`` with a file of one's own in the place of the download."""
    import timm

    overlay = {"file": str(checkpoint("timm", name, folder))}
    return lambda: timm.create_model(IN_TIMM[name], pretrained=True, pretrained_cfg_overlay=overlay).to(device)


def with_transformers(name: str, folder: Path, device: torch.device) -> Load:
    """``from_pretrained`` from a folder, straight to the device where accelerate is there to do it."""
    from importlib.util import find_spec

    import transformers

    kind = getattr(transformers, f"{IN_TRANSFORMERS[name][0]}ForImageClassification")
    path = checkpoint("transformers", name, folder)
    if find_spec("accelerate"):
        return lambda: kind.from_pretrained(path, device_map=device)
    return lambda: kind.from_pretrained(path).to(device)


def with_torch(name: str, folder: Path, device: torch.device) -> Load:
    """What careful code does by hand, with the fastest options that torch has: meta device, mapped file, assignment."""
    resolve_name("timm" if name.startswith("timm/") else "torchvision.models")

    def load() -> nn.Module:
        try:
            with torch.device("meta"):
                model = own_model("torch", name)
        except (RuntimeError, NotImplementedError):  # a constructor that computes with values
            model = own_model("torch", name)
        state = torch.load(checkpoint("torch", name, folder), map_location="cpu", mmap=True, weights_only=True)
        model.load_state_dict(state, assign=True)
        if any(each.is_meta for each in model.buffers()):  # what is in no file was lost with the constructor's values
            model = own_model("torch", name)
            model.load_state_dict(state, assign=True)
        return model.to(device)

    return load


PEERS: dict[str, Callable[[str, Path, torch.device], Load]] = {
    "zoo": with_zoo,
    "torchvision": with_torchvision,
    "timm": with_timm,
    "transformers": with_transformers,
    "torch": with_torch,
}

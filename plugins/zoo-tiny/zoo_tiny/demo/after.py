"""What one does with a trained model: save it, load it, predict with it and look inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

import zoo_core as zoo
from zoo_tiny.demo.train_on_digits import DIGITS, Digits, as_input

SHOWN = 9


def use(model: nn.Module, card: zoo.Card, digits: Digits, folder: Path) -> dict[str, Any]:
    """After training, save ``model`` to a new folder in ``folder``, load it, and write what it sees and what it is.

    Args:
        model: The trained model.
        card: What it was made from.
        digits: Where the held-out digits are taken from.
        folder: Made where it is not there; what is in it stays.

    Returns:
        Paths, and what the loaded model takes some held-out digits for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    saved = next(
        path for i in range(1, 10_000) if not (path := folder / ("model" if i == 1 else f"model-{i}")).exists()
    )
    zoo.save(model, saved, class_names=list(DIGITS))
    loaded = zoo.load(saved).eval()
    chosen = digits.held_out[:SHOWN]
    predicted = zoo.predict(loaded, [scan[None] for scan in digits.scans[chosen]], top=1, num_workers=0)
    return {
        "saved": str(saved),
        "truth": "".join(DIGITS[int(label)] for label in digits.labels[chosen]),
        "predicted": "".join(result[0][0] for result in predicted),
        "cam": str(_cam(loaded, card, digits.scans[chosen[0]]).save(folder / "cam.png")),
        "report": str(zoo.summary(loaded).save(folder / "report.html")),
    }


def _cam(model: nn.Module, card: zoo.Card, scan: Tensor) -> zoo.Cam:
    """After training, show which part of a digit speaks for the class that the model gives it.

    The head is one linear layer on global averages, so that its weights over the last maps are the class activation
    map (Zhou et al., "Learning Deep Features for Discriminative Localization", 2016). For any model: ``zoo.cam``.
    """
    x = as_input(scan[None], card)
    with torch.no_grad():
        scores = model(x)[0]
        maps = zoo.features(model, x, at="layer3")["layer3"]
    target = int(scores.argmax())
    weights = cast("nn.Linear", zoo.split(model)[1]).weight[target].detach()
    heat = torch.einsum("c,chw->hw", weights, maps[0]).clamp(min=0)
    heat = nn.functional.interpolate((heat / heat.max().clamp(min=1e-6))[None, None], x.shape[-2:], mode="bilinear")
    shown = nn.functional.interpolate(scan[None, None], x.shape[-2:])[0, 0, :, :, None].expand(-1, -1, 3)
    return zoo.Cam(heat[0, 0].numpy(), shown.numpy(), target, DIGITS[target], scores[target].item(), "layer3", "cam")

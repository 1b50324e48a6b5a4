"""What one does with a trained model: save it, load it, predict with it and look inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import zoo_core as zoo
from zoo_tiny.demo.transfer import DIGITS

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from zoo_tiny.demo.transfer import Digits

SHOWN = 9


def use(model: nn.Module, digits: Digits, folder: Path) -> dict[str, Any]:
    """Save ``model`` to a new folder in ``folder``, load it from there, and write what it sees and what it is.

    Args:
        model: The trained model.
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
        "maps": str(_maps(loaded, digits.scans[chosen[0]][None], folder)),
        "report": str(zoo.summary(loaded).save(folder / "report.html")),
    }


def _maps(model: nn.Module, scan: Any, folder: Path) -> Path:  # noqa: ANN401 - a tensor
    """Which part of a digit speaks for its class, where grad-cam is installed, and else where the stages respond."""
    try:
        import pytorch_grad_cam  # noqa: F401 - whether it is there
    except ImportError:
        return zoo.activation_maps(model, scan).save(folder / "maps.png")
    return zoo.cam(model, scan).save(folder / "cam.png")

"""The image that ``zoo demo`` leaves: two learning curves, and what the two models make of some digits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_tiny.demo.train_on_digits import DIGITS, EXAMPLES, Digits, Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

_ROWS, _COLUMNS, _OF_EACH = 3, 6, 2
_TRAINED, _UNTRAINED, _QUIET = "#0b5cad", "#c05a00", "#5f6670"
_HEADING: dict[str, Any] = {"y": 0.905, "ha": "left", "fontsize": 10, "color": _QUIET}


def draw(path: Path, model: str, digits: Digits, trained: Outcome, untrained: Outcome) -> None:
    """Draw the figure of ``zoo demo``, and write it as a PNG.

    Args:
        path: Where to.
        model: Name of the model, for the headline.
        digits: What both were tested on.
        trained: How the pretrained backbone did.
        untrained: How the random one did.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.6), dpi=110, facecolor="white")
    figure.suptitle(
        f"{model} learned printed letters. {EXAMPLES} examples of each handwritten digit are enough for a new head.",
        x=0.02,
        ha="left",
        fontsize=12,
        fontweight="bold",
    )
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.05, 1)).flat
    _draw_curves(left, len(digits.held_out), trained, untrained)
    _draw_predictions(right, digits, trained, untrained)
    figure.savefig(path, format="png", metadata={"Software": None})


def _draw_curves(area: SubFigure, tested: int, trained: Outcome, untrained: Outcome) -> None:
    """Draw the learning curves of the two models in the figure."""
    axes = area.subplots()
    area.subplots_adjust(left=0.1, right=0.95, top=0.83, bottom=0.13)
    for outcome, color, name in (
        (trained, _TRAINED, "pretrained backbone, frozen"),
        (untrained, _UNTRAINED, "random backbone, frozen"),
    ):
        axes.plot(outcome.curve, color=color, linewidth=2.2, clip_on=False)
        last = len(outcome.curve) - 1
        axes.annotate(
            f"{name}  {outcome.accuracy:.1f} %",
            (last, outcome.accuracy),
            xytext=(0, -16),
            textcoords="offset points",
            ha="right",
            color=color,
            fontweight="bold",
        )
    axes.set(xlim=(0, max(1, len(trained.curve) - 1)), ylim=(0, 100), xlabel="epochs of training the head")
    area.suptitle(f"accuracy on {tested} held-out digits, %", x=0.04, **_HEADING)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e7eb")
    axes.set_axisbelow(True)


def _draw_predictions(area: SubFigure, digits: Digits, trained: Outcome, untrained: Outcome) -> None:
    """Draw some digits in the figure, with what the two models take each for."""
    area.suptitle("two held-out digits of each kind, and what they are taken for", x=0.02, **_HEADING)
    grid = area.subplots(_ROWS, _COLUMNS)
    area.subplots_adjust(left=0.02, right=0.98, top=0.82, bottom=0.09, hspace=0.45, wspace=0.15)
    labels = digits.labels[digits.held_out]
    places = [int(place) for digit in range(len(DIGITS)) for place in (labels == digit).nonzero()[:_OF_EACH]]
    for axes, place in zip(grid.flat, places, strict=True):
        scan = digits.scans[digits.held_out[place]]
        axes.imshow(scan.numpy(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("#d0d5db")
        truth = int(labels[place])
        _say(axes, 0.02, "left", int(trained.predictions[place]), truth, _TRAINED)
        _say(axes, 0.98, "right", int(untrained.predictions[place]), truth, _UNTRAINED)
    area.text(0.02, 0.02, "left: pretrained", color=_TRAINED, fontsize=9)
    area.text(0.98, 0.02, "right: random", color=_UNTRAINED, fontsize=9, ha="right")


def _say(axes: Axes, x: float, side: str, predicted: int, truth: int, color: str) -> None:
    """Write in the figure what a model takes a digit for, in bold and with a cross where it is wrong."""
    right = predicted == truth
    axes.text(
        x,
        -0.06,
        f"{DIGITS[predicted]}{'' if right else ' ✗'}",
        transform=axes.transAxes,
        ha=side,
        va="top",
        color=color,
        fontweight="normal" if right else "bold",
    )

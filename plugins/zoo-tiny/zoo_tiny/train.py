"""Train GlyphNet on glyphs and write its weights: ``python -m zoo_tiny.train``.

A few minutes on one CPU core. The same seed, versions and kind of processor give the same file, byte for byte; another
processor rounds differently, and so gives another digest. What the card says has to be updated by hand afterwards.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from zoo_tiny.catalog import CHARACTERS
from zoo_tiny.distort import clean, distorted
from zoo_tiny.glyphs import HELD_OUT_FACES, TRAINING_FACES, Glyphs, draw
from zoo_tiny.model import GlyphNet, glyphnet

BATCH = 128


def normalized(images: Tensor) -> Tensor:
    """Normalize images of 0 to 1 to train GlyphNet on them, by the mean and std of its card: -1 to 1."""
    return (images - 0.5) / 0.5


def train(glyphs: Glyphs, *, steps: int, seed: int) -> GlyphNet:
    """Train a network to tell the characters apart; it is in eval mode.

    Args:
        glyphs: What to learn from; each step distorts other ones, all characters alike often.
        steps: Batches of 128 to learn from.
        seed: Of the first weights, the order and the distortions.

    Example:
        >>> model = train(draw(["cmr10"]), steps=1, seed=0)
        >>> model.training
        False
    """
    torch.manual_seed(seed)
    generator = Generator().manual_seed(seed)
    model = glyphnet(num_classes=len(CHARACTERS)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps, pct_start=0.2)
    loss_of = nn.CrossEntropyLoss()
    for step, (images, labels) in enumerate(_batches(glyphs, steps, generator), start=1):
        loss = loss_of(model(normalized(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 250 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.3f}", flush=True)  # noqa: T201 - the progress of a script
    return model.eval()


def _batches(glyphs: Glyphs, steps: int, generator: Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches to train on: glyphs, each distorted anew, all characters alike often."""
    drawings, labels = torch.from_numpy(glyphs.images), torch.from_numpy(glyphs.labels)
    rarity = 1 / torch.bincount(labels).clamp(min=1).float()[labels]
    for _ in range(steps):
        chosen = torch.multinomial(rarity, BATCH, replacement=True, generator=generator)
        yield distorted(drawings[chosen], generator), labels[chosen]


def accuracy(model: nn.Module, glyphs: Glyphs, *, distort: bool = False) -> float:
    """Percent of glyphs that GlyphNet names correctly once it is trained.

    Args:
        model: A network in eval mode.
        glyphs: What to ask it.
        distort: Ask about distorted images, the same ones each time, and not about the clean drawings.
    """
    drawings, labels = torch.from_numpy(glyphs.images), torch.from_numpy(glyphs.labels)
    generator = Generator().manual_seed(0)
    right = 0
    with torch.inference_mode():
        for some, expected in zip(torch.split(drawings, BATCH), torch.split(labels, BATCH), strict=True):
            images = distorted(some, generator) if distort else clean(some)
            right += int((model(normalized(images)).argmax(1) == expected).sum())
    return 100 * right / len(glyphs)


def write(model: nn.Module, folder: Path) -> Path:
    """Write the trained weights as ``glyphnet-<first 8 digits of the SHA-256>.safetensors``.

    Args:
        model: The trained network.
        folder: Where to; older weights in it stay.
    """
    from safetensors.torch import save

    data = save(model.state_dict(), metadata={"format": "pt"})
    path = folder / f"glyphnet-{hashlib.sha256(data).hexdigest()[:8]}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def main() -> None:
    """Train GlyphNet, write its weights, and print what the card has to say."""
    parser = argparse.ArgumentParser(description="Train GlyphNet on glyphs and write its weights.")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "weights", help="a folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums of several threads differ with their number
    model = train(draw(TRAINING_FACES), steps=arguments.steps, seed=arguments.seed)
    path = write(model, arguments.output)
    held_out = draw(HELD_OUT_FACES)
    lines = {
        "file": path,
        "size": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "held-out typeface acc@1": f"{accuracy(model, held_out):.2f}",
        "held-out typeface, distorted, acc@1": f"{accuracy(model, held_out, distort=True):.2f}",
    }
    for name, value in lines.items():
        print(f"{name}: {value}")  # noqa: T201 - the result of a script


if __name__ == "__main__":
    main()

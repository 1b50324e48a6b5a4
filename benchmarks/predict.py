"""From image files to names: how much of a forward's speed is left, how much memory it takes, and how soon it begins.

Run as ``uv run --group bench python -m benchmarks.predict``. Measured are:

- throughput: ``zoo.predict`` of so many JPEG files of 500 x 375, beside the model alone on batches that are in memory
  already. Both run in one process on one thread of torch, in turns of a hundred images, and the CPU seconds of each
  turn count: what reading and preparing images costs beside the model.
- memory: the peak of ``zoo.predict`` over 200 images and over so many, each in a process of its own; and of
  ``zoo.sliding_window`` over an image on disk and over one of ten times its height.
- the first result: a fresh interpreter from its first instruction to the name of one image, weights in the cache,
  beside torchvision as its documentation has it, and ``transformers.pipeline``.
- windows: ``zoo.sliding_window`` beside ``nn.functional.unfold`` and the model written out, and MONAI's inferer where
  it is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Figures, Row, forked, measured, metered, of_children, report, rounds_in_time, usual
from benchmarks.load import put_in_torch_hub

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

HEIGHT, WIDTH = 375, 500
BATCH = 16
_FIRST, _THROUGHPUT = "the first result, resnet18", "{} images, {}"
_MEMORY, _MEMORY_OF_WINDOWS = "memory of zoo.predict", "memory of zoo.sliding_window"
_WINDOWS, _BLENDED = "15 windows of 448 x 672", "blended, 448 x 672, lraspp_mobilenet_v3_large"
_TURN = 96
"""Images in a turn: short enough that both sides meet the same unrest of the machine."""

_OURS = """
import sys, zoo_core as zoo
from dataclasses import replace
own = zoo.Zoo()
card = own.resolve("torchvision/resnet18")[0]
weights = replace(card.weights[0], urls=(sys.argv[1],), sha256=sys.argv[2])
own.add(replace(card, weights=(weights,), default=weights.tag))
with zoo.use(own):
    print(zoo.predict("torchvision/resnet18", sys.argv[3], top=1)[0][0])
"""
_TORCHVISION = """
import sys, torch
from torchvision.io import decode_image
from torchvision.models import ResNet18_Weights, resnet18
image = decode_image(sys.argv[3])
weights = ResNet18_Weights.DEFAULT
model = resnet18(weights=weights).eval()
preprocess = weights.transforms()
with torch.inference_mode():
    prediction = model(preprocess(image)[None]).squeeze(0).softmax(0)
print(weights.meta["categories"][prediction.argmax().item()])
"""
_TRANSFORMERS = """
import sys
from transformers import pipeline
print(pipeline("image-classification", model=sys.argv[4])(sys.argv[3], top_k=1)[0]["label"])
"""


def photos(folder: Path, count: int) -> None:
    """Write JPEG files of smooth noise: as large as photographs of that size are, about 60 kB."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for i in range(min(count, 50)):
        noise = Image.fromarray(random.integers(0, 256, (HEIGHT // 5, WIDTH // 5, 3), dtype=np.uint8))
        noise.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(folder / f"{i:04}.jpg", quality=90)
    for i in range(50, count):
        (folder / f"{i:04}.jpg").hardlink_to(folder / f"{i % 50:04}.jpg")


def ready(name: str) -> nn.Module:
    """An untrained model whose preprocessing is known."""
    import zoo_core as zoo

    return zoo.set_preprocessing(zoo.get(name, weights=None), name).eval()


def spent(work: Callable[[], Any]) -> Figures:
    """CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return {"cpu s": time.process_time() - cpu, "wall s": time.perf_counter() - wall}


def throughput(name: str, folder: Path, count: int) -> Row:
    """``zoo.predict`` of all files beside the model alone, in turns."""
    import torch

    import zoo_core as zoo

    torch.set_num_threads(1)  # threads that wait for one another spin, which would count as work
    model, files = ready(name), sorted(folder.iterdir())[:count]
    x = torch.rand(BATCH, 3, 224, 224)

    def alone(images: int) -> None:
        with torch.inference_mode():
            for _ in range(-(-images // BATCH)):
                model(x).softmax(1)

    alone(BATCH)
    zoo.predict(model, files[:BATCH])
    sides: dict[str, list[Figures]] = {"zoo.predict": [], "the model alone": []}
    for begin in range(0, len(files), _TURN):
        turn = files[begin : begin + _TURN]
        works = {"zoo.predict": partial(zoo.predict, model, turn), "the model alone": partial(alone, len(turn))}
        for side in list(works) if begin // _TURN % 2 else list(reversed(works)):
            sides[side].append(spent(works[side]))
    row = Row("predict", _THROUGHPUT.format(count, name), "cpu s", sides)
    row.notes["cores busy"] = row.median("zoo.predict", "cpu s") / row.median("zoo.predict", "wall s")
    row.notes["cores busy, alone"] = row.median("the model alone") / row.median("the model alone", "wall s")
    return row


def memory(folder: Path, count: int) -> Row:
    """The peak over 200 images and over all."""

    def over(images: int) -> Figures:
        import zoo_core as zoo

        model, files = ready("squeezenet1_1"), sorted(folder.iterdir())  # what is measured does not depend on it
        zoo.predict(model, files[: 2 * BATCH])
        return metered(lambda: zoo.predict(model, files[:images]))[1]

    sides = {f"{images} images": [forked(partial(over, images)) for _ in range(2)] for images in (200, count)}
    return Row("predict", _MEMORY, "peak MB", sides)


def memory_of_windows(folder: Path) -> Row:
    """The peak over an image on disk, and over one of ten times its height; the scores are on disk too."""
    import numpy as np

    def over(height: int) -> Figures:
        import zoo_core as zoo

        path = folder / f"{height}.npy"
        np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(height, 4096, 3)).flush()
        model = ready("resnet18")
        run = partial(zoo.sliding_window, model, size=224, stride=224, batch_size=BATCH)
        run(np.zeros((224, 4096, 3), dtype=np.uint8))
        return metered(lambda: run(np.load(path, mmap_mode="r"), out=folder / "scores.npy"))[1]

    sides = {f"{height} rows": [forked(partial(over, height))] for height in (448, 4480)}
    return Row("predict", _MEMORY_OF_WINDOWS, "peak MB", sides)


def windows(rounds: int) -> Row:
    """Overlapping windows of a tensor, beside the same by hand; all give the same numbers."""
    import torch
    from torch.nn import functional as F  # noqa: N812 - the name torch's own pages give it

    import zoo_core as zoo

    model, x, size, stride = ready("resnet18"), torch.rand(1, 3, 448, 672), 224, 112

    def by_hand() -> torch.Tensor:
        columns = F.unfold(x, size, stride=stride)[0].T.reshape(-1, 3, size, size)
        with torch.inference_mode():
            return torch.cat([model(batch) for batch in columns.split(BATCH)]).T.reshape(1, -1, 3, 5)

    ours = partial(zoo.sliding_window, model, x, size=size, stride=stride, batch_size=BATCH)
    torch.testing.assert_close(ours().scores, by_hand())
    works: Mapping[str, Callable[[], Any]] = {"zoo.sliding_window": ours, "unfold": by_hand}
    return Row("predict", _WINDOWS, "cpu s", _turns(works, rounds))


def blended(rounds: int) -> Row:
    """Blended logits of segmentation, beside MONAI's inferer."""
    import torch
    from monai.inferers import sliding_window_inference

    import zoo_core as zoo

    model, x = ready("lraspp_mobilenet_v3_large"), torch.rand(1, 3, 448, 672)

    def theirs() -> torch.Tensor:
        with torch.inference_mode():
            return sliding_window_inference(x, (224, 224), BATCH, lambda y: model(y)["out"], overlap=0.5)

    ours = partial(zoo.sliding_window, model, x, size=224, stride=112, batch_size=BATCH)
    torch.testing.assert_close(ours().scores, theirs(), atol=1e-4, rtol=1e-3)
    works: Mapping[str, Callable[[], Any]] = {"zoo.sliding_window": ours, "MONAI": theirs}
    return Row("predict", _BLENDED, "cpu s", _turns(works, rounds))


def _turns(works: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Figures]]:
    sides: dict[str, list[Figures]] = {side: [] for side in works}
    for number in rounds_in_time(rounds):
        for side in list(works) if number % 2 else list(reversed(works)):
            sides[side].append(spent(works[side]))
    return sides


def first(folder: Path, image: Path, rounds: int) -> Row:
    """Fresh interpreters, from the first instruction to a name."""
    forked(partial(_publish, folder))
    file = folder / "resnet18.pth"
    digest = hashlib.file_digest(file.open("rb"), "sha256").hexdigest()
    os.environ["TORCH_HOME"] = str(folder / "torch")
    put_in_torch_hub("https://download.pytorch.org/models/resnet18-f37072fd.pth", file)
    arguments = [file.as_uri(), digest, str(image), str(folder / "transformers")]
    programs = {"zoo.predict": _OURS, "torchvision by hand": _TORCHVISION}
    if find_spec("transformers"):
        programs["transformers.pipeline"] = _TRANSFORMERS
    environment = usual(
        ZOO_CACHE=str(folder / "cache"), HF_HUB_OFFLINE="1", PYTHONWARNINGS="ignore", OMP_NUM_THREADS="1"
    )
    sides: dict[str, list[Figures]] = {side: [] for side in programs}
    for number in rounds_in_time(rounds + 1):
        for side in list(programs) if number % 2 else list(reversed(programs)):
            figures = of_children([sys.executable, "-c", programs[side], *arguments], environment)
            if number:  # the first time fetches, compiles, and fills the system's own cache
                sides[side].append(figures)
    return Row("predict", _FIRST, "cpu s", sides)


def _publish(folder: Path) -> None:
    import torch
    import torchvision

    torch.save(torchvision.models.resnet18().state_dict(), folder / "resnet18.pth")
    if find_spec("transformers"):
        from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

        shape = {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}
        config = ResNetConfig(**shape, layer_type="basic", num_labels=1000)
        ResNetForImageClassification(config).save_pretrained(folder / "transformers")
        ConvNextImageProcessor(crop_pct=0.875, size={"shortest_edge": 224}).save_pretrained(folder / "transformers")


def main() -> None:
    """Print a table, and write the figures on request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = folder / "images"
        images.mkdir()
        photos(images, options.images)
        works: dict[str, Callable[[], Row]] = {
            _FIRST: partial(first, folder, images / "0000.jpg", options.rounds),
            _MEMORY: partial(memory, images, options.images),
            _MEMORY_OF_WINDOWS: partial(memory_of_windows, folder),
        }
        works |= {
            _THROUGHPUT.format(options.images, each): partial(throughput, each, images, options.images)
            for each in options.models
        }
        works[_WINDOWS] = partial(windows, options.rounds)
        if find_spec("monai"):
            works[_BLENDED] = partial(blended, options.rounds)
        rows = measured(works.items())
    report(rows, options.json)


if __name__ == "__main__":
    main()

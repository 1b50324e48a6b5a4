"""Twenty frozen epochs beside one pass, and embedding beside the plain forward and beside a cluster of one machine.

Lightning alone and fastai, where it is installed, train the same frozen network for one epoch: they keep no features,
so that twenty epochs are twenty of those. timm's script trains all of a network, and gives no features of images.

Run as ``uv run --group extra --with fastai python -m benchmarks.training``. The sides take turns, and
a figure is the median of the ratios of the rounds, in CPU seconds of this process on one thread. Ray's are
seconds an image after the first quarter of the images, of all processes: two actors, beside a ``DataLoader`` of two
workers; what its start takes is told apart.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import statistics
import tempfile
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as nn_functional
from torch.utils.data import DataLoader, Dataset

import zoo_core as zoo
from benchmarks.harness import rounds_in_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

EPOCHS = 20


class Images(Dataset[tuple[torch.Tensor, int]]):
    """Files, prepared as for a model."""

    def __init__(self, files: list[Path], prepare: Callable[[Any], torch.Tensor]) -> None:
        self.files, self.prepare = files, prepare

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.prepare(zoo.read_image(self.files[index])), index % 9


def write_images(folder: Path, count: int) -> list[Path]:
    """Images of noise, as JPEG files."""
    rng = np.random.default_rng(0)
    files = [folder / f"{number:05}.jpg" for number in range(count)]
    for file in files:
        small = Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8))
        small.resize((320, 240)).save(file)
    return files


def model_of(name: str) -> nn.Module:
    """A model with a frozen backbone and a new head."""
    model = zoo.get(name, weights=None, num_classes=9, freeze="backbone", seed=0)
    return zoo.set_preprocessing(model, name)


def one_pass(model: nn.Module, dataset: Dataset[Any], workers: int = 0) -> None:
    """The backbone over all images, by hand."""
    backbone = zoo.split(model)[0].eval()
    with torch.inference_mode():
        for images, _ in DataLoader(dataset, batch_size=32, num_workers=workers):
            backbone(images)


def frozen_epochs(model: nn.Module, dataset: Dataset[Any], folder: Path) -> None:
    """Twenty epochs of the head on features that are computed once, as ``zoo finetune --cache-features 20`` does it."""
    from zoo_lightning import FineTune
    from zoo_lightning.head_on_features import train_head

    module = FineTune(model)
    train_head(module, dataset, epochs=EPOCHS, batch_size=32, workers=0, folder=folder, device="cpu")


def lightning_epoch(model: nn.Module, dataset: Dataset[Any]) -> None:
    """One epoch of the head with Lightning alone."""
    import lightning

    class Head(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
            self.model.eval()  # the statistics of a frozen batch norm
            return nn_functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW([each for each in self.parameters() if each.requires_grad])

    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", log_every_n_steps=1, **quiet)
    trainer.fit(Head(), DataLoader(dataset, batch_size=32, shuffle=True))


def fastai_epoch(model: nn.Module, dataset: Dataset[Any], folder: Path) -> None:
    """One epoch of the head with fastai, which keeps the norms of a frozen body in train mode by default."""
    from fastai.callback.progress import ProgressCallback  # noqa: F401 - gives a Learner no_bar
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader as FastLoader
    from fastai.learner import Learner

    train = FastLoader(dataset, bs=32, shuffle=True, num_workers=0)
    learner = Learner(DataLoaders(train, []), model, loss_func=nn_functional.cross_entropy, path=folder, cbs=[])
    with learner.no_bar(), learner.no_logging():
        learner.fit(1)


def on_ray_data(model: nn.Module, files: list[Path]) -> int:
    """The same vectors by Ray Data, on two actors, in the order of the images."""
    import ray

    from zoo_core.embedding.embed import Embedder, labelled_sources

    shared = ray.put(Embedder.of(model, batch_size=32, num_workers=1))

    class Embed:
        def __init__(self) -> None:
            self.embedder = ray.get(shared)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            rows = list(self.embedder.run(labelled_sources([*batch["path"]])))
            return {"path": [row.name for row in rows], "vector": np.stack([row.vector.numpy() for row in rows])}

    ray.data.DataContext.get_current().execution_options.preserve_order = True
    paths = ray.data.from_items([{"path": str(file)} for file in files], override_num_blocks=max(2, len(files) // 32))
    return len(paths.map_batches(Embed, concurrency=2, num_cpus=1, batch_size=32).take_all())


def batches_of_a_loader(model: nn.Module, dataset: Dataset[Any]) -> Iterator[int]:
    """How many images each batch has that went through the backbone, which a ``DataLoader`` of two workers read."""
    backbone = zoo.split(model)[0].eval()
    for images, _ in DataLoader(dataset, batch_size=32, num_workers=2):
        with torch.inference_mode():
            backbone(images)
        yield len(images)


def rows_of_ray(model: nn.Module, files: list[Path]) -> Iterator[int]:
    """One for each row that two actors of Ray give."""
    from zoo_ray import embed_engine

    from zoo_core.embedding.embed import Embedder, labelled_sources

    for _ in embed_engine(Embedder.of(model, batch_size=32), labelled_sources([*files])):
        yield 1


_used: dict[int, float] = {}
"""CPU seconds of each process that was ever seen, since those that have ended are no children any more."""


def cpu_seconds() -> float:
    """What this process and all those that it started have used."""
    import psutil

    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            _used[process.pid] = times.user + times.system
    return sum(_used.values())


def pace(counts: Iterator[int], first: int) -> tuple[list[float], list[float]]:
    """Wall and CPU seconds until some images are done, and those that each of the others takes.

    Args:
        counts: How many images are done each time.
        first: So many images belong to the start.
    """
    done = 0
    points = [(done, time.perf_counter(), cpu_seconds())]
    for count in counts:
        done += count
        if done % 32 == 0:  # while the other processes are there
            points.append((done, time.perf_counter(), cpu_seconds()))
    begin, middle, end = points[0], next(point for point in points if point[0] >= first), points[-1]
    start = [middle[kind] - begin[kind] for kind in (1, 2)]
    return start, [(end[kind] - middle[kind]) / (end[0] - middle[0]) for kind in (1, 2)]


def measure_ray(model: nn.Module, files: list[Path], dataset: Dataset[Any], rounds: int) -> None:
    """Print what an image takes on Ray with two workers, beside a ``DataLoader`` with two, and what the start takes."""
    import ray

    os.environ.setdefault("RAY_worker_niceness", "0")  # or its workers wait for everything else on the machine
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    first = len(files) // 4
    ratios, starts = [], []
    for number in range(rounds):
        sides: list[Any] = [lambda: rows_of_ray(model, files), lambda: batches_of_a_loader(model, dataset)]
        order = (0, 1) if number % 2 else (1, 0)
        found = {side: pace(sides[side](), first) for side in order}
        ratios.append([on_ray / beside for on_ray, beside in zip(found[0][1], found[1][1], strict=True)])
        # what the start takes beside its images
        starts.append([found[0][0][kind] - first * found[0][1][kind] for kind in (0, 1)])
    for kind, name in enumerate(("wall", "CPU")):
        tell(
            f"an image on Ray with two workers, of a DataLoader with two, {name} seconds", [row[kind] for row in ratios]
        )
        tell(f"{name} seconds until two actors are at work", [row[kind] for row in starts])


def ratio(work: Callable[[], None], beside: Callable[[], None], rounds: int, clock: Callable[[], float]) -> list[float]:
    """What the work takes, as a multiple of what is beside it, round by round."""

    def seconds(each: Callable[[], None]) -> float:
        started = clock()
        each()
        return clock() - started

    beside()  # both are warm
    work()
    found = []
    for number in rounds_in_time(rounds):
        first, second = (work, beside) if number % 2 else (beside, work)
        taken = {id(first): seconds(first), id(second): seconds(second)}
        found.append(taken[id(work)] / taken[id(beside)])
    return found


def measure(name: str, count: int, rounds: int, *, with_ray: bool) -> None:
    """Print a line a comparison."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        files = write_images(folder, count)
        model = model_of(name)
        dataset = Images(files, zoo.transforms(model))
        fresh = iter(range(1000))

        def cached() -> None:
            frozen_epochs(model_of(name), dataset, folder / f"features-{next(fresh)}")

        def embedded(engine: str = "local") -> None:
            zoo.embed(model, [*files], batch_size=32, num_workers=1, engine=engine)

        def plain() -> None:
            one_pass(model, dataset)

        if with_ray:
            measure_ray(model, files, dataset, rounds)
            beside = ratio(lambda: on_ray_data(model, files), lambda: embedded("ray"), rounds, time.perf_counter)
            tell("Ray Data with two actors, of zoo.embed on Ray", beside)
            return
        started = time.process_time()
        plain()
        print(f"{count / (time.process_time() - started):.1f} images a CPU second in the plain forward of {name}")
        tell(f"{EPOCHS} epochs on cached features, of one pass", ratio(cached, plain, rounds, time.process_time))
        tell("zoo.embed, of the plain forward", ratio(embedded, plain, rounds, time.process_time))
        peers = {"Lightning alone": lambda: lightning_epoch(model_of(name), dataset)}
        if find_spec("fastai"):
            peers["fastai"] = lambda: fastai_epoch(model_of(name), dataset, folder)
        for peer, epoch in peers.items():
            tell(f"one frozen epoch of {peer}, of one pass", ratio(epoch, plain, rounds, time.process_time))


def tell(what: str, ratios: list[float]) -> None:
    """Print the median and the range."""
    print(f"{what}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})", flush=True)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="torchvision/resnet18")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ray", action="store_true", help="alone, of 1,000 images or more; needs psutil")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    print(f"load average {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores")
    measure(options.model, options.images, options.rounds, with_ray=options.ray)


if __name__ == "__main__":
    main()

"""``zoo.cached_features``: what a frozen backbone makes of a dataset, computed once and read from disk ever after."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from zoo_core.build.request import ModelRequest
from zoo_core.embedding.digests import digest_of_module, digest_of_samples, unknown_in
from zoo_core.embedding.feature_files import WHOLE, Rows, read_rows
from zoo_core.errors import CacheError, UsageError, ZooWarning
from zoo_core.utils import no_follow
from zoo_core.utils.arguments import check_count, check_seed, strict_arguments
from zoo_core.utils.device import on_the_cpu
from zoo_core.utils.eval_mode import evaluating
from zoo_core.utils.paths import expand
from zoo_core.weights.cache.pruning import FEATURES
from zoo_core.weights.cache.store import Cache
from zoo_core.weights.download.disk import disk_errors

Pair = tuple[Tensor, Tensor]


class CachedFeatures(Dataset[tuple[Tensor, Tensor]]):
    """Features and targets of a dataset: in batches on a device, or sample by sample, as a ``DataLoader`` takes them.

    A worker process of a ``DataLoader`` maps the files anew and copies nothing; :meth:`batches` needs no workers.

    Attributes:
        folder: Where they are.
        features: ``[N, ...]``, what the backbone gave, mapped from the disk.
        targets: ``[N, ...]``, mapped too.
    """

    def __init__(self, folder: Path) -> None:
        result = read_rows(folder)
        if result is None:
            raise CacheError(
                f"what was just written to {folder} is not there any more",
                cause="something cleans that folder, or its disk is broken",
                hint="try again, or give another folder",
                path=folder,
            )
        self.folder = folder
        self.features, self.targets = result

    @strict_arguments
    def batches(
        self,
        batch_size: int,
        *,
        device: str | torch.device | None = None,
        shuffle: bool = False,
        seed: int | None = None,
        drop_last: bool = False,
        keep: bool | None = None,
    ) -> Batches:
        """Batches on a device, for as many epochs as it is gone through.

        Where all the features fit in the memory of a GPU, with a quarter of what is free to spare, they are copied
        there once and stay until the batches are dropped: an epoch then costs what the head costs. Otherwise a warning
        says how much is lacking, and each batch is read from the disk and sent while the last one is worked on.

        Args:
            batch_size: Samples of a batch.
            device: Where the head is; None for the CPU.
            shuffle: Whether each epoch has an order of its own.
            seed: Makes these orders reproducible, the same on every device; None draws them from torch's global random
                state.
            drop_last: Leave out a last batch that is smaller than the others.
            keep: False leaves the memory of the device to others. True copies the features there without asking whether
                they fit, on devices too of which torch does not tell: a Mac's, or the CPU, where they are mapped
                otherwise.

        Returns:
            An iterable with a length of ``(features, targets)``; ``.kept`` says whether the device holds them all.

        Raises:
            UsageError: An argument is impossible.
            torch.OutOfMemoryError: ``keep`` is True, and they do not fit.

        Warns:
            ZooWarning: They do not fit, and ``keep`` is None.

        Example:
            >>> import tempfile, torch, zoo_core as zoo
            >>> backbone, head = zoo.split(zoo.get("tiny/glyphnet", num_classes=9, freeze="backbone"))
            >>> images = torch.utils.data.TensorDataset(torch.rand(20, 1, 32, 32), torch.arange(20) % 9)
            >>> features = zoo.cached_features(backbone, images, folder=tempfile.mkdtemp())
            >>> batches = features.batches(8, shuffle=True, seed=0)
            >>> for epoch in range(2):
            ...     for x, y in batches:
            ...         loss = torch.nn.functional.cross_entropy(head(x), y)
            >>> batches
            3 batches of 8 on cpu, from the disk
        """
        request = ModelRequest.of(device=device, seed=seed)
        home = request.device or torch.device("cpu")
        size = check_count("batch_size", batch_size)
        rows = (self.features, self.targets)
        return Batches(rows, size, home, shuffle=shuffle, seed=request.seed, drop_last=drop_last, keep=keep)

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.features[index], self.targets[index]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Several at once, as ``DataLoader`` asks for them: one gathering read instead of one for each."""
        chosen = torch.as_tensor(indices, device="cpu")
        return list(zip(self.features[chosen], self.targets[chosen], strict=True))

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"])  # type: ignore[misc]  # to open the files where they are


@strict_arguments
def cached_features(
    backbone: nn.Module,
    dataset: Dataset[Any],
    *,
    data: str = "",
    folder: str | os.PathLike[str] | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
    device: str | torch.device | None = None,
) -> CachedFeatures:
    """What a frozen backbone makes of a dataset: computed once, and read from disk in every epoch and run after.

    The backbone runs in eval mode and without gradients, and every module is then back in the mode it was in. The
    result is kept under a digest of all it depends on: each parameter and buffer of the backbone, its settings, hooks
    and autocast, the length of the dataset, and sixteen of its samples as the backbone sees them, so after their
    preprocessing. The code of classes is not in it: name another ``data`` after a change of it. An interrupted run is
    continued where it was; processes that want the same features wait for the one that computes them.

    **Random augmentation** is lost: each sample is seen once, and its features are the same in every epoch. Take it out
    of the dataset, which zoo warns of when it notices, or do not cache.

    Args:
        backbone: Images ``[N, C, H, W]`` to features ``[N, ...]``; ``zoo.split(model)[0]`` is one. None of its
            parameters may require a gradient.
        dataset: Gives ``(image, target)`` for an index: a tensor, and a number or a tensor, of one shape throughout.
        data: A name for the data, such as a version: change it when samples change that are not among the sixteen.
        folder: Where to keep features; None for the ``features`` folder of zoo's cache, which ``zoo cache prune
            --unused DAYS`` looks after.
        batch_size: Samples in one pass.
        num_workers: Processes that load samples, as for ``DataLoader``.
        device: Where the images go; None for where the backbone is.

    Returns:
        A dataset of ``(features, target)`` on the CPU, with all of them as ``.features`` and ``.targets``, and in
        batches on any device as ``.batches(size, device=...)``.

    Raises:
        UsageError: The backbone can be trained, or the dataset does not give pairs by index.
        CacheError: The folder cannot be written, or has no room.

    Warns:
        ZooWarning: The dataset gives another image when it is read again; or what a hook or a ``forward`` set by hand
            does cannot be known, and features are computed anew each time.

    Example:
        >>> import tempfile, torch, zoo_core as zoo
        >>> model = zoo.get("tiny/glyphnet", num_classes=9, freeze="backbone")
        >>> backbone, head = zoo.split(model)
        >>> images = torch.utils.data.TensorDataset(torch.rand(20, 1, 32, 32), torch.arange(20) % 9)
        >>> features = zoo.cached_features(backbone, images, folder=tempfile.mkdtemp())
        >>> len(features), head(features[0][0]).shape
        (20, torch.Size([9]))
    """
    _require_frozen(backbone)
    total = _length(dataset)
    for name, count in {"batch_size": batch_size, "num_workers": num_workers + 1}.items():
        check_count(name, count)
    cache = Cache() if folder is None else None
    root = cache.root / FEATURES if cache else no_follow.real(expand(folder or "").absolute())
    believed = not (cache and cache.is_only_found)
    home = device or _device(backbone)
    facts = {"data": data, "samples": digest_of_samples(dataset, total), **_backbone_key(backbone, home)}
    place = root / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    if read_rows(place, believed=believed) is None:
        with _alone(place):
            if read_rows(place, believed=believed) is None:
                loading = {"batch_size": batch_size, "num_workers": num_workers}
                _compute(backbone, dataset, Rows(place, total, believed=believed), loading, home)
    with contextlib.suppress(OSError):
        no_follow.touch(place / WHOLE)  # when they were last used, for `zoo cache prune`
    return CachedFeatures(place)


def _backbone_key(backbone: nn.Module, device: str | torch.device) -> dict[str, str]:
    """Digest of the backbone that cached features depend on; something new each time where it has none."""
    facts = {"backbone": digest_of_module(backbone)}
    kind = torch.device(device).type
    if torch.is_autocast_enabled(kind):
        facts["autocast"] = str(torch.get_autocast_dtype(kind))
    if unknown := unknown_in(backbone):
        warnings.warn(
            f"features are computed anew each time: what {unknown[0]} does cannot be known; remove it, or make it a "
            "function that uses nothing but numbers, strings, tensors, functions and modules of the backbone",
            ZooWarning,
            stacklevel=4,  # past strict_arguments
        )
        facts["run"] = uuid.uuid4().hex
    return facts


def _compute(
    backbone: nn.Module, dataset: Dataset[Any], rows: Rows, loading: dict[str, int], device: str | torch.device
) -> None:
    """Compute the features of a dataset that are to be cached, from where an earlier run stopped."""
    with rows, torch.no_grad(), evaluating(backbone):
        rest = Subset(dataset, range(rows.done, len(dataset)))  # type: ignore[arg-type]  # its length was read already
        with on_the_cpu():  # a loader draws a number for its workers
            batches = iter(DataLoader(rest, **loading))  # type: ignore[arg-type]  # mypy takes each int for all
        for images, targets in batches:
            features = backbone(images.to(device))
            if not isinstance(features, Tensor) or len(features) != len(images):
                raise UsageError(
                    f"{type(backbone).__name__} does not turn images into features",
                    expected="a tensor with a row for each image",
                    got=f"a {type(features).__name__}",
                    hint="backbone, head = zoo.split(model) gives one that does",
                )
            rows.append(features, targets)
        rows.finish()


def _require_frozen(backbone: nn.Module) -> None:
    """Refuse to cache the features of a backbone that can be trained."""
    trained = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    if trained:
        few = ", ".join(trained[:3])
        raise UsageError(
            "the backbone can be trained, and cached features would not follow it",
            got=f"{len(trained)} parameters that require a gradient ({few}{', ...' if len(trained) > 3 else ''})",  # noqa: PLR2004 - shown
            done="nothing was computed",
            hint="zoo.freeze(model) and then backbone, head = zoo.split(model); the head is trained on the features",
        )


def _length(dataset: object) -> int:
    """The length of a dataset whose features are to be cached; refused where it gives no samples by index."""
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise UsageError(
            f"a {type(dataset).__name__} does not give its samples by index",
            expected="a dataset with a length that gives samples by index",
            hint="store the samples first; what is a stream cannot be continued or recognized",
        )
    total = len(dataset)
    if not total:
        raise UsageError("the dataset is empty", expected="at least one sample")
    return total


def _device(backbone: nn.Module) -> torch.device:
    tensors = [*backbone.parameters(), *backbone.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """While another process computes the same cached features, wait for it."""
    import filelock

    lock = filelock.FileLock(place.with_name(f".{place.name}.lock"))
    with disk_errors(place.parent):
        no_follow.make_folder(place)
        with contextlib.suppress(NotImplementedError):  # a file system without locks: work may be done twice
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


_SPARED = 4
"""One part in so many of what is free on a device is left for the head, its gradients and the work."""


class Batches:
    """Batches of ``CachedFeatures`` on one device, features and targets; each time they are gone through is an epoch.

    A small head is done with a batch before the next one could be gathered and sent, so the features stay on the device
    where they fit: nothing is then read from the host in an epoch but the order of the rows.

    Args:
        rows: Features and targets, mapped from the disk.
        size: Rows of a batch.
        device: Where the batches are to be.
        shuffle: Whether each epoch has an order of its own.
        seed: Makes these orders reproducible; None draws them from torch's global random state.
        drop_last: Leave out a last batch that is smaller than the others.
        keep: Whether the device is to hold all the rows; None for where they fit.

    Attributes:
        device: Where the batches are.
        kept: Whether all the rows lie there too; otherwise each batch is read from the disk, and sent.

    Example:
        >>> batches = Batches((torch.rand(5, 3), torch.arange(5)), 2, torch.device("cpu"))
        >>> batches
        3 batches of 2 on cpu, from the disk
        >>> [targets.tolist() for features, targets in batches]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        rows: Pair,
        size: int,
        device: torch.device,
        *,
        shuffle: bool = False,
        seed: int | None = None,
        drop_last: bool = False,
        keep: bool | None = None,
    ) -> None:
        held = _on_device(rows, device, keep=keep)
        self.device = device
        self.kept = held is not None
        self._rows = rows if held is None else held
        self._size, self._shuffle, self._drop_last = size, shuffle, drop_last
        self._generator = None if seed is None else torch.Generator().manual_seed(check_seed(seed))

    def __len__(self) -> int:
        """How many batches an epoch has."""
        count = len(self._rows[0])
        return count // self._size if self._drop_last else -(-count // self._size)

    def __iter__(self) -> Iterator[Pair]:
        for chosen in torch.split(self._epoch_order(), self._size)[: len(self)]:
            features, targets = (self._gathered(rows, chosen) for rows in self._rows)
            yield features, targets

    def __repr__(self) -> str:
        return f"{len(self)} batches of {self._size} on {self.device}, {'kept there' if self.kept else 'from the disk'}"

    def _epoch_order(self) -> Tensor:
        """Order of the cached rows in one epoch, drawn on the CPU: a seed means the same one everywhere."""
        count = len(self._rows[0])
        if self._shuffle:
            order = torch.randperm(count, generator=self._generator, device="cpu")
        else:
            order = torch.arange(count, device="cpu")
        return order.to(self.device) if self.kept else order

    def _gathered(self, rows: Tensor, chosen: Tensor) -> Tensor:
        result = rows[chosen]
        if self.kept or self.device.type == "cpu":
            return result
        # sent while the device still works on the last batch, and while the next one is gathered
        result = result.pin_memory() if self.device.type == "cuda" else result
        return result.to(self.device, non_blocking=True)


def _on_device(rows: Pair, device: torch.device, *, keep: bool | None) -> Pair | None:
    """Cached features and targets, all copied to the device, if it is to hold them and can."""
    needed = sum(each.nbytes for each in rows)
    room = room_on(device)
    if keep is False or (keep is None and room is None):
        return None
    lacking = (
        f"they take {needed / 2**20:.0f} MiB of the {room / 2**20:.0f} that could be used" if room is not None else ""
    )
    if keep or needed <= (room or 0):
        try:
            features, targets = (each.to(device, copy=True) for each in rows)
        except torch.OutOfMemoryError:
            if keep:
                raise
            lacking += ", and those are in pieces, or taken by now"
        else:
            return features, targets
    warnings.warn(
        f"the features do not fit on {device}, so each batch is read from the disk and sent there: {lacking}",
        ZooWarning,
        stacklevel=5,
    )
    return None


def room_on(device: torch.device) -> int | None:
    """How many bytes of cached features a device can hold, with room for the work beside them.

    None where torch does not tell, which it does of CUDA devices, and for the CPU, which reads what is mapped.

    Example:
        >>> room_on(torch.device("cpu")) is None
        True
    """
    if device.type != "cuda":
        return None
    # what torch holds of the device without using it is free to torch
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + held
    return free - free // _SPARED

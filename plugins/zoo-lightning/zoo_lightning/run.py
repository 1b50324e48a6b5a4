"""``finetune``: from images to a saved model, in one call that can be killed and resumed."""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.tuner.tuning import Tuner
from torch import nn

import zoo_core as zoo
from zoo_core import errors
from zoo_lightning.callbacks import Finite, History, callbacks_of
from zoo_lightning.data import ImageData
from zoo_lightning.data_loaders import loaders
from zoo_lightning.datasets import datasets
from zoo_lightning.head_on_features import begin_with_head
from zoo_lightning.module import FineTune, require_frozen, require_trainable
from zoo_lightning.options import Options, checked, require_options
from zoo_lightning.read import read_data
from zoo_lightning.report import write_report
from zoo_lightning.resume import POINT, begin, require_free, require_same_run, resumable, run_facts
from zoo_lightning.strategies import require_processes, shards
from zoo_lightning.tasks import build, evaluation_of, module_for, suited

REPORT, METRICS = "report.html", "metrics.json"
_UNTIL = "until="
"""What ``freeze`` begins with where all before a part stays as it is, such as ``until=layer4``."""
_STEPS = 100
"""In which a learning rate is looked for."""
_SLOWEST = 1e-5
"""Below which none is looked for: the loss of few images falls as fast by chance, and a new head learns nothing."""
RUN = "run"
"""The ending of the folder of a run that is not finished, beside the one it writes to."""


@dataclass(frozen=True)
class _Run:
    """State of a run of :func:`finetune` that finishing it needs."""

    module: FineTune
    data: ImageData
    options: Options
    target: Path


@dataclass(frozen=True)
class Result:
    """What a run of :func:`finetune` leaves.

    Attributes:
        folder: The saved model, for ``zoo.load``.
        metrics: The last ones by name; and of the saved model on the validation images ``accuracy``, or ``map`` with
            its variants for boxes, or ``mean_iou`` and ``pixel_accuracy`` for masks.
        report: The page about the run.
        headline: The name and the value of the metric that counts most.
    """

    folder: Path
    metrics: dict[str, float]
    report: Path
    headline: tuple[str, float] = ("", 0.0)


def finetune(
    data: str | os.PathLike[str] | ImageData,
    *,
    model: str | nn.Module,
    out: str | os.PathLike[str],
    resume: bool = False,
    overwrite: bool = False,
    trainer: Mapping[str, Any] | None = None,
    **options: Any,
) -> Result:
    """Run a fine-tuning: train a model on images, and save it with class names, preprocessing, metrics and a report.

    Args:
        data: What :func:`zoo_lightning.read_data` reads, or what it gave.
        model: A name, as ``zoo.get`` takes it, or a model with as many outputs as there are classes.
        out: The folder to save to.
        resume: Go on with a run to this folder that was interrupted. On the CPU the weights are then those of a run
            without the interruption, bit for bit.
        overwrite: Begin a new run where one to this folder was interrupted, and replace a model that is saved there
            when the run has ended.
        trainer: Arguments of ``lightning.pytorch.Trainer``, such as ``{"devices": 2, "strategy": "ddp"}``. The
            weights are then those of one process with a batch as large, but for batch norms in training, each of which
            sees the images of its own process; on GPUs ``"sync_batchnorm": True`` has them see all.
        **options: The fields of :class:`Options`.

    Returns:
        Where the model is, and how good.

    Raises:
        UsageError: An option is unknown or impossible, or there is nothing to resume, or something to replace.
        ZooError: The data or the model cannot be read or downloaded, or the loss became nan.

    Example:
        >>> finetune("flowers/", model="resnet18", out="my-flowers", epochs=5)  # doctest: +SKIP
        Result(folder=PosixPath('my-flowers'), metrics={...}, report=PosixPath('my-flowers/report.html'))
    """
    chosen = checked(options)
    target = Path(out).expanduser()
    work = _work_folder(target)
    require_free(target, work, resume=resume, overwrite=overwrite)
    images = data if isinstance(data, ImageData) else read_data(data, val=chosen.val, seed=chosen.seed)
    module = _module(images, model, chosen)
    if not isinstance(model, str):
        _require_savable(module.model)
    history = History()
    engine = _trainer(chosen, work, [Finite(), *callbacks_of(chosen, work), history], dict(trainer or {}))
    require_processes(engine, chosen, len(images.val))
    with resumable(work):
        point = begin(work, run_facts(images, model, chosen), resume=resume)
        if chosen.head_epochs and point is None:
            begin_with_head(module, images, chosen, work)
        whole = copy.deepcopy(module) if shards(engine) else module
        _fit(engine, module, images, chosen, point)
        result = _finish(engine, _Run(whole, images, chosen, target), history)
    engine.strategy.barrier()  # every process has read the best weights
    if engine.is_global_zero:
        shutil.rmtree(work)
    return result


def check_run(
    data: ImageData,
    *,
    model: str,
    out: str | os.PathLike[str],
    resume: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Refuse what :func:`finetune` would refuse before it trains.

    Nothing is trained or written; a model on the hub is downloaded.

    Args:
        data: What :func:`zoo_lightning.read_data` gave.
        model: A name, as ``zoo.get`` takes it.
        out: The folder to save to.
        resume: Whether it would go on with a run to this folder.
        overwrite: Whether it may replace a model that is saved there, and what an interrupted run has reached.
        **options: The fields of :class:`Options`.

    Raises:
        UsageError: An option, a part, the model or the folder is impossible, or there is no such run to resume.
    """
    chosen, target = checked(options), Path(out).expanduser()
    work = _work_folder(target)
    require_free(target, work, resume=resume, overwrite=overwrite)
    if resume:
        require_same_run(work, run_facts(data, model, chosen))
    _module(data, model, chosen, values=False)
    _trainer(chosen, Path(), [], {"enable_progress_bar": False, "enable_checkpointing": False})


def _fit(engine: Trainer, module: FineTune, images: ImageData, chosen: Options, point: Path | None) -> None:
    """Train in a run, from its checkpoint where there is one."""
    train, val = loaders(
        images,
        module.model,
        augment=chosen.augment,
        batch_size=chosen.batch_size,
        workers=chosen.workers,
        seed=chosen.seed,
    )
    if chosen.lr is None and point is None:
        _find_lr(engine, module, train, val)
    engine.fit(module, train, val, ckpt_path=point, weights_only=True if point else None)


def _work_folder(target: Path) -> Path:
    """Name the folder that a run works in, beside the one that :func:`finetune` saves to."""
    return target.with_name(f"{target.name}.{RUN}")


def _require_savable(model: nn.Module) -> None:
    """Refuse a run whose model cannot be saved, by saving it to a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        zoo.save(model, Path(folder, "trial"))


def _module(data: ImageData, model: str | nn.Module, options: Options, *, values: bool = True) -> FineTune:
    """The module that a run trains: a model suited to the data, frozen and adapted as the options say."""
    require_options(data.task, asdict(options))
    built = suited(_built(data, model, options, values=values), data)
    for part in options.freeze:
        if part.startswith(_UNTIL):
            zoo.freeze(built, until=part.removeprefix(_UNTIL))
        else:
            zoo.freeze(built, part)
    if options.adapter:
        zoo.add_lora(built, rank=options.adapter_rank, seed=options.seed)
    schedule = options.unfreeze_at or {}
    require_trainable(built, [name for name, epoch in schedule.items() if not epoch])
    require_frozen(built, schedule)
    return module_for(
        built,
        data,
        lr=options.lr or 1e-3,
        head_lr=options.head_lr,
        layer_decay=options.layer_decay,
        weight_decay=options.weight_decay,
        label_smoothing=options.label_smoothing,
        class_weights=data.class_weights() if options.balance else None,
        mixup=options.mixup,
        multi_label=data.multi_label,
        unfreeze_at=options.unfreeze_at,
        seed=options.seed,
    )


def _built(data: ImageData, model: str | nn.Module, options: Options, *, values: bool) -> nn.Module:
    """The model of a run: built by its name, or as it was given."""
    if isinstance(model, str):
        return build(model, data, options.seed, weights=options.weights, values=values)
    if options.weights != "default":
        raise errors.UsageError("weights is for a model that is named", hint="leave it out: the model has its own")
    return model


def _trainer(options: Options, work: Path, callbacks: Sequence[Callback], arguments: dict[str, Any]) -> Trainer:
    """Lightning's Trainer for a run, with the arguments of the caller."""
    own = arguments.pop("callbacks", None)
    own = [own] if isinstance(own, Callback) else list(own or ())
    settings: dict[str, Any] = {
        "max_epochs": options.epochs,
        "precision": options.precision,
        "accumulate_grad_batches": options.accumulate,
        "default_root_dir": work,
        "callbacks": [*callbacks, *own],
        "logger": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,  # ours knows the processes, and keeps its order
        "log_every_n_steps": 1,
        **arguments,
    }
    try:
        return Trainer(**settings)
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise errors.UsageError(
            "Lightning's Trainer does not take these arguments",
            cause=str(error).partition("\n")[0],
            hint="ModelParallelStrategy(save_distributed_checkpoint=False) trains on CPUs too"
            if "`fsdp`" in str(error)
            else "another precision, or other arguments for trainer",
        ) from error


def _find_lr(engine: Trainer, module: FineTune, train: Any, val: Any) -> None:
    """Find the learning rate of a run at which its loss falls fastest, however few steps an epoch has."""
    epochs = engine.fit_loop.max_epochs
    engine.fit_loop.max_epochs = max(epochs or 0, 1 + _STEPS // len(train))
    quiet = redirect_stderr(io.StringIO()) if engine.progress_bar_callback is None else nullcontext()
    with quiet:  # the finder has a progress bar of its own
        result = Tuner(engine).lr_find(module, train, val, min_lr=_SLOWEST, num_training=_STEPS)
    engine.fit_loop.max_epochs = epochs
    suggestion = result.suggestion() if result else None
    if suggestion is None:
        warnings.warn(f"no learning rate was found, so it is {module.lr}", errors.ZooWarning, stacklevel=3)
    module.lr = suggestion or module.lr


def _finish(engine: Trainer, run: _Run, history: History) -> Result:
    """Finish a run: save the best weights, the metrics and the report; the first process alone writes."""
    point = Path(engine.default_root_dir, POINT)
    if not history.rows and point.is_file():  # processes that were spawned, as by a notebook, trained copies
        state = torch.load(point, map_location="cpu", weights_only=True)["callbacks"]
        history.load_state_dict(state[history.state_key])
    metrics = history.last
    report = run.target / REPORT
    if not engine.is_global_zero:
        return Result(run.target, metrics, report)
    if best := getattr(engine.checkpoint_callback, "best_model_path", ""):
        state = torch.load(best, map_location="cpu", weights_only=True)["state_dict"]
        run.module.load_state_dict(state)
    run.module.float()  # whatever precision it was trained in: images are of this one
    options = run.options
    _, val = datasets(run.data, run.module.model, augment=options.augment, seed=options.seed)
    evaluation = evaluation_of(run.module, val, run.data, batch_size=options.batch_size, workers=options.workers)
    metrics |= evaluation.metrics
    zoo.save(run.module.model, run.target, class_names=run.data.class_names, multi_label=run.data.multi_label)
    settings = asdict(options)
    summary = {"metrics": metrics, "settings": settings, "notes": run.data.notes}
    (run.target / METRICS).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    page = write_report(
        title=run.target.name,
        data=run.data,
        model=run.module.model,
        history=history.rows,
        evaluation=evaluation,
        settings=settings,
    )
    report.write_text(page, encoding="utf-8", errors="backslashreplace")  # names of folders need not be UTF-8
    return Result(run.target, metrics, report, evaluation.headline)

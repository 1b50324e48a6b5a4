"""The folder of a run that is not finished: what a process killed in it leaves, and how another goes on."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

from lightning.pytorch.callbacks import Checkpoint

from zoo_core import errors

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import nn

    from zoo_lightning.data import ImageData
    from zoo_lightning.options import Options

POINT, FACTS = "last.ckpt", "run.json"


def require_free(target: Path, work: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse to begin or resume a run where it would replace what another has saved or reached.

    Args:
        target: The folder that the run saves to.
        work: The folder that it works in.
        resume: Whether it goes on with a run.
        overwrite: Whether it may replace a save, and what an interrupted run has reached.

    Raises:
        UsageError: There is a save or an interrupted run and it may not, or something else than a save.
    """
    try:
        is_save, is_folder = (target / "recipe.json").is_file(), target.is_dir()
        is_other = any(target.iterdir()) and not is_save if is_folder else target.exists() or target.is_symlink()
    except OSError as error:
        raise errors.UsageError(
            f"{target} cannot be written", cause=error.strerror, hint="choose another folder for out"
        ) from error
    if is_other:
        raise errors.UsageError(
            f"{target} is something else than a saved model",
            expected="a folder that a run saved to, an empty one, or none",
            hint="choose another folder for out",
        )
    if resume or overwrite:
        return
    if (work / POINT).is_file():
        raise errors.UsageError(
            f"a run to {target} was interrupted, and a new one would replace what it has reached",
            hint="resume=True (--resume) goes on with it; overwrite=True (--overwrite) begins a new one",
        )
    if is_save:
        raise errors.UsageError(
            f"{target} holds a saved model already",
            hint="choose another folder for out; overwrite=True (--overwrite) replaces it when the run has ended",
        )


def begin(work: Path, facts: Mapping[str, Any], *, resume: bool) -> Path | None:
    """Enter the folder of a run, to begin it or to resume it.

    Args:
        work: The folder.
        facts: What the result depends on, as JSON has it.
        resume: Go on with the run that was interrupted in it; otherwise its checkpoints go.

    Returns:
        The checkpoint to go on from; None where there is none yet.

    Raises:
        UsageError: There is no run to resume, or it was begun with other facts.
    """
    if resume:
        require_same_run(work, facts)
        return work / POINT if (work / POINT).is_file() else None
    work.mkdir(parents=True, exist_ok=True)
    for stale in work.glob("*.ckpt"):  # of a run that is not resumed
        stale.unlink(missing_ok=True)
    partial = work / f".{FACTS}.{os.getpid()}"
    partial.write_text(json.dumps(facts), encoding="utf-8")
    partial.replace(work / FACTS)
    return None


def require_same_run(work: Path, facts: Mapping[str, Any]) -> None:
    """Refuse to resume what is not there, or was begun with other facts.

    Raises:
        UsageError: There is no run to resume, it was begun with other facts, or a file of it is damaged.
    """
    if not (work / FACTS).is_file():
        raise errors.UsageError(f"there is no run to resume in {work}", hint="leave resume (--resume) out to begin one")
    before = _facts_in(work)
    if differing := [name for name, value in facts.items() if before.get(name) != value]:
        raise errors.UsageError(
            f"the run in {work} was begun with another {' and another '.join(differing)}",
            expected=", ".join(f"{name}: {_short_value(before.get(name))}" for name in differing),
            got=", ".join(f"{name}: {_short_value(facts[name])}" for name in differing),
            hint="resume it with the same; overwrite=True (--overwrite) without resume begins a new one",
        )


def _facts_in(work: Path) -> dict[str, Any]:
    """What the run to resume was begun with.

    Raises:
        UsageError: That, or its checkpoint, is damaged.
    """
    try:
        result = json.loads((work / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(work / FACTS, str(error)) from error
    if not isinstance(result, dict):
        raise _damaged(work / FACTS, f"a {type(result).__name__} instead of an object")
    if (work / POINT).exists() and (fault := _fault_in(work / POINT)):
        raise _damaged(work / POINT, fault)
    return result


def _fault_in(checkpoint: Path) -> str:
    """What is wrong with the file of a checkpoint to resume from; empty where each checksum in it is right."""
    try:
        with ZipFile(checkpoint) as file:
            part = file.testzip()
    except BadZipFile:
        return "no checkpoint that torch.save wrote to its end"
    except (OSError, ValueError, EOFError, NotImplementedError, zlib.error) as error:
        return str(error) or type(error).__name__
    return f"{part} in it is not as it was written" if part else ""


def _damaged(path: Path, got: str) -> errors.UsageError:
    """The error for a file of a run to resume that cannot be read."""
    best = path.with_name("best.ckpt")
    copy = f" from a copy of {best}, whose weights were the best so far: weights=COPY (--weights COPY)"
    return errors.UsageError(
        f"{path} cannot be read, so that the run cannot be resumed",
        got=got,
        cause="the file was changed or copied in part, or the disk is failing",
        hint="begin a new run, overwrite=True (--overwrite) without resume (--resume)"
        + (copy if best.is_file() and not _fault_in(best) else ""),
    )


def _short_value(value: object) -> str:
    """A value cut to a line, to say in what a run to resume differs."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - a line


@contextmanager
def resumable(work: Path) -> Iterator[None]:
    """Turn Ctrl-C, a full disk and a batch of one into errors that say how to resume.

    Raises:
        UsageError: A batch norm was given a batch of one, or the folder of the run cannot be written to.
        KeyboardInterrupt: Ctrl-C was pressed; Lightning would exit with status 1.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        if not isinstance(error, KeyboardInterrupt) and not isinstance(error.__context__, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt(
            f"interrupted: resume=True (--resume) continues from the last complete epoch in {work}"
        ) from None
    except ValueError as error:
        if "Expected more than 1 value per channel" not in str(error):
            raise
        raise errors.UsageError(
            "a batch norm was given a batch of one image", cause=str(error), hint="a batch_size of at least 2"
        ) from error
    except (OSError, RuntimeError) as error:
        if isinstance(error, errors.ZooError) or not _is_write_error(error, work):
            raise
        raise errors.UsageError(
            f"the run cannot be written to {work}",
            cause=str(error).partition("\n")[0],
            hint="free some space and go on with resume, or choose another folder for out",
        ) from error


def _is_write_error(error: OSError | RuntimeError, work: Path) -> bool:
    """Whether an error is about the folder of a run to resume, and not about an image or what a callback opens."""
    if not isinstance(error, OSError):
        return "file write failed" in str(error)  # torch.save on a full disk
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    about = path is not None and (path == work or path in work.parents or work in path.parents)
    return about or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class ResumePoint(Checkpoint):
    """Callback of Lightning's that writes a checkpoint after each epoch, under another name until it is whole.

    It is a ``Checkpoint``, and comes after ``ModelCheckpoint`` in the list, so that Lightning calls it last: it holds
    the state of all other callbacks after the epoch, such as which one was the best.

    Args:
        path: The checkpoint to go on from.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's signature
        """Every process takes part, as sharded strategies need; one renames."""
        partial = self.path.with_suffix(".partial")
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            partial.replace(self.path)


def run_facts(data: ImageData, model: str | nn.Module, options: Options) -> dict[str, Any]:
    """The facts that decide what a run of ``finetune`` results in, its data, model and options, as JSON has them."""
    samples = repr([[replace(sample, source=b"") for sample in side] for side in (data.train, data.val)])
    with ThreadPoolExecutor() as pool:
        contents = list(pool.map(lambda sample: (sample.num_bytes(), sample.start()), (*data.train, *data.val)))
    chosen = {name: value for name, value in asdict(options).items() if name != "workers"}
    facts = {
        "model": model if isinstance(model, str) else type(model).__name__,
        "class names": data.class_names,
        "images": hashlib.sha256(f"{samples} {contents}".encode()).hexdigest(),
        **chosen,
    }
    return dict(json.loads(json.dumps(facts)))

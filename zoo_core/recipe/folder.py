"""The folder of a save: written so that a reader finds the old save, the new one, or none, but never a half."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import DigestMismatch, Unreadable, UsageError, WeightsError
from zoo_core.recipe.record import FILE, Recipe, check_plain_file, read_recipe
from zoo_core.utils.atomic_write import sync_folder
from zoo_core.weights.digest import agrees, sha256_of
from zoo_core.weights.download.ownership import is_unfinished, unfinished_folder
from zoo_core.weights.formats.safetensors import read_safetensors

if TYPE_CHECKING:
    from torch import Tensor

_SHOWN = 8
"""Digits of the digest in the name of the tensors' file."""


def check_target(folder: Path) -> None:
    """Refuse to write the folder of a save where something else is.

    Raises:
        UsageError: There is a file, or a folder that is no save.
    """
    is_free = not folder.exists() or (folder.is_dir() and all(map(is_unfinished, folder.iterdir())))
    if is_free and not folder.is_symlink():
        return
    if not folder.is_dir() or not _is_save(folder):
        raise UsageError(
            f"{folder} is something else than a save of zoo",
            expected="a folder that zoo.save made, an empty one, or none",
            got="a file" if folder.is_file() else "a folder with other files",
            done="nothing was written",
            hint="choose another folder",
        )


def _is_save(folder: Path) -> bool:
    """Whether a folder is that of a save."""
    try:
        read_recipe(folder / FILE)
    except Unreadable:
        return False
    return True


def write(folder: Path, recipe: Recipe, tensors: dict[str, Tensor]) -> None:
    """Write a save; a folder that is one already changes over to the new one in a single rename.

    Raises:
        UsageError: There is something else.
        WeightsError: The disk is full, or the folder cannot be written.
    """
    from safetensors import SafetensorError

    check_target(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists() and any(folder.iterdir()):
            _replace(folder, recipe, tensors)
        else:
            _create(folder, recipe, tensors)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"cannot save to {folder}",
            got=getattr(error, "strerror", None) or str(error),
            done="what was there before is untouched",
            hint="free some space, or choose another folder",
            path=folder,
        ) from error


def _create(folder: Path, recipe: Recipe, tensors: dict[str, Tensor]) -> None:
    """Write the folder of a new save under another name, and rename it when it is whole.

    Where another process has saved there meanwhile, as all those of ``torchrun`` do at once, the last one wins. So
    does a save to an empty folder that cannot be exchanged, such as a volume of a container.
    """
    try:
        with unfinished_folder(folder.parent, folder.name) as partial:
            _fill(partial, recipe, tensors)
            if folder.exists():
                folder.rmdir()  # empty; only some systems rename onto it
            partial.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        _replace(folder, recipe, tensors)
    sync_folder(folder.parent)


def _replace(folder: Path, recipe: Recipe, tensors: dict[str, Tensor]) -> None:
    """Write a save into its folder, first the tensors, and remove the tensors of the one before."""
    before = read_recipe(folder / FILE).tensors["file"] if (folder / FILE).exists() else None
    with unfinished_folder(folder, "save") as partial:
        for name in (_fill(partial, recipe, tensors), FILE):
            _settle(partial / name, folder / name)
    sync_folder(folder)
    now = read_recipe(folder / FILE).tensors["file"]  # that of another process, where one has saved there since
    if before and before != now and before == Path(before).name:
        (folder / before).unlink(missing_ok=True)


def _fill(folder: Path, recipe: Recipe, tensors: dict[str, Tensor]) -> str:
    """Fill the folder of a save, which nothing points to yet, with recipe and tensors, and give the name of these."""
    from safetensors.torch import save_file

    path = folder / "model.safetensors"
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)  # of the umask: safetensors renames a private file over it
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(mode)
    digest, size = sha256_of(path), path.stat().st_size
    name = f"model-{digest[:_SHOWN]}.safetensors"
    path.rename(folder / name)
    complete = replace(recipe, tensors={**recipe.tensors, "file": name, "sha256": digest, "size": size})
    (folder / FILE).write_text(complete.text(), encoding="utf-8")
    for each in (name, FILE):
        with (folder / each).open("rb+") as file:
            os.fsync(file.fileno())
    sync_folder(folder)
    return name


def _settle(path: Path, final: Path) -> None:
    """Give a file in the folder of a save, which is on the disk, its final name."""
    path.replace(final)


def read_tensors(folder: Path, recipe: Recipe) -> dict[str, Tensor]:
    """Read the file of tensors in the folder of a save, once its digest is that in the recipe.

    Raises:
        Unreadable: The file is not there, or is no safetensors.
        DigestMismatch: It is another file.
    """
    name = recipe.tensors["file"]
    path = folder / name
    if name != Path(name).name or path not in set(folder.iterdir()):
        raise Unreadable(
            f"the save {folder} has no tensors",
            expected=f"the file {name!r} beside the recipe",
            cause="the folder was copied in part",
            path=path,
        )
    check_plain_file(path)
    size = path.stat().st_size
    if size != recipe.tensors.get("size", size):  # before it is hashed, which takes hours of a file with a vast hole
        raise _other_file(path, recipe, f"{recipe.tensors['size']:,} bytes", f"{size:,} bytes", "")
    got = sha256_of(path)
    if not agrees(got, recipe.tensors["sha256"]):
        raise _other_file(path, recipe, f"SHA-256 {recipe.tensors['sha256']}", f"SHA-256 {got}", got)
    return read_safetensors(path)[0]


def _other_file(path: Path, recipe: Recipe, expected: str, got: str, digest: str) -> DigestMismatch:
    """The error for the folder of a save with other tensors than were written; no digest where they were not read."""
    return DigestMismatch(
        f"{path} is not the file that was saved",
        expected=expected,
        got=got,
        done="nothing was loaded",
        cause="the file was damaged or changed after zoo.save",
        expected_digest=recipe.tensors["sha256"],
        got_digest=digest,
        source=str(path),
    )

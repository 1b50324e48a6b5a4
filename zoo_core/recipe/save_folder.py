"""The folder of a save: read as a stranger's, and written so that a reader finds the old save, the new, or none."""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.contract.card import Preprocessing
from zoo_core.contract.card_file import preprocessing_from_record, preprocessing_to_record
from zoo_core.errors import DigestMismatch, Unreadable, UsageError, WeightsError
from zoo_core.images.preprocessing import current_preprocessing
from zoo_core.recipe.record import ANY_NUMBER, FILE, Recipe, damaged, recipe_of
from zoo_core.surgery.metadata import Edit
from zoo_core.utils.atomic_write import sync_folder
from zoo_core.utils.no_follow import real
from zoo_core.utils.paths import expand, is_file, is_folder, is_link, is_there, is_written_as_path
from zoo_core.weights.digest import agrees, sha256_of
from zoo_core.weights.download.ownership import is_unfinished, unfinished_folder
from zoo_core.weights.formats.memory_limits import TooMuchMemory, not_read, require_small_json
from zoo_core.weights.formats.plain_pickle import NotPlain
from zoo_core.weights.formats.safetensors import read_safetensors
from zoo_core.weights.hub_folder import fetch_folder, is_hub_name

if TYPE_CHECKING:
    from torch import Tensor

_DIGITS = 8
"""Of the digest, in the name of the tensors' file."""
_SHOWN = 10
"""Class names in the outline."""
_OF_TIMM = re.compile(r"hf[-_]hub:([\w.-]+/[\w.-]+)(?:@[\w.-]+)?$")
_LARGEST = 16 << 20
_BLOBS = "blobs"
"""Where the Hugging Face cache keeps what the links in a ``snapshots/<revision>`` folder point to."""


def read_recipe(path: Path) -> Recipe:
    """Read the recipe in the folder of a save.

    Raises:
        Unreadable: There is none, or it is damaged, or a newer zoo wrote it.
    """
    if is_file(path.parent):
        raise Unreadable(
            f"{path.parent} is not a model that zoo saved",
            expected=f"a folder with a {FILE}",
            got="a file",
            hint="zoo.get(name, weights=path) takes a file of weights; zoo inspect says what it is",
            path=path.parent,
        )
    try:
        check_plain_file(path, limit=_LARGEST)
        text = path.read_bytes()
        require_small_json(text, len(text))
        record = json.loads(text)
    except FileNotFoundError as error:
        raise Unreadable(
            f"{path.parent} is not a model that zoo saved",
            expected=f"a folder with a {FILE}",
            got="a folder without one" if is_folder(path.parent) else "no such folder",
            hint=_hint_without_recipe(path.parent),
            path=path.parent,
        ) from error
    except TooMuchMemory as error:
        raise not_read(path, error) from error
    except PermissionError as error:
        raise Unreadable(
            f"{path} cannot be read", got=error.strerror, hint="look who may read it, and its folders", path=path
        ) from error
    except (OSError, ValueError, RecursionError, NotPlain) as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error
    return recipe_of(record, path)


def _hint_without_recipe(folder: Path) -> str:
    """The hint where a folder has no recipe; a repository on the hub for timm gets one of its own."""
    if named := _OF_TIMM.search(folder.as_posix()):
        save = f"zoo.load('hf://{named[1]}') loads a save that zoo.push shared there"
        return f"{save}; zoo.get({named[0]!r}) says which model has the weights of a repository for timm"
    return "zoo.save(model, folder) makes one"


def is_save(model: str | os.PathLike[str]) -> bool:
    """Whether something stands for the folder of a save: a name on the hub, a path, or a folder with a recipe."""
    if is_hub_name(model):
        return True
    return is_written_as_path(model) or is_file(Path(model) / FILE)


def outline_of(name: str, *, as_json: bool = False) -> str:
    """What the folder of a save holds, by its recipe, in a few lines or as JSON.

    Raises:
        Unreadable: It is none.
    """
    folder = fetch_folder(name) if is_hub_name(name) else expand(name)
    recipe = read_recipe(folder / FILE)
    if as_json:
        return recipe.text().rstrip()
    names = recipe.class_names
    prepared = preprocessing_to_record(preprocessing_of_save(recipe))
    lines = {
        "model": recipe.id + (f", from {recipe.weights['tag']}" if recipe.weights.get("tag") else ""),
        "surgery": ", ".join(str(edit["verb"]) for edit in recipe.edits),
        "classes": f"{len(names)}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        + (f"; {ANY_NUMBER}" if recipe.multi_label else "")
        if names
        else "",
        "preprocessing": ", ".join(f"{key} {value}" for key, value in prepared.items()),
        "frozen": ", ".join(recipe.frozen),
        "tensors": f"{recipe.tensors['file']}, {recipe.tensors.get('size', 0):,} bytes, {recipe.dtype}",
        "saved with": ", ".join(f"{key} {value}" for key, value in recipe.versions.items()),
    }
    return "\n".join(f"{key}: {value}" for key, value in lines.items() if value)


def preprocessing_of_save(recipe: Recipe) -> Preprocessing | None:
    """The preprocessing of a saved model: where its recipe starts, and what its edits made of it.

    Returns:
        The preprocessing, NaN for a channel without numbers; None where nothing says it.

    Raises:
        Unreadable: They are no such records.
    """
    try:
        start = preprocessing_from_record(dict(recipe.preprocessing))
        edits = [
            Edit(edit["verb"], {name: value for name, value in edit.items() if name != "verb"}) for edit in recipe.edits
        ]
        return current_preprocessing(start, edits)
    except (KeyError, TypeError, ValueError) as error:  # a stranger's recipe
        cause = f"{type(error).__name__}: {error}"
        raise Unreadable("the recipe of the save does not say how images are prepared", cause=cause) from error


def check_plain_file(path: Path, *, limit: int | None = None) -> None:
    """Refuse a file of the folder of a save that is no ordinary file in it, such as a link to another place.

    Raises:
        FileNotFoundError: There is none.
        Unreadable: It is a link to another place, a pipe, a device, a folder, or too large.
    """
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        if real(path).parent != real(path.parent).parent.parent / _BLOBS:
            raise _not_plain(path, "a link to another place")
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise _not_plain(path, "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device")
    if limit is not None and status.st_size > limit:
        raise _not_plain(path, f"{status.st_size} bytes, and {limit} at most are read")


def _not_plain(path: Path, got: str) -> Unreadable:
    """The error for a file of the folder of a save that is no ordinary one."""
    return Unreadable(
        f"{path} is not read",
        expected="an ordinary file, as zoo.save writes it",
        got=got,
        done="nothing was opened",
        hint="copy the folder with its files and not with links: cp -rL",
        path=path,
    )


def check_target(folder: Path) -> None:
    """Refuse to write the folder of a save where something else is.

    Raises:
        UsageError: There is a file, or a folder that is no save.
    """
    is_free = not is_there(folder) or (folder.is_dir() and all(map(is_unfinished, folder.iterdir())))
    if is_free and not is_link(folder):
        return
    if not folder.is_dir() or not _has_recipe(folder):
        raise UsageError(
            f"{folder} is something else than a save of zoo",
            expected="a folder that zoo.save made, an empty one, or none",
            got="a file" if folder.is_file() else "a folder with other files",
            done="nothing was written",
            hint="choose another folder",
        )


def _has_recipe(folder: Path) -> bool:
    """Whether a folder is that of a save, by a recipe that can be read."""
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
    name = f"model-{digest[:_DIGITS]}.safetensors"
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

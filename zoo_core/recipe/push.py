"""``zoo.push``: a saved folder to the Hugging Face hub."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo_core import settings
from zoo_core.errors import Offline, UsageError, ZooError
from zoo_core.recipe.model_card import model_card
from zoo_core.recipe.record import FILE
from zoo_core.recipe.save_folder import check_plain_file, read_recipe
from zoo_core.recipe.timm_config import timm_config
from zoo_core.utils.arguments import strict_arguments
from zoo_core.weights.digest import sha256_of
from zoo_core.weights.hub_folder import SCHEME, parse
from zoo_core.weights.transport.hub import hub_client, hub_error

_TENSORS = "model.safetensors"
_METRICS = "metrics.json"
_CONFIG = "config.json"
_LARGEST = 1 << 20
"""Bytes of the largest file of metrics."""


@strict_arguments
def push(folder: str | os.PathLike[str], to: str, *, private: bool | None = None) -> str:
    """Share the folder of a save on the Hugging Face hub (``zoo-core[hub]``).

    The repository gets ``model.safetensors``, ``recipe.json``, and a model card written from the recipe: base model and
    its licence, classes, preprocessing, how to load. It is made when it is not there. ``HF_TOKEN`` says who you are.
    A model that is timm's own, with another number of classes or channels at most, gets timm's ``config.json`` too, so
    that ``timm.create_model("hf_hub:owner/name", pretrained=True)`` loads it; another push takes that file
    away.

    Args:
        folder: Where :func:`zoo_core.save` saved a model.
        to: ``hf://owner/name``, or ``hf://owner/name@branch``.
        private: Whether a new repository is private; None for what your account says.

    Returns:
        ``hf://owner/name@commit``, which :func:`zoo_core.load` takes.

    Raises:
        Unreadable: The folder is no save, or a file in it is a link to another place.
        UsageError: ``to`` is no name on the hub, the tensors are not those that were saved, or the temporary folder has
            no room for a copy of them.
        Offline: ``ZOO_OFFLINE`` is set.
        FetchError: The hub does not take it.

    Example:
        >>> import zoo_core as zoo
        >>> zoo.push("flowers/", "me/flowers")
        Traceback (most recent call last):
        ...
        zoo_core.errors.UsageError: 'me/flowers' is no name on the hub
          expected: hf://owner/name, or hf://owner/name@revision
    """
    repo, branch = parse(to)
    source = Path(folder)
    recipe = read_recipe(source / FILE)
    tensors = source / Path(recipe.tensors["file"]).name
    if not tensors.is_file() or sha256_of(tensors) != recipe.tensors["sha256"]:
        raise UsageError(f"{tensors} is not what was saved", done="nothing was sent", hint="save the model again")
    check_plain_file(tensors)
    metrics = _metrics(source)
    if settings.offline():
        raise Offline("nothing is sent while ZOO_OFFLINE is set", hint="unset it")
    api = hub_client()
    with _staging() as staging:
        shutil.copyfile(tensors, Path(staging, _TENSORS))
        shared = replace(recipe, tensors={**recipe.tensors, "file": _TENSORS})
        Path(staging, FILE).write_text(shared.text(), encoding="utf-8")
        config = timm_config(recipe, tensors)
        if config is not None:
            Path(staging, _CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
        text = model_card(shared, repo, metrics, for_timm=config is not None)
        Path(staging, "README.md").write_text(text, encoding="utf-8", errors="backslashreplace")
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            if branch not in (None, "main"):
                api.create_branch(repo, branch=branch, exist_ok=True)
            info = api.upload_folder(
                repo_id=repo,
                folder_path=staging,
                revision=branch,
                commit_message=f"Share {recipe.id} from zoo",
                delete_patterns=None if config is not None else [_CONFIG],  # one of an earlier push
            )
        except Exception as error:  # the client raises its own errors, and those of its transport
            said = "set HF_TOKEN to a token with write access to it"
            raise hub_error(f"{to} does not take it", error, to, said) from error
    return f"{SCHEME}{repo}@{info.oid}"


@contextmanager
def _staging() -> Iterator[str]:
    """A temporary folder for the files to push.

    Raises:
        UsageError: There is no room for them, or no such folder.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield folder
    except OSError as error:
        if isinstance(error, ZooError):
            raise
        raise UsageError(
            f"the files to push could not be written to {tempfile.gettempdir()}",
            cause=str(error),
            hint="set TMPDIR to a folder with more room",
        ) from error


def _metrics(folder: Path) -> dict[str, Any]:
    """The metrics to push: what a training run wrote beside the save; not what a link leads to."""
    file = folder / _METRICS
    if not file.is_symlink() and not file.exists():
        return {}
    check_plain_file(file, limit=_LARGEST)
    try:
        result = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if isinstance(result, dict) and isinstance(result.get("metrics"), dict):  # as zoo finetune writes it
        result = result["metrics"]
    if not isinstance(result, dict):
        return {}
    return {
        name: f"{value:.4g}" if isinstance(value, float) else value
        for name, value in result.items()
        if isinstance(value, int | float | str)
    }

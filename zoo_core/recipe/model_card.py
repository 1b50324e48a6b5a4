"""The README of a shared model, written from its recipe."""

from __future__ import annotations

import json
import re
from typing import Any

from zoo_core.contract.card_file import preprocessing_to_record
from zoo_core.errors import UsageError
from zoo_core.recipe.record import ANY_NUMBER, Recipe
from zoo_core.recipe.save_folder import preprocessing_of_save
from zoo_core.registry.zoo import current_zoo

_NAMED_AT_MOST = 50


def model_card(recipe: Recipe, repo: str, metrics: dict[str, Any] | None = None, *, for_timm: bool = False) -> str:
    """Markdown with the metadata that the hub reads: base model, licence, classes, preprocessing, how to load."""
    head = [
        "---",
        "library_name: zoo",
        f"tags: [zoo, {json.dumps(recipe.family)}]",
        f"license: {_license(recipe)}",
        "---",
        "",
    ]
    tag = recipe.weights.get("tag")
    origin = f"the weights {_plain(tag)}" if tag else "no published weights"
    lines = [
        f"# {repo.rpartition('/')[2]}",
        "",
        f"A {_plain(recipe.id)} that began with {origin}, saved by zoo.",
        "",
        "```python",
        "import zoo_core as zoo",
        "",
        f'model = zoo.load("hf://{repo}")',
        'zoo.predict(model, "image.jpg")',
        "```",
        "",
        *_with_timm(repo, for_timm=for_timm),
        f"Licence of the base weights: {_license(recipe)}.",
        "",
    ]
    if names := recipe.class_names:
        more = f", and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
        lines += ["## Classes", "", ", ".join(map(_plain, names[:_NAMED_AT_MOST])) + more, ""]
    if recipe.multi_label:
        lines += [f"{ANY_NUMBER[0].upper()}{ANY_NUMBER[1:]}.", ""]
    if metrics:
        lines += ["## Metrics", "", *(f"- {_plain(name)}: {_plain(value)}" for name, value in metrics.items()), ""]
    if record := preprocessing_to_record(preprocessing_of_save(recipe)):
        lines += ["## Preprocessing", "", "```json", json.dumps(record, indent=2), "```", ""]
    versions = ", ".join(_plain(f"{name} {version}") for name, version in recipe.versions.items())
    return "\n".join([*head, *lines, f"Saved with {versions}.", ""])


def _with_timm(repo: str, *, for_timm: bool) -> list[str]:
    line = f'model = timm.create_model("hf_hub:{repo}", pretrained=True)'
    return ["or with timm alone:", "", "```python", "import timm", "", line, "```", ""] if for_timm else []


def _plain(text: object) -> str:
    """A text that the Markdown of a model card shows as it is: a class may be called anything."""
    return re.sub(r"([\\`*_\[\]<>#|&])", r"\\\1", " ".join(str(text).split()))


def _license(recipe: Recipe) -> str:
    """The licence on a model card: that of the weights that the model began with, where that is known."""
    try:
        card = current_zoo().resolve(recipe.id)[0]
        return card.find(recipe.weights["tag"]).licenses.weights
    except (UsageError, KeyError):
        return "unknown"

"""Fine-tuning for zoo on Lightning's Trainer: ``zoo finetune DATA --model NAME``.

In Python::

    from zoo_lightning import finetune

    result = finetune("flowers/", model="resnet18", out="my-flowers", epochs=5)

:class:`FineTune` is an ordinary ``LightningModule`` to subclass, :func:`read_data` what it is trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo_core.plugin import hookimpl

if TYPE_CHECKING:
    from zoo_lightning.data import ImageData as ImageData
    from zoo_lightning.module import FineTune as FineTune
    from zoo_lightning.read import read_data as read_data
    from zoo_lightning.run import Result as Result
    from zoo_lightning.run import finetune as finetune

__all__ = ["FineTune", "ImageData", "Result", "finetune", "read_data"]

_MODULES = {"FineTune": "module", "ImageData": "data", "Result": "run", "finetune": "run", "read_data": "read"}


@hookimpl
def zoo_commands() -> Mapping[str, str]:
    """The hook of the package zoo-lightning that adds ``finetune`` to the commands of zoo."""
    return {"finetune": "zoo_lightning.command:finetune"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is used: listing the models of all plugins must not import Lightning."""
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

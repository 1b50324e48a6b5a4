"""zoo: any pretrained network of any installed family, verified, with one set of surgery tools.

Use it as ``import zoo_core as zoo; model = zoo.get("resnet18", num_classes=9)``. The public names are loaded when they
are first used, so that importing this package costs nothing and never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zoo_core.build.encoder import encoder as encoder
    from zoo_core.build.get import get as get
    from zoo_core.contract.anatomy import Anatomy as Anatomy
    from zoo_core.contract.anatomy import Head as Head
    from zoo_core.contract.anatomy import InputScaling as InputScaling
    from zoo_core.contract.anatomy import Stage as Stage
    from zoo_core.contract.card import Card as Card
    from zoo_core.contract.card import Licenses as Licenses
    from zoo_core.contract.card import Preprocessing as Preprocessing
    from zoo_core.contract.card import Weights as Weights
    from zoo_core.contract.card_file import read_cards as read_cards
    from zoo_core.contract.chain import Chain as Chain
    from zoo_core.contract.chain import flatten as flatten
    from zoo_core.contract.family import Family as Family
    from zoo_core.contract.hooks import hookimpl as hookimpl
    from zoo_core.contract.records import write_cards as write_cards
    from zoo_core.embedding.cached_features import cached_features as cached_features
    from zoo_core.errors import AnatomyError as AnatomyError
    from zoo_core.errors import ZooError as ZooError
    from zoo_core.errors import ZooWarning as ZooWarning
    from zoo_core.inspect.activations import activation_stats as activation_stats
    from zoo_core.preprocessing.transforms import transforms as transforms
    from zoo_core.recipe.load import load as load
    from zoo_core.recipe.save import save as save
    from zoo_core.registry.zoo import Zoo as Zoo
    from zoo_core.registry.zoo import info as info
    from zoo_core.registry.zoo import list_models as list  # noqa: A004 - zoo.list is the field's word for it
    from zoo_core.registry.zoo import use as use
    from zoo_core.surgery.features.branch import branch as branch
    from zoo_core.surgery.features.extract import features as features
    from zoo_core.surgery.features.measure import measure_stages as measure_stages
    from zoo_core.surgery.features.split import split as split
    from zoo_core.surgery.features.truncate import truncate as truncate
    from zoo_core.surgery.fine_tuning.drift import drift as drift
    from zoo_core.surgery.fine_tuning.freeze import freeze as freeze
    from zoo_core.surgery.fine_tuning.freeze import unfreeze as unfreeze
    from zoo_core.surgery.fine_tuning.init_weights import init_weights as init_weights
    from zoo_core.surgery.fine_tuning.load_partial import load_partial as load_partial
    from zoo_core.surgery.fine_tuning.param_groups import param_groups as param_groups
    from zoo_core.surgery.head.keypoints import swap_keypoints as swap_keypoints
    from zoo_core.surgery.head.mlp import mlp_head as mlp_head
    from zoo_core.surgery.head.swap import swap_head as swap_head
    from zoo_core.surgery.metadata import adopt as adopt
    from zoo_core.surgery.metadata import anatomy_of as anatomy
    from zoo_core.surgery.metadata import class_names_of as class_names
    from zoo_core.surgery.metadata import receipt_of as receipt
    from zoo_core.surgery.receipt import Receipt as Receipt
    from zoo_core.surgery.stem.adapt import adapt_stem as adapt_stem

__version__ = "0.1.0"

_PUBLIC = {
    # the registry
    "get": "zoo_core.build.get:get",
    "list": "zoo_core.registry.zoo:list_models",
    "info": "zoo_core.registry.zoo:info",
    "use": "zoo_core.registry.zoo:use",
    "Zoo": "zoo_core.registry.zoo:Zoo",
    # surgery
    "swap_head": "zoo_core.surgery.head.swap:swap_head",
    "mlp_head": "zoo_core.surgery.head.mlp:mlp_head",
    "swap_keypoints": "zoo_core.surgery.head.keypoints:swap_keypoints",
    "freeze": "zoo_core.surgery.fine_tuning.freeze:freeze",
    "unfreeze": "zoo_core.surgery.fine_tuning.freeze:unfreeze",
    "drift": "zoo_core.surgery.fine_tuning.drift:drift",
    "param_groups": "zoo_core.surgery.fine_tuning.param_groups:param_groups",
    "init_weights": "zoo_core.surgery.fine_tuning.init_weights:init_weights",
    "load_partial": "zoo_core.surgery.fine_tuning.load_partial:load_partial",
    "branch": "zoo_core.surgery.features.branch:branch",
    "features": "zoo_core.surgery.features.extract:features",
    "encoder": "zoo_core.build.encoder:encoder",
    "split": "zoo_core.surgery.features.split:split",
    "truncate": "zoo_core.surgery.features.truncate:truncate",
    "adapt_stem": "zoo_core.surgery.stem.adapt:adapt_stem",
    "adopt": "zoo_core.surgery.metadata:adopt",
    "class_names": "zoo_core.surgery.metadata:class_names_of",
    "anatomy": "zoo_core.surgery.metadata:anatomy_of",
    "receipt": "zoo_core.surgery.metadata:receipt_of",
    "activation_stats": "zoo_core.inspect.activations:activation_stats",
    "Receipt": "zoo_core.surgery.receipt:Receipt",
    "transforms": "zoo_core.preprocessing.transforms:transforms",
    "save": "zoo_core.recipe.save:save",
    "load": "zoo_core.recipe.load:load",
    "cached_features": "zoo_core.embedding.cached_features:cached_features",
    # what plugins are written with
    "hookimpl": "zoo_core.contract.hooks:hookimpl",
    "Family": "zoo_core.contract.family:Family",
    "Card": "zoo_core.contract.card:Card",
    "Weights": "zoo_core.contract.card:Weights",
    "Preprocessing": "zoo_core.contract.card:Preprocessing",
    "Licenses": "zoo_core.contract.card:Licenses",
    "read_cards": "zoo_core.contract.card_file:read_cards",
    "write_cards": "zoo_core.contract.records:write_cards",
    "Anatomy": "zoo_core.contract.anatomy:Anatomy",
    "Head": "zoo_core.contract.anatomy:Head",
    "Stage": "zoo_core.contract.anatomy:Stage",
    "Chain": "zoo_core.contract.chain:Chain",
    "InputScaling": "zoo_core.contract.anatomy:InputScaling",
    "flatten": "zoo_core.contract.chain:flatten",
    "measure_stages": "zoo_core.surgery.features.measure:measure_stages",
    # errors
    "AnatomyError": "zoo_core.errors:AnatomyError",
    "ZooError": "zoo_core.errors:ZooError",
    "ZooWarning": "zoo_core.errors:ZooWarning",
}

__all__ = [
    "Anatomy",
    "AnatomyError",
    "Card",
    "Chain",
    "Family",
    "Head",
    "InputScaling",
    "Licenses",
    "Preprocessing",
    "Receipt",
    "Stage",
    "Weights",
    "Zoo",
    "ZooError",
    "ZooWarning",
    "activation_stats",
    "adapt_stem",
    "adopt",
    "anatomy",
    "branch",
    "cached_features",
    "class_names",
    "drift",
    "encoder",
    "features",
    "flatten",
    "freeze",
    "get",
    "hookimpl",
    "info",
    "init_weights",
    "list",
    "load",
    "load_partial",
    "measure_stages",
    "mlp_head",
    "param_groups",
    "read_cards",
    "receipt",
    "save",
    "split",
    "swap_head",
    "swap_keypoints",
    "transforms",
    "truncate",
    "unfreeze",
    "use",
    "write_cards",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the public name stands for
    if name not in _PUBLIC:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    module, _, attribute = _PUBLIC[name].partition(":")
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> Iterable[str]:
    return sorted([*globals(), *__all__])

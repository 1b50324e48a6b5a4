# The public names, each once: imported when they are first used, and what type checkers see.

from . import errors as errors
from . import plugin as plugin
from .build.encoder import encoder as encoder
from .build.get import get as get
from .contract.anatomy import Anatomy as Anatomy
from .contract.anatomy import Head as Head
from .contract.anatomy import Stage as Stage
from .contract.card import Card as Card
from .contract.card import Licenses as Licenses
from .contract.card import Preprocessing as Preprocessing
from .contract.card import Weights as Weights
from .embedding.cached_features import cached_features as cached_features
from .embedding.embed import embed as embed
from .embedding.embeddings import Embeddings as Embeddings
from .embedding.probe import probe as probe
from .errors import AnatomyError as AnatomyError
from .errors import ZooError as ZooError
from .errors import ZooWarning as ZooWarning
from .images.numbers import preprocessing as preprocessing
from .images.numbers import set_preprocessing as set_preprocessing
from .images.transforms import transforms as transforms
from .inspect.activations import activation_stats as activation_stats
from .prediction.predict import predict as predict
from .prediction.results import Detections as Detections
from .prediction.results import Segmentation as Segmentation
from .prediction.sliding_window import WindowScores as WindowScores
from .prediction.sliding_window import sliding_window as sliding_window
from .recipe.load import load as load
from .recipe.save import save as save
from .registry.register import register as register
from .registry.zoo import Zoo as Zoo
from .registry.zoo import info as info
from .registry.zoo import list as list  # noqa: A004 - zoo.list is the field's word for it
from .registry.zoo import use as use
from .surgery.features.branch import branch as branch
from .surgery.features.extract import features as features
from .surgery.features.split import split as split
from .surgery.features.truncate import truncate as truncate
from .surgery.fine_tuning.drift import drift as drift
from .surgery.fine_tuning.freeze import freeze as freeze
from .surgery.fine_tuning.freeze import unfreeze as unfreeze
from .surgery.fine_tuning.init_weights import init_weights as init_weights
from .surgery.fine_tuning.load_partial import load_partial as load_partial
from .surgery.fine_tuning.param_groups import param_groups as param_groups
from .surgery.head.keypoints import swap_keypoints as swap_keypoints
from .surgery.head.mlp import mlp_head as mlp_head
from .surgery.head.swap import swap_head as swap_head
from .surgery.metadata import anatomy as anatomy
from .surgery.metadata import class_names as class_names
from .surgery.metadata import receipt as receipt
from .surgery.receipt import Receipt as Receipt
from .surgery.stem.adapt import adapt_stem as adapt_stem
from .tracing.adopt import adopt as adopt
from .tracing.trace import trace as trace

__version__: str

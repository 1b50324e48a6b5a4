"""Where the parts of a built model are: head sites, stem, stages, and how forward splits. Data, and no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

Step = str | Callable[[Any], Any]
"""A dotted path of a submodule to call, or a function of one tensor."""


@dataclass(frozen=True)
class Chain:
    """A piece of a forward pass: submodules, named by path, and plain functions, called one after another.

    It is given its steps one by one, ``Chain("pool", flatten)``, and called with a model and a tensor.

    Attributes:
        steps: Dotted paths of submodules that take and return one tensor, or picklable (module-level) functions of one
            tensor such as :func:`flatten`.

    Example:
        >>> from torch import nn, ones
        >>> model = nn.ModuleDict({"pool": nn.AdaptiveAvgPool2d(1), "fc": nn.Linear(3, 2)})
        >>> Chain("pool", flatten, "fc")(model, ones(4, 3, 8, 8)).shape
        torch.Size([4, 2])
    """

    steps: tuple[Step, ...]

    def __init__(self, *steps: Step) -> None:
        object.__setattr__(self, "steps", steps)

    def __call__(self, model: nn.Module, x: Tensor) -> Tensor:
        """Run the steps of this chain of ``model`` on ``x``."""
        for step in self.steps:
            x = model.get_submodule(step)(x) if isinstance(step, str) else step(x)
        return x


def flatten(x: Tensor) -> Tensor:
    """``[N, C, 1, 1]`` or ``[N, C, H, W]`` to ``[N, C * H * W]``: the step between pooling and a linear head.

    Example:
        >>> import torch
        >>> flatten(torch.ones(4, 3, 1, 1)).shape
        torch.Size([4, 3])
    """
    return x.flatten(1)


@dataclass(frozen=True)
class Head:
    """One place where a model turns features into class scores: a head site.

    Attributes:
        path: Dotted path of the module to replace, such as ``"fc"`` or ``"classifier.6"``.
        in_features: Size of the vector, or number of channels of the map, that the site is given.
        num_classes: How many scores it gives now.
        kind: ``"linear"`` takes ``[N, in_features]``; ``"conv"`` takes ``[N, in_features, H, W]``, and ``"conv3d"`` the
            same with frames before the rows.
        role: ``"main"``; ``"aux"`` for one that only trains, ``"distilled"`` for a second one that is averaged in,
            ``"summed"`` for one that is added. In detectors also ``"box"``, ``"mask"``, and ``"level"`` for the same
            head on another level of the pyramid.
        per_class: Outputs of the layer for each class: 4 for boxes, or the number of anchors.
        attributes: Dotted paths of the integers that repeat ``num_classes`` elsewhere in the model, kept in step, such
            as ``"num_classes"`` or ``"config.num_labels"``; their owner may be a module or any other object.
        prior: How probable a class is before training; the biases of a new layer begin at its log odds. Dense detectors
            need it, since nearly all of their anchors are background.
        tokens: Whether a linear site is given a vector for each token, ``[N, L, in_features]``.

    Example:
        >>> Head("classifier.6", in_features=4096, num_classes=1000).role
        'main'
    """

    path: str
    in_features: int
    num_classes: int
    kind: Literal["linear", "conv", "conv3d"] = "linear"
    role: Literal["main", "aux", "distilled", "summed", "box", "mask", "level"] = "main"
    attributes: tuple[str, ...] = ()
    per_class: int = 1
    prior: float | None = None
    tokens: bool = False


@dataclass(frozen=True)
class Stage:
    """One step of depth: modules that belong together, and the feature map that comes out of the last of them.

    Attributes:
        name: What users call it, such as ``"layer4"``.
        modules: Dotted paths of its modules in the order they run; the output of the last one is the stage's output.
        channels: Channels of that output.
        stride: Pixels of the input for one step of the output, from the start of the network.
        read: ``(model, output)`` to the feature map, where the last module gives something else: several tensors, or
            tokens in an order of their own. A picklable function; None where the output is the map.

    Example:
        >>> Stage("layer4", ("layer4",), channels=512, stride=32).stride
        32
    """

    name: str
    modules: tuple[str, ...]
    channels: int
    stride: int
    read: Callable[[Any, Any], Any] | None = None

    @property
    def output(self) -> str:
        """Dotted path of the module whose output is the stage's feature map."""
        return self.modules[-1]

    def map_in(self, model: nn.Module, output: Any) -> Any:  # noqa: ANN401 - the output of any module
        """The feature map in what the last module of the stage gave."""
        return output if self.read is None else self.read(model, output)


@dataclass(frozen=True)
class InputScaling:
    """What a model does to each channel of its input before the stem sees it: ``x * scale + shift``.

    Surgery on the stem switches it off and folds it into the filters.

    Attributes:
        switch: Dotted path of the boolean that turns it on.
        scale: One factor a channel.
        shift: One summand a channel.
        norm: Dotted path of the batch norm behind the stem, whose running mean takes the shift over.

    Example:
        >>> InputScaling("transform_input", scale=(0.458,), shift=(-0.03,), norm="conv1.bn").switch
        'transform_input'
    """

    switch: str
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    norm: str


@dataclass(frozen=True)
class Anatomy:
    """Where the parts of a built model are. Everything generic follows from this.

    For every model, in eval mode, ``classify(pool(features(x)))`` equals ``model(x)`` bit for bit. A model whose head
    ends its forward needs none of the three: zoo then takes what the head is given for the features.

    Attributes:
        heads: The head sites, the main one first; empty for a model that has none.
        stem: Dotted paths of the first parametric layers that see the input.
        stages: The steps of depth, first to last.
        features: ``(model, x)`` to the last feature map or the tokens: a :class:`Chain` or any module-level function,
            which uses nothing but its arguments: it is given twins of the model too.
        pool: ``(model, features)`` to what the head sites are given: ``[N, in_features]`` for a linear head.
        classify: ``(model, pooled)`` to the scores; the main head alone when it is None. Needed where something follows
            the head, or where two heads are averaged. One that is no :class:`Chain`
            and uses parameters of the model itself, such as weights of several heads, has their names in an attribute
            ``uses``; they belong to the head then.
        layout: How the stages' maps lie: ``"NCHW"``, ``"NHWC"`` or tokens, ``"NLC"``; frames come before the rows. A
            map of three axes is one of tokens in any case, as at the end of EfficientFormer.
        dilates_strided: Whether a convolution that gives up its stride for an output stride is dilated too, and not
            only what comes after it; torchvision trains its dilated MobileNetV3 so.
        headless: Why there is no head to replace, and what to do instead; for models whose ``heads`` are empty.
        keypoints: Dotted path of the transposed convolution that draws a map for each keypoint, in keypoint detectors.
        indivisible: Why forward does not split into backbone and head; None where it does.
        scaling: What the model itself does to each channel before the stem, when that names the channels one by one.
        per_channel: Dotted paths of lists with one number a channel, such as the means that a detector subtracts.
        channel_attributes: Dotted paths of the integers that repeat the number of input channels elsewhere, kept in
            step, such as ``"config.num_channels"``.
        scores: Where the scores are in what forward returns: the name of an attribute, such as ``"logits"``, or a
            module-level function of the output. None where forward returns the scores themselves. ``model(x)`` above
            then reads ``anatomy.scores_in(model(x))``.

    Example:
        >>> Anatomy(heads=(Head("fc", in_features=512, num_classes=1000),), stem=("conv1",)).main.path
        'fc'
    """

    heads: tuple[Head, ...]
    stem: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()
    features: Callable[[Any, Any], Any] | None = None
    pool: Callable[[Any, Any], Any] | None = None
    classify: Callable[[Any, Any], Any] | None = None
    layout: Literal["NCHW", "NHWC", "NLC"] = "NCHW"
    headless: str | None = None
    keypoints: str | None = None
    indivisible: str | None = None
    dilates_strided: bool = False
    scaling: InputScaling | None = None
    per_channel: tuple[str, ...] = ()
    channel_attributes: tuple[str, ...] = ()
    scores: str | Callable[[Any], Any] | None = None

    def scores_in(self, output: Any) -> Any:  # noqa: ANN401 - any library's output object
        """The scores in what forward returned, ``[N, num_classes]`` for a classifier.

        Args:
            output: What the model returned for a batch.

        Raises:
            AttributeError: The output has no attribute of the name that ``scores`` gives.

        Example:
            >>> from types import SimpleNamespace
            >>> Anatomy(heads=(), scores="logits").scores_in(SimpleNamespace(loss=None, logits=[0.2, 0.8]))
            [0.2, 0.8]
        """
        if isinstance(self.scores, str):
            return getattr(output, self.scores)
        return output if self.scores is None else self.scores(output)

    @property
    def main(self) -> Head | None:
        """The main head site, or None."""
        return next((head for head in self.heads if head.role == "main"), None)

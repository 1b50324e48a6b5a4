"""Where the parts of a built model are: head sites, stem, stages, and how forward splits. Data, and no torch."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from zoo_core.errors import AnatomyError
from zoo_core.text import close_matches, did_you_mean

if TYPE_CHECKING:
    from torch import nn

_FITS = 18
"""Characters of a box of the figure."""
UNPROVEN = "no head site was proven when it was traced"
"""How ``Anatomy.headless`` begins where a model may have a head that was not found."""
CANDIDATES = "head= may be"
"""What comes before the layers that it names then, if there are such."""
NO_LAYER = "is no layer that can be replaced"
"""What it says of a parameter that forward uses itself."""


@dataclass(frozen=True)
class Head:
    """One place where a model turns features into class scores: a head site.

    Attributes:
        path: Dotted path of the module to replace, such as ``"fc"`` or ``"classifier.6"``.
        in_features: Size of the vector, or number of channels of the map, that the site is given.
        num_classes: How many scores it gives now.
        kind: ``"linear"`` takes ``[N, in_features]``; ``"conv"`` takes ``[N, in_features, H, W]``, ``"conv1d"``
            ``[N, in_features, L]``, and ``"conv3d"`` has frames before the rows.
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
        >>> token = Head("head", 192, 1000, role="distilled", attributes=("config.num_labels",), tokens=True)
        >>> token.kind
        'linear'
        >>> anchors = Head("cls_logits", 256, 91, kind="conv", per_class=9, prior=0.01)
        >>> anchors.num_classes * anchors.per_class
        819

    Raises:
        AnatomyError: ``path`` or one of ``attributes`` is no text, ``in_features`` or ``per_class`` is no number of at
            least 1, ``num_classes`` none of at least 0, ``kind`` or ``role`` is another word, or ``prior`` is not
            between 0 and 1.
    """

    path: str
    in_features: int
    num_classes: int
    kind: Literal["linear", "conv", "conv1d", "conv3d"] = "linear"
    role: Literal["main", "aux", "distilled", "summed", "box", "mask", "level"] = "main"
    attributes: tuple[str, ...] = ()
    per_class: int = 1
    prior: float | None = None
    tokens: bool = False

    def __post_init__(self) -> None:
        require_text(self, "path")
        require_counts(self, in_features=1, num_classes=0, per_class=1)
        require_words(
            self,
            kind=("linear", "conv", "conv1d", "conv3d"),
            role=("main", "aux", "distilled", "summed", "box", "mask", "level"),
        )
        require_tuple(self, attributes=str)
        require(self, "prior", self.prior is None or 0 < self.prior < 1, "a probability between 0 and 1")


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
        >>> def first(model, output):  # of a block that returns its tokens and its attention
        ...     return output[0]
        >>> Stage("stage2", ("merge1", "block2"), channels=192, stride=8, read=first).output
        'block2'

    Raises:
        AnatomyError: ``name`` is no text, ``modules`` no tuple of paths or an empty one, ``channels`` or ``stride`` no
            number of at least 1, or ``read`` no function.
    """

    name: str
    modules: tuple[str, ...]
    channels: int
    stride: int
    read: Callable[[Any, Any], Any] | None = None

    def __post_init__(self) -> None:
        require_text(self, "name")
        require_tuple(self, modules=str)
        require(self, "modules", self.modules, "a tuple of at least one path")
        require_counts(self, channels=1, stride=1)
        _require_callable(self, "read")

    @property
    def output(self) -> str:
        """Dotted path of the module whose output is the stage's feature map."""
        return self.modules[-1]

    def map_in(self, model: nn.Module, output: Any) -> Any:
        """The feature map in what the last module of the stage gave."""
        return output if self.read is None else self.read(model, output)


@dataclass(frozen=True)
class InputScaling:
    """In an anatomy, what a model does to each channel of its input before the stem: ``x * scale + shift``.

    Surgery on the stem switches it off and folds it into the filters.

    Attributes:
        switch: Dotted path of the boolean that turns it on.
        scale: One factor a channel.
        shift: One summand a channel.
        norm: Dotted path of the batch norm after the stem, whose running mean takes the shift over.

    Example:
        >>> InputScaling("transform_input", scale=(0.458,), shift=(-0.03,), norm="conv1.bn").switch
        'transform_input'

    Raises:
        AnatomyError: ``switch`` or ``norm`` is no text, ``scale`` no tuple of numbers, or ``shift`` none as long.
    """

    switch: str
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    norm: str

    def __post_init__(self) -> None:
        require_text(self, "switch", "norm")
        require_tuple(self, scale=float, shift=float)
        require(self, "scale", self.scale, "a tuple with a number for each channel")
        require(self, "shift", len(self.shift) == len(self.scale), f"a tuple of {len(self.scale)} numbers, as scale is")


@dataclass(frozen=True)
class Anatomy:
    """Where the parts of a built model are. Everything generic follows from this.

    For every model, in eval mode, ``classify(pool(features(x)))`` equals ``model(x)`` bit for bit. A model whose head
    ends its forward needs none of the three: zoo then takes what the head is given for the features.

    Attributes:
        heads: The head sites, the main one first; empty for a model that has none.
        stem: Dotted paths of the first parametric layers that see the input.
        stages: The steps of depth, first to last.
        features: ``(model, x)`` to the last feature map or the tokens: a :class:`~zoo_core.Chain`, or any module-level
            function, which uses nothing but its arguments: it is given twins of the model too.
        pool: ``(model, features)`` to what the head sites are given: ``[N, in_features]`` for a linear head. One that
            is no :class:`~zoo_core.Chain` and calls layers that are registered before the last stage has their paths in
            an attribute ``paths``; they are deeper than the stages then.
        classify: ``(model, pooled)`` to the scores; the main head alone when it is None. Needed where something follows
            the head, or where two heads are averaged. One that is no :class:`~zoo_core.Chain` and uses parameters of
            the model itself, such as weights of several heads, has their names in an attribute ``uses``; they belong
            to the head then.
        layout: Axes of the stages' maps: ``"NCHW"``, ``"NHWC"`` or tokens, ``"NLC"``; frames come before the rows. A
            map of three axes is one of tokens in any case, as at the end of EfficientFormer.
        dilates_strided: Whether a convolution that gives up its stride for an output stride is dilated too, and not
            only what comes after it; torchvision trains its dilated MobileNetV3 so.
        headless: Why there is no head to replace, and what to do instead; for models whose ``heads`` are empty.
        keypoints: Dotted path of the transposed convolution that draws a map for each keypoint, in keypoint detectors.
        indivisible: Why forward does not split into backbone and head; None where it does.
        scaling: What the model itself does to each channel before the stem, when that names the channels one by one.
        per_channel: Dotted paths of lists or buffers with one number a channel, such as the means that a detector
            subtracts.
        channel_attributes: Dotted paths of the integers that repeat the number of input channels elsewhere, kept in
            step, such as ``"config.num_channels"``.
        scores: Where the scores are in what forward returns: the name of an attribute, such as ``"logits"``, or a
            module-level function of the output. None where forward returns the scores themselves. ``model(x)`` above
            then reads ``anatomy.scores_in(model(x))``.
        depths: Dotted paths of modules, parameters and buffers outside the stages that are registered in another place
            than they run, each with the number of the first stage that needs it: 0 for what runs before all of them,
            and one more than there are stages for what runs after.

    Example:
        >>> from zoo_core.plugin import Chain, flatten
        >>> tokens = Anatomy(
        ...     heads=(Head("classifier", in_features=192, num_classes=1000),),
        ...     stem=("embeddings.projection",),
        ...     stages=(Stage("layer0", ("layers.0",), channels=192, stride=16),),
        ...     features=Chain("embeddings", "layers.0", "norm"),
        ...     pool=Chain(flatten),
        ...     classify=Chain("classifier", flatten),
        ...     layout="NLC",
        ...     channel_attributes=("config.num_channels",),
        ...     scores="logits",
        ... )
        >>> tokens.main.path
        'classifier'
        >>> flow = Anatomy((), headless="it gives no scores of classes", indivisible="its forward takes two images")
        >>> detector = Anatomy(
        ...     heads=(Head("predictor.cls_score", 1024, 2, role="box"),),
        ...     keypoints="roi_heads.keypoint_predictor.kps_score_lowres",
        ...     dilates_strided=True,
        ...     scaling=InputScaling("transform_input", (0.458,), (-0.03,), norm="conv1.bn"),
        ...     per_channel=("transform.image_mean", "transform.image_std"),
        ... )
        >>> stages = (Stage("a", ("a",), 8, 2), Stage("b", ("b",), 16, 4))
        >>> registered_first = Anatomy((), ("a.0",), stages, depths=(("gate_of_b", 2), ("neck", 3)))

    Raises:
        AnatomyError: ``heads`` or ``stages`` is no tuple of such records, two ``stages`` have one name, ``stem``,
            ``per_channel`` or ``channel_attributes`` is no tuple of paths, ``features``, ``pool``, ``classify`` or
            ``scores`` is nothing that can be called, ``layout`` is another word, ``scaling`` is another record,
            ``headless``, ``keypoints`` or ``indivisible`` is no text, or ``depths`` no tuple of paths and numbers.
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
    depths: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        require_tuple(self, heads=Head, stem=str, stages=Stage, per_channel=str, channel_attributes=str)
        names = [stage.name for stage in self.stages]
        require(self, "stages", len({*names}) == len(names), "stages with names of their own")
        _require_callable(self, "features", "pool", "classify")
        _require_callable(self, "scores", or_text=True)
        require_words(self, layout=("NCHW", "NHWC", "NLC"))
        require(self, "scaling", self.scaling is None or isinstance(self.scaling, InputScaling), "an InputScaling")
        require_text(self, "headless", "keypoints", "indivisible", or_none=True)
        require_tuple(self, depths=tuple)
        pairs = [[type(each) for each in pair] == [str, int] and pair[1] >= 0 for pair in self.depths]
        require(self, "depths", all(pairs), "a tuple of pairs: a path, and a number of at least 0")

    def scores_in(self, output: Any) -> Any:
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

    def _repr_html_(self) -> str:
        """A figure for a notebook: the stem, the stages and the head sites, in the order in which they run."""
        boxes = [("stem", ", ".join(self.stem), "#cfe3f7")] if self.stem else []
        boxes += [(each.name, f"{each.channels} at 1/{each.stride}", "#cdeadb") for each in self.stages]
        heads = [(each.path, f"{each.in_features} to {each.num_classes}", "#fbdcc4") for each in self.heads]
        return _figure([*boxes, *(heads or [("no head", self.headless or "", "#e6e9ee")])])


def _figure(boxes: list[tuple[str, str, str]]) -> str:
    """The anatomy as a figure for a notebook: a box in SVG for each part, with its name, a line and a colour."""
    from html import escape

    from zoo_core.text import visible

    width, gap = 132, 26
    parts = []
    for place, (name, line, colour) in enumerate(boxes):
        left = place * (width + gap)
        short = [escape(visible(text if len(text) <= _FITS else f"{text[: _FITS - 1]}…")) for text in (name, line)]
        arrow = f'<path d="M{left - gap + 3} 28H{left - 4}m-6-4 6 4-6 4" fill="none" stroke="currentColor"/>'
        parts.append(
            f'{arrow if place else ""}<rect x="{left}" y="4" width="{width}" height="48" rx="6" fill="{colour}"/>'
            f'<text x="{left + width // 2}" y="25">{short[0]}</text>'
            f'<text x="{left + width // 2}" y="42" font-size="11">{short[1]}</text>'
            f"<title>{escape(visible(f'{name}: {line}'))}</title>"
        )
    size = f'viewBox="0 0 {len(boxes) * (width + gap) - gap} 56" style="max-width:100%;height:56px"'
    style = 'font-family="sans-serif" font-size="13" text-anchor="middle" fill="#1b2733"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size} {style}>{"".join(parts)}</svg>'


def require_words(record: object, **allowed: Sequence[str]) -> None:
    """Refuse a part of an anatomy with a field that is none of the words that it may be.

    Raises:
        AnatomyError: It is another one; the message has the word that was meant.

    Example:
        >>> from types import SimpleNamespace
        >>> require_words(SimpleNamespace(kind="liner"), kind=("linear", "conv"))
        Traceback (most recent call last):
        ...
        zoo_core.errors.AnatomyError: SimpleNamespace.kind is 'liner'; did you mean 'linear'?
    """
    for name, words in allowed.items():
        value = getattr(record, name)
        if value not in words:
            meant = did_you_mean(close_matches(str(value), words), f"it may be {', '.join(words)}")
            raise AnatomyError(f"{type(record).__name__}.{name} is {value!r:.80}; {meant}")


def require_counts(record: object, **least: int) -> None:
    """Refuse a part of an anatomy with a field that is no integer, or too small; numpy's integers become Python's.

    Raises:
        AnatomyError: Such a field is there.

    Example:
        >>> from types import SimpleNamespace
        >>> require_counts(SimpleNamespace(stride=0), stride=1)
        Traceback (most recent call last):
        ...
        zoo_core.errors.AnatomyError: SimpleNamespace.stride must be an integer of at least 1, got 0
    """
    for name, smallest in least.items():
        value = getattr(record, name)
        try:
            number = -1 if isinstance(value, bool) else operator.index(value)
        except TypeError:
            number = -1
        if number < smallest:
            raise _wrong_field(record, name, f"an integer of at least {smallest}")
        if type(value) is not int:
            object.__setattr__(record, name, number)  # the records are frozen, once they are made


def require_text(record: object, *names: str, or_none: bool = False) -> None:
    """Refuse a part of an anatomy with a field that is no text, or empty; with ``or_none`` it may be None.

    Raises:
        AnatomyError: Such a field is there.
    """
    for name in names:
        value = getattr(record, name)
        if not (isinstance(value, str) and value) and not (or_none and value is None):
            raise _wrong_field(record, name, f"a text{' or None' if or_none else ''}")


def require_tuple(record: object, **of: type) -> None:
    """Refuse a part of an anatomy with a field that is no tuple of things of one type, or one with empty texts.

    Raises:
        AnatomyError: Such a field is there. A single text, whose letters would be taken for its entries, is one.

    Example:
        >>> from types import SimpleNamespace
        >>> require_tuple(SimpleNamespace(modules="layer1"), modules=str)
        Traceback (most recent call last):
        ...
        zoo_core.errors.AnatomyError: SimpleNamespace.modules must be a tuple of str, got 'layer1'
    """
    for name, kind in of.items():
        value = getattr(record, name)
        kinds = (int, float) if kind is float else kind
        if not isinstance(value, tuple) or not all(isinstance(each, kinds) and each != "" for each in value):
            raise _wrong_field(record, name, f"a tuple of {kind.__name__}")


def _require_callable(record: object, *names: str, or_text: bool = False) -> None:
    """Refuse an anatomy with a field that is neither None nor callable; ``or_text`` lets a text be there.

    Raises:
        AnatomyError: Such a field is there.
    """
    for name in names:
        value = getattr(record, name)
        if not (value is None or callable(value) or (or_text and isinstance(value, str) and value)):
            raise _wrong_field(record, name, f"{'a text, ' if or_text else ''}a function or None")


def require(record: object, name: str, right: object, expected: str) -> None:
    """Refuse a part of an anatomy with a field that is wrong for a reason of its own.

    Raises:
        AnatomyError: It is not right.
    """
    if not right:
        raise _wrong_field(record, name, expected)


def _wrong_field(record: object, name: str, expected: str) -> AnatomyError:
    """The error for a wrong field of the anatomy: it names record and field, what that may be, and its value."""
    value: Any = getattr(record, name)
    return AnatomyError(f"{type(record).__name__}.{name} must be {expected}, got {value!r:.80}")

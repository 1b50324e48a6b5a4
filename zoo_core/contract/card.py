"""What a model *is*, as frozen data that needs no torch: cards, weights, preprocessing, licences."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from zoo_core.contract.labels import named
from zoo_core.errors import UnknownTag
from zoo_core.text import close_matches, did_you_mean

_DIGEST = re.compile(r"[0-9a-f]{8,64}")
_FULL_DIGEST_LENGTH = 64


@dataclass(frozen=True)
class Preprocessing:
    """What a card says has to be done to an image before a model sees it.

    Attributes:
        crop: Height and width of the centre crop, in pixels: the size the model sees; None where nothing is cut off.
        resize: Height and width before the crop, in pixels; one number means "the shorter side", and none at all that
            the image stays as large as it is.
        fit: How an image of other proportions meets a ``resize`` of height and width: ``"squash"`` gives it these,
            ``"cover"`` keeps its own and fills both, ``"border"`` keeps its own and stays within both; the crop then
            pads it, with the colour that ``mean`` is.
        interpolation: Name of the resampling filter, as in ``torchvision.transforms.InterpolationMode``.
        mean: Subtracted from each channel, in units of ``value_range``.
        std: Divides each channel, in units of ``value_range``.
        value_range: What white is: 1.0 for most models, 255.0 for a few from Caffe.
        channel_order: ``"RGB"``, or ``"BGR"`` for a few from Caffe.
        antialias: Whether the resize filters before it samples.

    Example:
        >>> Preprocessing(crop=(224, 224), resize=(256,), antialias=False).mean
        (0.485, 0.456, 0.406)
        >>> Preprocessing(mean=(104.0, 117.0, 128.0), std=(1.0, 1.0, 1.0), value_range=255.0, channel_order="BGR").fit
        'squash'

    Raises:
        ValueError: ``fit`` or ``channel_order`` is another word, or ``fit`` needs a crop and a resize of two sides.
    """

    crop: tuple[int, int] | None = (224, 224)
    resize: tuple[int, ...] = (256,)
    fit: Literal["squash", "cover", "border"] = "squash"
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    value_range: float = 1.0
    channel_order: Literal["RGB", "BGR"] = "RGB"
    antialias: bool = True

    def __post_init__(self) -> None:
        for name, words in {"fit": ("squash", "cover", "border"), "channel_order": ("RGB", "BGR")}.items():
            if (word := getattr(self, name)) not in words:
                msg = f"{name} must be one of {', '.join(words)}, got {word!r:.60}"
                raise ValueError(msg)
        if self.fit != "squash" and not (self.crop and len(self.resize) == 2):  # noqa: PLR2004 - height and width
            msg = f"fit {self.fit!r} needs a crop, and a resize of height and width, got {self.crop} and {self.resize}"
            raise ValueError(msg)


@dataclass(frozen=True)
class Licenses:
    """On a card, the licence of each thing that weights are made of, in lower-case SPDX names or ``"unknown"``.

    Attributes:
        code: Of the library that builds the model.
        weights: Of the trained numbers.
        data: Of what they were trained on.

    Example:
        >>> Licenses(code="bsd-3-clause", weights="cc-by-nc-4.0", data="other")
        Licenses(code='bsd-3-clause', weights='cc-by-nc-4.0', data='other')
    """

    code: str = "unknown"
    weights: str = "unknown"
    data: str = "unknown"


@dataclass(frozen=True)
class Weights:
    """Pretrained weights on a card: where they are, how to prove them, and what they were trained to do.

    Attributes:
        tag: The name of these weights among those of one model, such as ``"IMAGENET1K_V1"``.
        urls: Where the bytes are, in the order to try: ``https://``, ``http://``, ``file://``, ``s3://``, ``gs://``, or
            ``package://zoo_acme/weights/net.safetensors`` for a file inside a distribution.
        sha256: The SHA-256 of the file in lower-case hex: all 64 digits, or a prefix of at least 8 when no more is
            known. ``""`` is for the Hugging Face hub, which declares the digest of each file; from any other place such
            a file is refused until the user says ``trust="first-use"``.
        size: Length of the file in bytes, when known.
        digests: What ``sha256`` is for urls that serve the same weights in another file than the first url does, as
            in another format: file name to digest. Such a file is requested when the first one cannot be had.
        num_classes: Outputs of the head in the file; 0 when there is no head.
        categories: The class names in order, or ``"imagenet_1k"``, which ships with zoo, or a
            ``"package.module:function"`` of the plugin that returns them.
        preprocessing: What an image goes through on its way in.
        licenses: Of code, weights and data.
        metrics: Published figures, such as ``{"ImageNet-1K acc@1": 69.758}``.
        options: Arguments that the constructor needs for this file, over those of the card.
        convert: ``"package.module:function"`` taking ``(state, model)``, a mapping of tensor names to tensors and the
            built model, and returning such a mapping under the names that the model uses now.
        whole: Whether ``convert`` is given all that the file holds, as it was read, and not the state dict found in it.
        ignore: Glob patterns of tensors that are in the file but need not be in the model.
        absent: Glob patterns of tensors that are in the model but need not be in the file: they start as the
            constructor makes them.
        docs: Where the weights are described.
        outputs: Eight numbers of what the model gives for a generated image, by the type of device, as ``zoo lock
            --outputs`` measures them: ``zoo verify --outputs`` compares.

    Example:
        >>> weights = Weights("V1", urls=("https://example.org/net-5c106cde.pth",), sha256="5c106cde", num_classes=10)
        >>> weights.strength
        'weak'
        >>> full = Weights(
        ...     "imagenet",
        ...     urls=("https://huggingface.co/acme/net/resolve/main/model.safetensors",),
        ...     size=46830571,
        ...     preprocessing=Preprocessing(crop=(192, 192), resize=(219,)),
        ...     licenses=Licenses(weights="cc-by-4.0"),
        ...     options={"aux_logits": True},
        ...     ignore=("optimizer.*",),
        ...     absent=("head.norm.*",),
        ...     docs="https://huggingface.co/acme/net",
        ...     outputs={"cpu": (0.31, -0.2, 0.14, 0.05, 0.6, -0.72, 0.11, 0.9)},
        ... )

    Raises:
        ValueError: There is no url, or ``sha256`` is not lower-case hex.
    """

    tag: str
    urls: tuple[str, ...]
    sha256: str = ""
    size: int | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    num_classes: int = 0
    categories: str | tuple[str, ...] = ()
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    licenses: Licenses = field(default_factory=Licenses)
    metrics: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    convert: str | None = None
    whole: bool = False
    ignore: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    docs: str | None = None
    outputs: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for digest in (self.sha256, *self.digests.values()):
            if digest and not _DIGEST.fullmatch(digest):
                msg = f"sha256 of {self.tag!r} must be 8 to 64 lower-case hex digits, got {digest!r}"
                raise ValueError(msg)
        if not self.urls:
            msg = f"weights {self.tag!r} have no url"
            raise ValueError(msg)
        if unknown := set(self.digests).difference(map(_file_name, self.urls[1:])):
            msg = f"weights {self.tag!r} have a digest of {min(unknown)!r}, which no url after the first is for"
            raise ValueError(msg)

    @property
    def strength(self) -> Literal["proven", "weak", "none"]:
        """How much the known digest proves: all of it, a prefix that can be forged, or nothing."""
        if len(self.sha256) == _FULL_DIGEST_LENGTH:
            return "proven"
        return "weak" if self.sha256 else "none"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names in the order of the outputs; empty when they are not known."""
        if isinstance(self.categories, str):
            return named(self.categories)
        return self.categories

    @property
    def file_name(self) -> str:
        """The name of the file in the first url."""
        return _file_name(self.urls[0])

    @property
    def files(self) -> tuple[Weights, ...]:
        """These weights once for each file that they are in, with its urls and its digest; most are in one only.

        Example:
            >>> urls = ("https://example.org/net.safetensors", "https://example.net/net-5c106cde.pth")
            >>> [file.sha256 for file in Weights("V1", urls, digests={"net-5c106cde.pth": "5c106cde"}).files]
            ['', '5c106cde']
        """
        if not self.digests:
            return (self,)
        first = tuple(url for url in self.urls if _file_name(url) not in self.digests)
        others = (
            (tuple(url for url in self.urls if _file_name(url) == name), digest, None)
            for name, digest in self.digests.items()
        )
        return tuple(
            replace(self, urls=urls, sha256=digest, size=size, digests={})
            for urls, digest, size in ((first, self.sha256, self.size), *others)
        )


def _file_name(url: str) -> str:
    """The file name of weights on a card: the end of a URL, without its query."""
    return url.split("?", 1)[0].rstrip("/").rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Card:
    """One model architecture: what it is called, how it is built and which weights there are for it.

    Attributes:
        family: Name of the family it belongs to.
        name: Its name in that family, as its library spells it, without ``/`` and ``@``.
        build: ``"package.module:function"`` that constructs it: called with ``options`` as keywords, it returns the
            untrained model, and touches no network.
        task: What it does: ``"classification"``, ``"segmentation"``, ``"detection"``, ``"keypoints"``, ``"video"``,
            ``"optical_flow"``, ...
        input_size: Channels, height and width of the input it was designed for, in pixels; for a video the number of
            frames comes after the channels.
        num_classes: Outputs of the head that the constructor makes when it is given no other number.
        options: Arguments for the constructor.
        weights: The pretrained artefacts, in the library's order.
        default: Tag of the weights that ``weights="default"`` means, pinned by the plugin; None where there are none.
        parameters: Number of parameters, when known.
        needs_values: Why its constructor has to draw the values that a file then replaces; ``""`` for nearly all. It
            has to where it computes something from them that is not in the file, such as a buffer or a flag.

    Example:
        >>> card = Card(family="acme", name="net", build="acme.models:net")
        >>> card.id, card.tags
        ('acme/net', ())
        >>> weights = Weights("digits", urls=("package://zoo_acme/weights/net.safetensors",), num_classes=10)
        >>> net8 = Card(
        ...     family="acme",
        ...     name="net8",
        ...     build="acme:AcmeNet",
        ...     input_size=(1, 28, 28),
        ...     num_classes=10,
        ...     options={"width": 8, "num_classes": 10},
        ...     weights=(weights,),
        ...     default="digits",
        ...     parameters=4386,
        ... )
        >>> net8.tags
        ('digits',)

    Raises:
        ValueError: Two weights have one tag, or ``default`` is no tag of them.
    """

    family: str
    name: str
    build: str
    task: str = "classification"
    input_size: tuple[int, ...] = (3, 224, 224)
    num_classes: int = 1000
    options: Mapping[str, object] = field(default_factory=dict)
    weights: tuple[Weights, ...] = ()
    default: str | None = None
    parameters: int | None = None
    needs_values: str = ""

    def __post_init__(self) -> None:
        if len(set(self.tags)) != len(self.tags):
            msg = f"{self.id} has two weights with one tag: {', '.join(self.tags)}"
            raise ValueError(msg)
        if self.default is not None and self.default not in self.tags:
            msg = f"the default of {self.id} is {self.default!r}, which is not one of its tags: {', '.join(self.tags)}"
            raise ValueError(msg)

    @property
    def id(self) -> str:
        """The qualified name, ``family/name``."""
        return f"{self.family}/{self.name}"

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of its weights."""
        return tuple(weights.tag for weights in self.weights)

    def find(self, tag: str | None = None) -> Weights:
        """The weights with that tag, or the default ones.

        Args:
            tag: One of ``tags``; None means the default.

        Raises:
            UnknownTag: There are no such weights; the message lists those there are.

        Example:
            >>> Card(family="acme", name="net", build="acme.models:net").find("V1")
            Traceback (most recent call last):
            ...
            zoo_core.errors.UnknownTag: acme/net has no weights 'V1'
              likely cause: there are no pretrained weights for this model
              next step: weights=None, or --weights none on the command line, builds it untrained
        """
        requested = tag or self.default
        for weights in self.weights:
            if weights.tag == requested:
                return weights
        untrained = "weights=None, or --weights none on the command line, builds it untrained"
        raise UnknownTag(
            f"{self.id} has no weights {tag!r}" if tag else f"{self.id} has no default weights",
            expected=f"one of {', '.join(self.tags)}" if self.tags else None,
            cause=None if self.tags else "there are no pretrained weights for this model",
            hint=did_you_mean(close_matches(tag or "", self.tags), untrained),
            tag=tag,
            tags=self.tags,
        )

"""The check of what a card says of its weights: that they can be fetched, proven and understood."""

from __future__ import annotations

import math
import re
from collections import Counter
from difflib import get_close_matches
from functools import lru_cache
from itertools import zip_longest
from urllib.parse import parse_qsl, urlsplit

from zoo_core.contract.card import Card, Licenses, Preprocessing, Weights
from zoo_core.contract.labels import imagenet_1k, named
from zoo_core.testing.findings import NonConformance, require
from zoo_core.weights.transport.hub import looks_like_hub
from zoo_core.weights.transport.urls import is_loopback

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
_RESERVED = ("default", "none")
"""Tags that mean something else where weights are requested."""
_COLOURS = (
    ((0.485, 0.456, 0.406), 0.002),
    ((0.229, 0.224, 0.225), 0.0005),
    ((123.68, 116.78, 103.94), 1.5),
)
"""The means and deviations of ImageNet in the order RGB, with what libraries round off."""
_SCHEMES = ("https://", "http://", "file://", "package://", "s3://", "gs://")
_DISTINCT, _FEW = 0.9, 50
_PERCENT = 100
_LEAST_CROP = 4
_OTHER_SIZE = 1.5
_TASKS = ("classification", "segmentation", "detection", "keypoints", "video", "optical_flow", "encoder", "embedding")
_STEPS = 2**16
"""Values that a channel of an image has at most."""
_NEAR = 1.02
"""How much a std may be above what there can be: some are of 255 steps, and some of 256."""
_EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""The SHA-256 of a file without a byte."""
_DIGEST_IN_NAME = re.compile(r"-(?=[0-9a-f]*[a-f])([0-9a-f]{8})\.\w+$")
"""Eight digits of the digest in a file name, as torch.hub has them; eight decimal ones may be a date."""
_PAGES = tuple(
    map(
        re.compile,
        (
            r"https?://(www\.)?(huggingface\.co|hf\.co)/[^/]+/[^/]+/(blob|tree)/",
            r"https?://(www\.)?github\.com/[^/]+/[^/]+/(tree/|blob/(?!.*[?&]raw=(true|1)))",
            r"https?://gitlab\.com/.+/-/(blob|tree)/",
            r"https?://drive\.google\.com/(file/|open)",
            r"https?://(www\.)?dropbox\.com/(?!.*[?&](dl|raw)=1)",
        ),
    )
)
"""Addresses of pages about a file."""
_POINTER = re.compile(
    r"https?://(www\.)?(huggingface\.co|hf\.co)/[^/]+/[^/]+/raw/.*\.(safetensors|bin|pth|pt|ckpt|npz)\b"
)
"""Addresses of a few lines about a file, which the hub keeps elsewhere."""
_UNREADABLE = (
    *(".h5", ".hdf5", ".keras", ".onnx", ".pb", ".tflite", ".msgpack", ".pdparams", ".mlmodel", ".gguf"),
    *(".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"),
)
"""How the names of files end that only other frameworks read, or that have to be unpacked."""
_WORDNET = re.compile(r"n\d{8}")
_SIGNED = {"x-amz-signature", "x-goog-signature", "signature", "sig", "expires", "token", "access_token"}
_OUTPUTS = 8
_DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "npu", "xla", "mtia", "privateuseone")
_SPDX = re.compile(r"\(?[a-z0-9][a-z0-9.+-]*\)?( (and|or|with) \(?[a-z0-9][a-z0-9.+-]*\)*)*")
_INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos")


def check_card(card: Card) -> None:
    """What a card says of its weights is well formed: scheme, proof, class names, licences, preprocessing."""
    for weights in card.weights:
        label = f"{card.id}@{weights.tag}"
        for file in weights.files:
            _check_source(label, file)
        declared = all(looks_like_hub(url) for url in weights.files[0].urls)
        require(declared or weights.strength != "none", f"{label}: no digest at all, and no hub that declares one")
        _check_numbers(label, weights)
        _check_files(label, weights)
        require(
            not weights.whole or weights.convert is not None,
            f"{label}: whole says that convert is given all of the file, and there is no convert",
        )
        count = len(_class_names(label, weights.categories))
        right = count in (0, weights.num_classes)
        require(right, f"{label}: {count} class names for {weights.num_classes} classes")
        _check_distinct(label, _class_names(label, weights.categories))
        for name in ("ignore", "absent"):
            every = [pattern for pattern in getattr(weights, name) if not pattern.strip("*?")]
            require(not every, f"{label}: {name} has {every[:1]}, by which a file without one right tensor would load")
        _check_licenses(label, weights.licenses)
        _check_preprocessing(label, weights.preprocessing, card.input_size)
    meant = get_close_matches(card.task, _TASKS, 1, cutoff=0.85)
    require(
        card.task in _TASKS or not meant, f"{card.id}: the task {card.task!r} is not {meant[:1]} by a letter or two"
    )
    _check_tags(card)
    require(
        (card.default is not None) == bool(card.weights), f"{card.id}: it has weights but no default, or the other way"
    )


def _check_tags(card: Card) -> None:
    """In the check of a card, that its tags can be requested and kept as files, and no two are of one digest."""
    files: dict[str, tuple[str, str]] = {}
    for weights in card.weights:
        usable = bool(_TAG.fullmatch(weights.tag)) and weights.tag.lower() not in _RESERVED
        require(
            usable,
            f"{card.id}: a tag cannot be {weights.tag!r}: letters, digits and '._+-', and none of {_RESERVED}",
        )
        tag, name = files.setdefault(weights.sha256, (weights.tag, weights.file_name))
        require(
            not weights.sha256 or name == weights.file_name,
            f"{card.id}@{weights.tag}: {weights.file_name} has the digest of tag {tag}, whose file is another, {name}",
        )
    twice = [tag for tag, count in Counter(weights.tag.lower() for weights in card.weights).items() if count > 1]
    require(
        not twice, f"{card.id}: two tags differ by capitals only: {twice}; some file systems cannot tell them apart"
    )


def _check_source(label: str, file: Weights) -> None:
    """In the check of a card, that its URLs have known schemes and hosts, and that plain http has a whole digest."""
    for url in file.urls:
        require(url.startswith(_SCHEMES), f"{label}: {url} has none of the schemes {', '.join(_SCHEMES)}")
        parts = urlsplit(url)
        _check_url(label, url, file)
        has_host = bool(parts.hostname) or url.startswith(("file://", "package://"))
        require(has_host, f"{label}: {url} names no host")
        open_to_all = url.startswith("http://") and not is_loopback(url)
        require(
            not open_to_all or file.strength == "proven",
            f"{label}: {url} is plain http, where anyone on the way can change the file; it needs all 64 digits of "
            f"the digest, and {len(file.sha256)} are known",
        )


def _check_url(label: str, url: str, file: Weights) -> None:
    """In the check of a card, that a URL is of a file for everybody, and its name that of the digest."""
    parts = urlsplit(url)
    require(
        not any(page.match(url) for page in _PAGES),
        f"{label}: {url} is a page about a file; /resolve/ on the hub, and /raw/ or a release on GitHub, is the file",
    )
    require(
        not _POINTER.match(url),
        f"{label}: {url} is a pointer of a few lines to the file, which the hub has under /resolve/ in place of /raw/",
    )
    other = next((end for end in _UNREADABLE if parts.path.lower().endswith(end)), None)
    require(other is None, f"{label}: zoo reads no {other} file: {url}; host it again as safetensors")
    require(not parts.username, f"{label}: a URL at {parts.hostname} has a user name in it, which all users would see")
    signed = _SIGNED & {name.lower() for name, _ in parse_qsl(parts.query)}
    require(not signed, f"{label}: a URL at {parts.hostname} is signed ({', '.join(signed)}), and will expire")
    found = _DIGEST_IN_NAME.search(parts.path)
    right = not found or not file.sha256 or file.sha256.startswith(found[1])
    require(right, f"{label}: the name of {url} has other digits than its sha256, {file.sha256[:8]}...")


def _check_files(label: str, weights: Weights) -> None:
    """In the check of a card, that no file has the digest of an empty one, or a URL twice."""
    for file in weights.files:
        require(file.sha256 != _EMPTY, f"{label}: {file.sha256[:8]}... is the digest of a file without a byte")
        twice = [url for url, count in Counter(file.urls).items() if count > 1]
        require(not twice, f"{label}: {twice[:1]} is there twice, and is no mirror of itself")


def _check_numbers(label: str, weights: Weights) -> None:
    """Check that size, metrics and recorded outputs in a card are numbers that these can be."""
    right = weights.size is None or weights.size > 0
    require(right, f"{label}: size {weights.size} is no number of bytes")
    for name, number in weights.metrics.items():
        share = math.isfinite(number) and (number <= _PERCENT or "acc" not in name) and number >= 0
        share = share and not ("acc" in name and 0 < number <= 1)
        require(share, f"{label}: metrics has {name} = {number}; an accuracy is from 0 to 100, in percent")
    for device, numbers in weights.outputs.items():
        finite = len(numbers) > 0 and all(map(math.isfinite, numbers))
        require(finite, f"{label}: outputs[{device!r}] are no finite numbers: {numbers}")
        require(device in _DEVICES, f"{label}: outputs has {device!r}, which is no type of device: {_DEVICES}")
        count = len(numbers)
        require(count == _OUTPUTS, f"{label}: outputs[{device!r}] are {count} numbers, and not {_OUTPUTS}")
    for name, number in weights.metrics.items():
        fifth = weights.metrics.get(name.replace("acc@1", "acc@5"), number)
        require(number <= fifth, f"{label}: {name} is {number}, and acc@5, which counts more, {fifth}")
    link = weights.docs
    right = link is None or bool(urlsplit(link).scheme and urlsplit(link).netloc)
    require(right, f"{label}: docs is {link!r}, which is no address of a page")


def _class_names(label: str, categories: str | tuple[str, ...]) -> tuple[str, ...]:
    """The class names that a card lists or refers to; a finding where what it refers to gives none."""
    if not isinstance(categories, str):
        return categories
    try:
        names, again = _named_class_names(categories)
    except Exception as error:
        raise NonConformance(
            f"{label}: categories names {categories}, which gives no class names",
            got=f"{type(error).__name__}: {error}",
            hint='"package.module:function" of a function that takes nothing and returns the names in order',
        ) from error
    other = sum(one != two for one, two in zip_longest(names, again))
    require(
        not other, f"{label}: categories names {categories}, which gives {other} other class names when called again"
    )
    return names


@lru_cache(maxsize=64)
def _named_class_names(categories: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """In the check of a card, the class names that it refers to, called for twice; the same for hundreds of cards."""
    return named(categories), named(categories)


def _check_distinct(label: str, names: tuple[str, ...]) -> None:
    """Most class names in a card are different ones; ImageNet has two classes called a crane."""
    require(all(name.strip() for name in names), f"{label}: {len(names)} class names, of which some are empty")
    around = [name for name in names if name != name.strip()]
    require(not around, f"{label}: the class names {around[:3]} begin or end with white space")
    numbers = [name for name in names if name.strip().isdecimal()]
    require(
        len(numbers) < max(1, len(names)), f"{label}: the class names are the numbers {numbers[:3]}, and say nothing"
    )
    right = imagenet_1k()
    synsets = [name for name in names if _WORDNET.fullmatch(name)]
    require(
        len(synsets) < max(1, len(names)),
        f'{label}: the class names {synsets[:2]} are numbers of WordNet, and no names; "imagenet_1k" ships with zoo',
    )
    at = next((place for place, pair in enumerate(zip(names, right, strict=False)) if pair[0] != pair[1]), None)
    require(
        at is None or len(names) != len(right) or {*names} != {*right},
        f"{label}: the class names are those of ImageNet in another order, from number {at} on",
    )
    count = Counter(names)
    often = [name for name, times in count.most_common(3) if times > 1]
    require(
        len(count) >= _DISTINCT * len(names) and (len(names) >= _FEW or not often),
        f"{label}: {len(names)} class names, of which {len(count)} differ: {often} are there several times",
    )


def _check_licenses(label: str, licenses: Licenses) -> None:
    """The licences in a card are lower-case SPDX names, or unknown."""
    for part, name in vars(licenses).items():
        right = isinstance(name, str) and bool(_SPDX.fullmatch(name))
        require(right, f"{label}: the licence of its {part} is {name!r}; a lower-case SPDX name, or 'unknown'")


def _check_preprocessing(label: str, said: Preprocessing, input_size: tuple[int, ...]) -> None:
    """The preprocessing in a card has numbers that fit each other and the input of the model."""
    channels, *image = input_size
    for name in ("mean", "std"):
        count = len(getattr(said, name))
        require(count == channels, f"{label}: {name} has {count} numbers for images of {channels} channels")
    require(all(number > 0 for number in said.std), f"{label}: std {said.std} has a number that is not positive")
    right = said.value_range > 0 and math.isfinite(said.value_range)
    require(right, f"{label}: value_range {said.value_range} is no positive number")
    tiny = [number for number in said.std if number < said.value_range / _STEPS]
    require(not tiny, f"{label}: std {said.std} is less than a step of the values, which go to {said.value_range}")
    inside_range = all(0 <= number <= said.value_range for number in said.mean)
    require(inside_range, f"{label}: mean {said.mean} is outside the range of the values, {said.value_range}")
    units = "in units of value_range" if said.value_range > 1 else "which a value_range of 255.0 would have"
    require(
        all(number <= said.value_range for number in said.std),
        f"{label}: std {said.std} is more than the range of the values, {said.value_range}; {units}",
    )
    for mean, std in zip(said.mean, said.std, strict=True):
        most = math.sqrt(mean * (said.value_range - mean))  # where all values are at one of the two ends
        require(
            mean in (0, said.value_range) or std <= _NEAR * most,
            f"{label}: no values from 0 to {said.value_range} of the mean {mean} have a std of {std}, but at most "
            f"{most:.3g}: the two may be exchanged",
        )
    for numbers in (said.mean, said.std):
        for colours, near in _COLOURS:
            order = colours if said.channel_order == "BGR" else colours[::-1]
            swapped = len(numbers) == len(order) and all(
                abs(one - two) <= near for one, two in zip(numbers, order, strict=True)
            )
            require(
                not swapped, f"{label}: {numbers} are ImageNet's numbers in another order than {said.channel_order}"
            )
    small = said.value_range > 1 and all(0 < number < 1 for number in (*said.mean, *said.std))
    require(
        not small,
        f"{label}: mean {said.mean} and std {said.std} are those of values from 0 to 1, and value_range is "
        f"{said.value_range}",
    )
    if said.crop and said.resize:
        sides = said.resize if len(said.resize) == len(said.crop) else said.resize[:1] * len(said.crop)
        right = all(crop <= side for crop, side in zip(said.crop, sides, strict=True))
        require(right, f"{label}: the crop {said.crop} is larger than the image, which is resized to {said.resize}")
    for name in ("crop", "resize"):
        sides = getattr(said, name) or ()
        require(all(side > 0 for side in sides), f"{label}: {name} {sides} has a side that is not positive")
    pairs = [*zip(reversed(said.crop or ()), reversed(image), strict=False)]
    tiny_crop = any(_LEAST_CROP * one < other for one, other in pairs)
    require(not tiny_crop, f"{label}: the crop {said.crop} is a small part of what the card takes, {tuple(image)}")
    other_size = any(max(pair) >= _OTHER_SIZE * min(pair) for pair in pairs)
    require(
        said != Preprocessing() or not other_size,
        f"{label}: its preprocessing, which is the default, crops images to {said.crop}, and the card takes "
        f"{tuple(image)}: say Preprocessing(crop=..., resize=...)",
    )
    known = said.interpolation in _INTERPOLATIONS
    require(known, f"{label}: interpolation {said.interpolation!r} is none of {', '.join(_INTERPOLATIONS)}")

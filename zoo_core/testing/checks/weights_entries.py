"""The checks of what a card says of its weights: that it can be fetched, proven, understood, and loaded."""

from __future__ import annotations

import copy
import gc
import math
import re
import weakref
from collections import Counter
from contextlib import suppress
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import zip_longest
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import torch
from torch import Tensor

from zoo_core.build.construct import construct
from zoo_core.contract.labels import named
from zoo_core.errors import LoadMismatch
from zoo_core.surgery.load_state_dict import load_state
from zoo_core.surgery.metadata import anatomy_of
from zoo_core.testing.checks.structure import inside
from zoo_core.testing.files import files_left
from zoo_core.testing.findings import NonConformance, NotChecked, require
from zoo_core.testing.outputs import same
from zoo_core.testing.process import printed, watched, without_network
from zoo_core.testing.under_test import SHAPES_ABOVE, by_shapes, model_under_test
from zoo_core.utils.random_state import seeded
from zoo_core.weights.transport.hub import looks_like_hub
from zoo_core.weights.transport.urls import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from zoo_core.contract.card import Card, Licenses, Preprocessing, Weights

_SCHEMES = ("https://", "http://", "file://", "package://", "s3://", "gs://")
_DISTINCT, _FEW = 0.9, 50
_PERCENT = 100
_LEAST_CROP = 4
_MOST_ABSENT = 0.5
_TASKS = ("classification", "segmentation", "detection", "keypoints", "video", "optical_flow", "encoder", "embedding")
_STEPS = 2**16
"""Values that a channel of an image has at most."""
_NEAR = 1.02
"""How much a std may be above what there can be: some are of 255 steps, and some of 256."""
_UNKNOWN = "a_tensor_that_no_model_has"
_UNKNOWN_SHAPE = (3, 1, 7, 1)
_SEED = 20_261_129
"""One that no library sets."""
_EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""The SHA-256 of a file without a byte."""
_DIGEST_IN_NAME = re.compile(r"-(?=[0-9a-f]*[a-f])([0-9a-f]{8})\.\w+$")
"""Eight digits of the digest in a file name, as torch.hub has them; eight decimal ones may be a date."""
_PAGE = re.compile(r"^https?://(www\.)?(huggingface\.co|hf\.co|github\.com)/[^/]+/[^/]+/(blob|tree)/")
"""Addresses of pages about a file."""
_SIGNED = {"x-amz-signature", "x-goog-signature", "signature", "sig", "expires", "token", "access_token"}
_LEAST_BYTES = 8
"""Parameters for which a file has at least one byte: fewer is a size in other units."""
_OUTPUTS = 8
_DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "npu", "xla", "mtia", "privateuseone")
_SPDX = re.compile(r"\(?[a-z0-9][a-z0-9.+-]*\)?( (and|or|with) \(?[a-z0-9][a-z0-9.+-]*\)*)*")
_INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos")


def check_card(card: Card) -> None:
    """The weights entries are well formed: scheme, proof, class names, licences, preprocessing."""
    for weights in card.weights:
        label = f"{card.id}@{weights.tag}"
        for file in weights.files:
            _check_source(label, file)
        declared = all(looks_like_hub(url) for url in weights.files[0].urls)
        require(declared or weights.strength != "none", f"{label}: no digest at all, and no hub that declares one")
        _check_numbers(label, weights)
        _check_files(label, weights)
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
    require(bool(card.default) == bool(card.weights), f"{card.id}: it has weights but no default, or the other way")


def _check_source(label: str, file: Weights) -> None:
    """Check that the URLs of a weights entry have known schemes and hosts, and that plain http has a whole digest."""
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
    """Check that a URL of a weights entry is that of a file for everybody, and its name that of the digest."""
    parts = urlsplit(url)
    require(
        not _PAGE.match(url),
        f"{label}: {url} is a page about a file; /resolve/ on the hub, and /raw/ or a release on GitHub, is the file",
    )
    require(not parts.username, f"{label}: a URL at {parts.hostname} has a user name in it, which all users would see")
    signed = _SIGNED & {name.lower() for name, _ in parse_qsl(parts.query)}
    require(not signed, f"{label}: a URL at {parts.hostname} is signed ({', '.join(signed)}), and will expire")
    found = _DIGEST_IN_NAME.search(parts.path)
    right = not found or not file.sha256 or file.sha256.startswith(found[1])
    require(right, f"{label}: the name of {url} has other digits than its sha256, {file.sha256[:8]}...")


def _check_files(label: str, weights: Weights) -> None:
    """Check that no file of a weights entry has the digest of an empty one, or a URL twice."""
    for file in weights.files:
        require(file.sha256 != _EMPTY, f"{label}: {file.sha256[:8]}... is the digest of a file without a byte")
        twice = [url for url, count in Counter(file.urls).items() if count > 1]
        require(not twice, f"{label}: {twice[:1]} is there twice, and is no mirror of itself")


def _check_numbers(label: str, weights: Weights) -> None:
    """Size, metrics and recorded outputs of a weights entry are numbers that these can be."""
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
    """The class names to check in a weights entry, listed in it or named by it."""
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
    """The class names that weights entries refer to, called for twice; they are the same for hundreds of entries."""
    return named(categories), named(categories)


def _check_distinct(label: str, names: tuple[str, ...]) -> None:
    """Most class names of a weights entry are different ones; ImageNet has two classes called a crane."""
    require(all(name.strip() for name in names), f"{label}: {len(names)} class names, of which some are empty")
    around = [name for name in names if name != name.strip()]
    require(not around, f"{label}: the class names {around[:3]} begin or end with white space")
    count = Counter(names)
    often = [name for name, times in count.most_common(3) if times > 1]
    require(
        len(count) >= _DISTINCT * len(names) and (len(names) >= _FEW or not often),
        f"{label}: {len(names)} class names, of which {len(count)} differ: {often} are there several times",
    )


def _check_licenses(label: str, licenses: Licenses) -> None:
    """The licences of a weights entry are lower-case SPDX names, or unknown."""
    for part, name in vars(licenses).items():
        right = isinstance(name, str) and bool(_SPDX.fullmatch(name))
        require(right, f"{label}: the licence of its {part} is {name!r}; a lower-case SPDX name, or 'unknown'")


def _check_preprocessing(label: str, said: Preprocessing, input_size: tuple[int, ...]) -> None:
    """The preprocessing of a weights entry has numbers that fit each other and the input of the model."""
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
    pairs = zip(reversed(said.crop or ()), reversed(image), strict=False)
    tiny_crop = any(_LEAST_CROP * one < other for one, other in pairs)
    require(not tiny_crop, f"{label}: the crop {said.crop} is a small part of what the card takes, {tuple(image)}")
    known = said.interpolation in _INTERPOLATIONS
    require(known, f"{label}: interpolation {said.interpolation!r} is none of {', '.join(_INTERPOLATIONS)}")


def check_state(card: Card) -> None:
    """What converts a file gives the names of the model, and the options of its weights build one with their classes.

    No file is fetched: a state dict in the model's own layout goes through ``convert``, which has to leave it loadable.
    """
    seen: list[tuple[tuple[object, ...], int]] = []
    for weights in card.weights:
        key = (weights.convert, weights.ignore, weights.absent, dict(weights.options))
        classes = next((result for known, result in seen if known == key), None)
        if classes is None:
            classes = _check_entry(card, weights)
            seen.append((key, classes))
        require(
            weights.num_classes in (0, classes) or not classes,
            f"{card.id}@{weights.tag}: it says {weights.num_classes} classes, and the head of the model that its "
            f"options build gives {classes}",
        )


def _check_entry(card: Card, weights: Weights) -> int:
    """Check one weights entry, and say how many classes its model has; 0 for one without a head."""
    label = f"{card.id}@{weights.tag}"
    model = _model_for(card, weights)
    main = anatomy_of(model).main
    parameters = sum(parameter.numel() for parameter in model.parameters())
    require(
        weights.size is None or weights.size >= parameters / _LEAST_BYTES,
        f"{label}: a size of {weights.size} bytes for {parameters:,} parameters; is it in kilobytes or megabytes?",
    )
    _check_patterns(label, weights, model)
    _check_conversion(label, weights, model)
    return main.num_classes if main else 0


def _check_patterns(label: str, weights: Weights, model: nn.Module) -> None:
    """What a weights entry ignores is nothing that the model learns, and what its file may lack is not most of it."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    for pattern in weights.ignore:
        own = sum(size for name, size in sizes.items() if fnmatchcase(name, pattern))
        require(
            own <= _MOST_ABSENT * sum(sizes.values()),
            f"{label}: ignore has {pattern!r}, which names most of the model's tensors",
        )
    lacking = sum(size for name, size in sizes.items() if any(fnmatchcase(name, each) for each in weights.absent))
    share = lacking / max(1, sum(sizes.values()))
    require(share <= _MOST_ABSENT, f"{label}: absent covers {share:.0%} of the parameters, which would stay untrained")


def _check_conversion(label: str, weights: Weights, model: nn.Module) -> None:
    """The conversion of a weights entry keeps a file in the model's own layout, and the model itself, as they are."""
    layout = model.state_dict()
    if weights.convert is None or not all(isinstance(each, Tensor) for each in layout.values()):
        return  # what a quantised model keeps is no layout of a file that something could be converted from
    own = {name: _other_values(tensor) for name, tensor in layout.items()}
    label = f"{label}: {weights.convert}"
    if any(each.is_meta for each in own.values()) and _converted_or_refused(weights.convert, own, model) is None:
        model = _with_zeros(label, model)
        layout = model.state_dict()
        own = {name: _other_values(tensor) for name, tensor in layout.items()}
    before = dict(_marks(model))
    with watched() as changes, printed() as text, files_left() as files, without_network() as hosts, seeded(_SEED):
        state = _converted(label, weights.convert, dict(own), model)
        is_seeded = torch.initial_seed() != _SEED
    after = dict(_marks(model))
    moved = [mark for mark in {**before, **after} if before.get(mark) != after.get(mark)]
    require(not moved, f"{label} changes the model that it is given: {', '.join(moved[:5])}")
    changes += ["the seed of torch"] if is_seeded else []
    require(not changes, f"{label} changes {', '.join(changes)} for the whole process")
    require(not [*text, *files], f"{label} {', '.join([*text, *files])}")
    require(not hosts, f"{label} asks the network for {', '.join(hosts)}; what it needs has to be in the file")
    other = [name for name, tensor in state.items() if name in own and not _kept_tensor(tensor, layout[name])]
    require(
        not other,
        f"{label} changes the values of {', '.join(other[:5])} in a file that is in the model's own "
        "layout, such as one that a user saved",
    )
    _check_other_files(label, weights.convert, own, model)
    heads = [head.path for head in anatomy_of(model).heads]
    lost = [name for name in own if name not in state and inside(name, heads)]
    require(not lost, f"{label} loses {', '.join(lost)}")
    try:
        load_state(
            copy.deepcopy(model),
            state,
            ignore=weights.ignore,
            replaceable=heads,  # the file may have other classes than the model: a row more, for the background
            source=f"what {weights.convert} returns",
        )
    except LoadMismatch as error:
        raise NonConformance(f"{label}: {error.message}") from error


def _check_other_files(label: str, convert: str, own: dict[str, Tensor], model: nn.Module) -> None:
    """Converting a file with a tensor too few does not hide it, and keeps no tensor in memory.

    One too many may be dropped: files of whole language models hold the text's tensors too, as those of Qwen do.
    """
    unknown = torch.zeros(_UNKNOWN_SHAPE)
    _converted_or_refused(convert, {**own, _UNKNOWN: unknown}, model)
    parameters = [name for name, _ in model.named_parameters()]
    for name in {*parameters[:1], *parameters[-1:]}:
        less = _converted_or_refused(convert, {each: own[each] for each in own if each != name}, model)
        require(
            less is None or name not in less,
            f"{label} gives a {name} to a file that has none: it would stay untrained without a word; name in "
            "Weights.absent what a file may lack",
        )
    kept = weakref.ref(unknown)
    del unknown
    gc.collect()
    require(kept() is None, f"{label} keeps what it is given in memory")


def _converted_or_refused(convert: str, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor] | None:
    """What a conversion makes of a file that is not as it should be; None where it refuses it."""
    with suppress(Exception):
        return dict(resolve_name(convert)(state, model))
    return None


def _with_zeros(label: str, model: nn.Module) -> nn.Module:
    """A copy of the model with values, for a weights conversion that fails without: a library's loader copies them.

    Raises:
        NotChecked: It is too large for that.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    count = sum(tensor.numel() for tensor in tensors.values())
    if count > SHAPES_ABOVE:
        raise NotChecked(f"{label} fails without values, and {count:,} of them are too many to check it with")
    memo: dict[int, Any] = {}
    for tensor in tensors.values():
        zeros = torch.zeros_like(tensor, device="cpu")
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        memo[id(tensor)] = torch.nn.Parameter(zeros, requires_grad=tensor.requires_grad) if is_parameter else zeros
    return copy.deepcopy(model, memo)


def _other_values(tensor: Tensor) -> Tensor:
    """A tensor of the same shape that no model has, so that it is seen whose values a weights conversion returns."""
    return tensor + 1 if tensor.is_floating_point() else tensor.clone()


def _kept_tensor(converted: object, tensor: Tensor) -> bool:
    """Whether a converted tensor is the one that was made of this one."""
    right = _other_values(tensor)
    return isinstance(converted, Tensor) and converted.dtype == right.dtype and same(converted, right)


def _marks(model: nn.Module) -> Iterator[tuple[str, object]]:
    """What a weights conversion must leave alone in a model: its tensors, and which of them train."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        yield name, tensor._version  # noqa: SLF001 - torch's only way to say that it was written to
        yield f"whether {name} trains", tensor.requires_grad
    for path, module in model.named_modules():
        yield f"the mode of {path or 'the model'}", module.training


def _model_for(card: Card, weights: Weights) -> nn.Module:
    """The model that a weights entry is for, built with the options of the entry."""
    if not weights.options:
        return model_under_test(card)
    model = construct(card, {**card.options, **weights.options}, own=weights.options, values=not by_shapes(card))
    return model.to("meta") if by_shapes(card) else model


def _converted(label: str, convert: str, own: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """What the conversion of a weights entry makes of a state dict; whatever it raises is a finding."""
    try:
        result: Any = resolve_name(convert)(own, model)
    except Exception as error:  # a plugin's own code: whatever it raises is the finding
        raise NonConformance(
            f"{label}: {convert} fails on a state dict in the model's own layout",
            got=f"{type(error).__name__}: {error}",
            hint="it may be given a file that needs no conversion, such as one the user saved",
        ) from error
    require(isinstance(result, dict), f"{label}: {convert} returns a {type(result).__name__}, not a state dict")
    return dict(result)

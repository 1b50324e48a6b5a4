"""Plugins whose cards and anatomies say what is not so, and whose constructors do less than they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from support import odd_toys, toys
from support.mutants import Mutant, head, preprocessing, whole
from zoo_core import Anatomy, Head, Stage
from zoo_core.contract.anatomy import InputScaling
from zoo_core.contract.labels import named


def _of(build, **changes):
    return {"build": f"support.record_mutants:{build.__name__}", **changes}


# --- the stem ---------------------------------------------------------------------------------------------------------


class Scaling(toys.Toy):
    """Scales and shifts each channel of its images, once that is switched on."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.transform_input = False

    def scaled(self, x):
        if self.transform_input:
            x = torch.stack([x[:, 0] * 0.5 + 0.1, x[:, 1] * 0.6 - 0.2, x[:, 2] * 0.7 + 0.3], 1)
        return x

    def forward(self, x):
        return super().forward(self.scaled(x))


def _scaled_features(model, x):
    return model.layer2(model.layer1(model.bn1(model.conv1(model.scaled(x)))))


_SCALING = InputScaling("transform_input", (0.5, 0.6, 0.7), (0.1, -0.2, 0.3), norm="bn1")


def scaling(**changes):
    return whole(scaling=replace(_SCALING, **changes), features=_scaled_features)


def _scaling(says, **changes):
    return Mutant("in_channels", says, scaling(**changes), _of(Scaling))


class Counting(toys.Toy):
    """A module without a layer repeats the number of input channels."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.checked = nn.Identity()
        self.checked.in_channels = 3


class Configuration:
    num_channels = 3


class Configured(toys.Toy):
    """Its configuration repeats the number of input channels."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.config = Configuration()


# --- heads and stages -------------------------------------------------------------------------------------------------


class Contained(nn.Module):
    """A dropout and its head in one container, or more layers there."""

    def __init__(self, num_classes=10, *, hidden=0):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4)
        inner = [nn.Linear(4, hidden), nn.ReLU()] if hidden else [nn.Dropout()]
        self.classifier = nn.Sequential(*inner, nn.Linear(hidden or 4, num_classes))

    def forward(self, x):
        return self.classifier(self.bn1(self.conv1(x)).mean((2, 3)))


def contained(model):
    last = model.classifier if isinstance(model.classifier, nn.Linear) else model.classifier[-1]
    first = Stage("first", ("conv1", "bn1"), 4, 2)
    return Anatomy((Head("classifier", 4, last.out_features),), stem=("conv1",), stages=(first,))


class Wide(toys.Toy):
    """Has an integer that is by chance the number of its classes."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.width = 10


def called(*names):
    def anatomy(model):
        right = toys.anatomy(model)
        stages = tuple(replace(each, name=name) for each, name in zip(right.stages, names, strict=True))
        return replace(right, stages=stages)

    return anatomy


def head_twice(model):
    right = toys.anatomy(model)
    return replace(right, heads=(*right.heads, replace(right.heads[0], role="aux")))


class Dense(nn.Module):
    """Scores of every place."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv1, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, num_classes, 1)

    def forward(self, x):
        return self.head(self.conv1(x))


def dense(model):
    site = Head("head", 4, model.head.out_channels, kind="conv")
    return Anatomy((site,), stem=("conv1",), stages=(Stage("first", ("conv1",), 4, 2),))


# --- forward and split ------------------------------------------------------------------------------------------------


class Squeezing(toys.Toy):
    """Gives one vector of scores, and no batch, for a batch of one."""

    def forward(self, x):
        scores = super().forward(x)
        return scores if self.training else scores.squeeze()


def squeezed(model, x):
    return model.fc(x).squeeze()


class Precise(toys.Toy):
    """Multiplies its scores by a buffer of float64."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.register_buffer("scale", torch.ones(1, dtype=torch.float64))

    def forward(self, x):
        scores = super().forward(x)
        return scores if self.training else scores * self.scale


class Counted(toys.Toy):
    """Counts how often it was called."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class Drifting(toys.Toy):
    """Its scores depend on the last image too."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.last = 0.0

    def forward(self, x):
        scores = super().forward(x + 0.01 * self.last)
        self.last = 0.0 if x.is_meta else float(x.mean())
        return scores


def clamping(model, x):
    return model.layer2(model.layer1(model.bn1(model.conv1(x.clamp_(-50, 50)))))


def of_one_layout(model, x):
    assert x.is_contiguous()
    return model.norm(model.pool(x).flatten(1))


class Normed(toys.Toy):
    """Its stage has a weight norm, for which torch makes a class of its own for each layer."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        nn.utils.parametrizations.weight_norm(self.layer1[0])


# --- constructors -----------------------------------------------------------------------------------------------------


def of_ten(num_classes=10):
    return toys.Toy(10)


def _drawn(values):
    model = toys.Toy()
    with torch.no_grad():
        model.fc.weight.copy_(torch.from_numpy(values))
    return model


def without_a_seed():
    return _drawn(np.random.default_rng().normal(size=(10, 8)))


def with_numpys_seed():
    return _drawn(np.random.normal(size=(10, 8)))


class Other(toys.Toy):
    """The same tensors, in another class."""


_built = []


def of_two_classes():
    _built.append(None)
    return Other() if len(_built) % 2 else toys.Toy()


def with_a_frozen_head():
    model = toys.Toy()
    model.fc.requires_grad_(requires_grad=False)
    return model


def with_gradients():
    model = toys.Toy()
    model.fc.weight.grad = torch.zeros_like(model.fc.weight)
    return model


def _more(_, __, scores):
    return scores + 1


def with_a_hook():
    model = toys.Toy()
    model.fc.register_forward_hook(_more)
    return model


# --- loading ----------------------------------------------------------------------------------------------------------


class Dropping(toys.Toy):
    """Leaves its norm as it is, whatever is loaded."""

    def load_state_dict(self, state_dict, **_):
        return super().load_state_dict({k: v for k, v in state_dict.items() if not k.startswith("norm")}, strict=False)


class Lenient(toys.Toy):
    """Never says what a file lacks."""

    def load_state_dict(self, state_dict, **_):
        return super().load_state_dict(state_dict, strict=False)


class Halved(nn.LayerNorm):
    def _load_from_state_dict(self, state_dict, prefix, *others):
        state_dict[f"{prefix}weight"] = state_dict[f"{prefix}weight"] / 2
        super()._load_from_state_dict(state_dict, prefix, *others)


class Halving(toys.Toy):
    """Halves what its norm is given."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.norm = Halved(8)


def cutting(state, model):
    count = model.fc.out_features
    return {name: tensor[:count] if name.startswith("fc.") else tensor for name, tensor in state.items()}


def exchanging(state, model):
    return {**state, "norm.weight": state["layer2.1.weight"], "layer2.1.weight": state["norm.weight"]}


def reversing(state, model):
    return {name: tensor.flip(0) if name == "norm.weight" else tensor for name, tensor in state.items()}


def taking(state, model):
    return {**state, "fc.bias": state.pop("fc.bias")}


_converted = []


def in_turn(state, model):
    _converted.append(None)
    return {name if len(_converted) % 2 else f"old.{name}": tensor for name, tensor in state.items()}


def _convert(says, function):
    return Mutant("state", says, weights={"convert": f"support.record_mutants:{function.__name__}"})


# --- cards ------------------------------------------------------------------------------------------------------------


class Thousand(toys.Toy):
    def __init__(self, num_classes=1000):
        super().__init__(num_classes)


_NAMES = named("imagenet_1k")


def _imagenet(names):
    weights = {"num_classes": 1000, "categories": tuple(names)}
    return Mutant("card", "those of ImageNet in another order", card=_of(Thousand, num_classes=1000), weights=weights)


def _weights(says, *others):
    return Mutant("card", says, card={"weights": others, "default": others[0].tag})


def _tag(tag):
    return _weights(f"a tag cannot be {tag!r}", replace(toys.V1, tag=tag))


_OTHER_FILE = ("https://example.org/toy-b-5c106cde.pth",)

MUTANTS = {
    "scaling with another factor": _scaling("given something other than x * scale + shift", scale=(0.5, 0.6, 0.8)),
    "scaling with another shift": _scaling("given something other than x * scale + shift", shift=(0.1, 0.2, 0.3)),
    "scaling of one channel": _scaling("has 1 numbers for images of 3 channels", scale=(0.5,), shift=(0.1,)),
    "scaling with a number for its switch": _scaling(
        "'num_classes' is 10, and neither on nor off", switch="num_classes"
    ),
    "scaling with a later norm": _scaling("'layer1.1' is not given what the stem makes", norm="layer1.1"),
    "scaling with a layer norm": _scaling("'norm' is a LayerNorm, and no batch norm", norm="norm"),
    "number of input channels left out": Mutant(
        "in_channels", "still 3 with in_channels=1: checked.in_channels; name it", card=_of(Counting)
    ),
    "configured number of input channels left out": Mutant(
        "in_channels", "still 3 with in_channels=1: config.num_channels; name it", card=_of(Configured)
    ),
    "stem with a norm": Mutant("stem", "stem 'bn1' is a BatchNorm2d", whole(stem=("conv1", "bn1"))),
    "stem with a later layer": Mutant(
        "stem", "stem 'layer1.0' is given what 'conv1' makes of the image", whole(stem=("conv1", "layer1.0"))
    ),
    "stage called head": Mutant("stages", "a stage cannot be called 'head'", called("layer1", "head")),
    "stage called like a pattern": Mutant("stages", "it would be read as a pattern", called("layer*", "layer2")),
    "stage called like the head site": Mutant("stages", "that is the path of a head site", called("layer1", "fc")),
    "head site that is a container": Mutant(
        "paths", "'classifier' is a Sequential, of which a swap would replace classifier.1", contained, _of(Contained)
    ),
    "head site that is a container of two layers": Mutant(
        "paths",
        "would replace classifier.0, classifier.2 and all beside",
        contained,
        _of(Contained, options={"hidden": 6}),
    ),
    "head site with a hook": Mutant("paths", "head site 'fc' has a hook", card=_of(with_a_hook)),
    "head site that is there twice": Mutant("paths", "a head site is there twice", head_twice),
    "head sites, and a reason for none": Mutant("paths", "says why it has none: it has", whole(headless="it has")),
    "split, and a reason for none": Mutant("paths", "Anatomy.indivisible says why", whole(indivisible="it is one")),
    "aux head said to be distilled": Mutant(
        "in_features", "'aux' has the role 'distilled', and is not called in eval mode", head(1, role="distilled")
    ),
    "attribute that is by chance the number of classes": Mutant(
        "swap",
        "'width', which is 10 in a model of 9 classes too",
        head(attributes=("num_classes", "width")),
        _of(Wide),
    ),
    "classifier said to be a segmentation": Mutant("builds", "one for each pixel", card={"task": "segmentation"}),
    "classifier said to be of videos": Mutant("builds", "the task 'video' has an input_size", card={"task": "video"}),
    "segmentation said to be a classifier": Mutant("builds", "has one score a class for an image", dense, _of(Dense)),
    "segmentation without a head": Mutant(
        "builds",
        "a model of 10 classes, and its anatomy has no head",
        whole(heads=(), headless="it has none"),
        {"task": "segmentation"},
    ),
    "forward that squeezes a batch of one": Mutant(
        "forward", "it squeezes the axis of the batch away", whole(classify=squeezed), _of(Squeezing)
    ),
    "buffer of float64": Mutant("forward", "gives scores of torch.float64", card=_of(Precise)),
    "forward that counts its calls": Mutant("forward", "changes the attribute calls", card=_of(Counted)),
    "forward that remembers the last image": Mutant("forward", "changes the attribute last", card=_of(Drifting)),
    "features that write to the images": Mutant(
        "split", "the features of the split writes to the images", whole(features=clamping)
    ),
    "pool of one layout in memory": Mutant(
        "split", "fails on [1, 8, 8, 8] in channels_last", whole(pool=of_one_layout)
    ),
    "build that ignores num_classes": Mutant(
        "swap", "takes num_classes=9, and builds a head of 10 classes", card=_of(of_ten)
    ),
    "build without a seed": Mutant("builds", "built twice from one seed of torch, fc.weight", card=_of(without_a_seed)),
    "build with numpy's seed": Mutant("builds", "draws from numpy, which zoo.get(seed=", card=_of(with_numpys_seed)),
    "build of two classes": Mutant("builds", "the class of the model itself differs", card=_of(of_two_classes)),
    "build with a frozen head": Mutant(
        "builds", "freezes every parameter of head site fc", card=_of(with_a_frozen_head)
    ),
    "build with gradients": Mutant("builds", "a model with gradients", card=_of(with_gradients)),
    "load_state_dict that drops": Mutant("values", "Dropping drops norm.weight, norm.bias", card=_of(Dropping)),
    "load_state_dict that is never strict": Mutant("values", "though it is told strict=True", card=_of(Lenient)),
    "module that halves what it loads": Mutant(
        "values", "drops or changes norm.weight, without a word", card=_of(Halving)
    ),
    "conversion that cuts classes": _convert("cuts fc.weight, fc.bias of a file that has more classes", cutting),
    "conversion that exchanges two norms": _convert("changes the values of layer2.1.weight, norm.weight", exchanging),
    "conversion that reverses a norm": _convert("changes the values of norm.weight", reversing),
    "conversion that takes a tensor away": _convert("takes fc.bias out of the mapping", taking),
    "conversion that is another one each time": _convert("gives other tensors when it is called again", in_turn),
    "file that may lack the head": Mutant("state", "absent covers the head", weights={"absent": ("fc.*",)}),
    "size in bits": Mutant("state", "is too large; is it in bytes?", weights={"size": 4_000_000_000}),
    "crop of a size that the model does not take": Mutant(
        "state",
        "the crop of its preprocessing is (96, 96), and the model takes no such images",
        odd_toys.tokens(),
        {"build": "support.odd_toys:OneSize", "input_size": (3, 64, 64)},
        preprocessing(crop=(96, 96), resize=(110,)),
    ),
    "whole file without a conversion": Mutant("card", "and there is no convert", weights={"whole": True}),
    "BGR with the means of RGB": Mutant("card", "another order than BGR", weights=preprocessing(channel_order="BGR")),
    "RGB with the means of BGR": Mutant(
        "card", "another order than RGB", weights=preprocessing(mean=(0.406, 0.456, 0.485))
    ),
    "RGB with Caffe's means": Mutant(
        "card",
        "another order than RGB",
        weights=preprocessing(mean=(103.939, 116.779, 123.68), std=(1.0,) * 3, value_range=255.0),
    ),
    "names of ImageNet from A to Z": _imagenet(sorted(_NAMES)),
    "names of ImageNet off by one": _imagenet((*_NAMES[1:], _NAMES[0])),
    "class names that are numbers": Mutant(
        "card", "the class names are the numbers", weights={"categories": tuple(map(str, range(10)))}
    ),
    **{f"tag {tag!r}": _tag(tag) for tag in ("none", "default", "a/b", "")},
    "two tags that differ by a capital": _weights(
        "two tags differ by capitals only", toys.V1, replace(toys.V1, tag="v1")
    ),
    "two files of one digest": _weights(
        "toy/toy@V2: toy-b-5c106cde.pth has the digest of tag V1",
        toys.V1,
        replace(toys.V1, tag="V2", urls=_OTHER_FILE),
    ),
}

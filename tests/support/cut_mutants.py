"""Plugins whose stages, split or heads look right until the model is cut, trained or given other classes."""

from __future__ import annotations

from dataclasses import replace
from operator import itemgetter

import torch
from torch import nn
from torch.nn import functional

from support import toys
from support.mutants import Mutant, whole
from zoo_core import Anatomy, Chain, Head, Stage, flatten


class Linked(toys.Toy):
    """A layer between the two stages, as DenseNet's transitions are."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.between = nn.Conv2d(6, 6, 1)

    def forward(self, x):
        middle = self.between(self.layer1(self.bn1(self.conv1(x))))
        scores = self.fc(self.norm(self.pool(self.layer2(middle)).flatten(1)))
        return (scores, self.aux(middle.mean((2, 3)))) if self.training else scores


LINKED = Chain("conv1", "bn1", "layer1", "between", "layer2")


class Widened(toys.Toy):
    """A layer before the first stage that is registered after the last one."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.more = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        middle = self.layer1(self.more(self.bn1(self.conv1(x))))
        scores = self.fc(self.norm(self.pool(self.layer2(middle)).flatten(1)))
        return (scores, self.aux(middle.mean((2, 3)))) if self.training else scores


class Pair(nn.Module):
    """A map, and something else."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(6, 8, 3, stride=2, padding=1)

    def forward(self, x):
        return self.convolution(x), None


class Paired(toys.Toy):
    """Its last stage gives a tuple."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.layer2 = Pair()

    def forward(self, x):
        middle = self.layer1(self.bn1(self.conv1(x)))
        scores = self.fc(self.norm(self.pool(self.layer2(middle)[0]).flatten(1)))
        return (scores, self.aux(middle.mean((2, 3)))) if self.training else scores


def first(model, output):
    return output[0]


def of_pairs(model, x):
    return model.layer2(model.layer1(model.bn1(model.conv1(x))))[0]


def paired(read=first):
    def anatomy(model):
        right = toys.anatomy(model)
        stages = (right.stages[0], Stage("layer2", ("layer2",), 8, 8, read=read))
        return replace(right, features=of_pairs, stages=stages)

    return anatomy


class Gated(toys.Toy):
    """A branch after a gate of zeros."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.gate, self.extra = nn.Parameter(torch.zeros(1)), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        middle = self.layer1(self.bn1(self.conv1(x)))
        last = self.layer2(middle)
        scores = self.fc(self.norm(self.pool(last + self.gate * self.extra(last)).flatten(1)))
        return (scores, self.aux(middle.mean((2, 3)))) if self.training else scores


class Dropping(toys.Toy):
    """A dropout before its head."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        middle = self.layer1(self.bn1(self.conv1(x)))
        scores = self.fc(self.drop(self.norm(self.pool(self.layer2(middle)).flatten(1))))
        return (scores, self.aux(middle.mean((2, 3)))) if self.training else scores


class Buffered(toys.Toy):
    """Scores times a buffer of ones."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x):
        scores = super().forward(x)
        return scores if self.training else scores * self.scale


class Calibrated(Buffered):
    """A number for each class after the head, which no swap makes longer or shorter."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.register_buffer("scale", torch.ones(num_classes))


def without_gradients(model, x):
    with torch.no_grad():
        return model.layer2(model.layer1(model.bn1(model.conv1(x))))


def half_detached(model, x):
    return model.layer2(model.layer1(model.bn1(model.conv1(x))).detach())


def detached(model, x):
    return model.norm(model.pool(x).flatten(1).detach())


def always_evaluating(model, x):
    norm = model.bn1
    x = functional.batch_norm(model.conv1(x), norm.running_mean, norm.running_var, norm.weight, norm.bias)
    return model.layer2(model.layer1(x))


class Narrow(toys.Toy):
    """An inner layer is by chance as wide as the head, and so is a number of groups; classes are called outputs."""

    def __init__(self, outputs=10):
        super().__init__(outputs)
        self.class_tokens = 10
        self.squeeze, self.expand = nn.Conv2d(6, 10, 1), nn.Conv2d(10, 6, 1)

    def forward(self, x):
        middle = self.expand(self.squeeze(self.layer1(self.bn1(self.conv1(x)))))
        scores = self.fc(self.norm(self.pool(self.layer2(middle)).flatten(1)))
        return (scores, self.aux(middle.mean((2, 3)))) if self.training else scores


def narrow(model):
    right = toys.anatomy(model)
    first_stage = Stage("layer1", ("layer1", "squeeze", "expand"), 6, 4)
    return replace(
        right,
        features=Chain("conv1", "bn1", "layer1", "squeeze", "expand", "layer2"),
        stages=(first_stage, right.stages[1]),
    )


class Embedding(toys.Toy):
    """Gives its scores and, beside them, the vector that they come from."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        del self.aux

    def forward(self, x):
        vector = self.norm(self.pool(self.layer2(self.layer1(self.bn1(self.conv1(x))))).flatten(1))
        return self.fc(vector), vector


def embedding(model):
    head = Head("fc", in_features=8, num_classes=model.fc.out_features, attributes=("num_classes",))
    return Anatomy(
        (head,),
        stem=("conv1",),
        stages=(Stage("layer1", ("layer1",), 6, 4), Stage("layer2", ("layer2",), 8, 8)),
        features=Chain("conv1", "bn1", "layer1", "layer2"),
        pool=Chain("pool", flatten, "norm"),
        scores=itemgetter(0),
    )


def pool_with_stem(model, x):
    return model.norm(model.pool(x).flatten(1) + 0 * model.conv1.weight.sum())


class Functional(toys.Toy):
    """Its head is a parameter, used through a function."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        del self.fc, self.aux
        self.prototypes = nn.Parameter(torch.randn(num_classes, 8))

    def forward(self, x):
        return functional.linear(
            self.norm(self.pool(self.layer2(self.layer1(self.bn1(self.conv1(x))))).flatten(1)), self.prototypes
        )


def functional_head(model):
    return Anatomy((Head("prototypes", 8, 10, attributes=("num_classes",)),), stem=("conv1",))


class Uncalled(toys.Toy):
    """Its head is a module whose weight is used, and which is never called."""

    def forward(self, x):
        vector = self.norm(self.pool(self.layer2(self.layer1(self.bn1(self.conv1(x))))).flatten(1))
        return functional.linear(vector, self.fc.weight, self.fc.bias)


class OneBatch(nn.Module):
    """A detector that takes one batch of images."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv1, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, num_classes, 1)

    def forward(self, x):
        return self.head(self.conv1(x))


def one_batch(model):
    head = Head("head", 4, model.head.out_channels, kind="conv")
    return Anatomy((head,), stem=("conv1",), stages=(Stage("first", ("conv1",), 4, 2),))


def of(kind, **changes):
    return {"build": f"support.cut_mutants:{kind.__name__}", **changes}


# --- conversions ------------------------------------------------------------------------------------------------------


def halved(state, model):
    return {name: value * 0.5 if name.startswith("layer1.0") else value for name, value in state.items()}


def rounded(state, model):
    return {name: value.half() if value.is_floating_point() else value for name, value in state.items()}


def of_the_model(state, model):
    return model.state_dict()


def in_place(state, model):
    state["fc.weight"].zero_()
    return state


def into_the_model(state, model):
    with torch.no_grad():
        model.fc.weight.zero_()
    return dict(state)


def _convert(says, function):
    return Mutant("state", says, weights={"convert": f"support.cut_mutants:{function.__name__}"})


MUTANTS = {
    "layer between two stages": Mutant(
        "depths", "'between' runs before 'layer2.0', and its depth is later", whole(features=LINKED), of(Linked)
    ),
    "layer before the stages, registered last": Mutant(
        "depths",
        "it counts to what comes after the stages, and 'layer1.0' to stage layer1",
        whole(features=Chain("conv1", "bn1", "more", "layer1", "layer2")),
        of(Widened),
    ),
    "stage that gives a tuple": Mutant(
        "features", "'layer2' gives a tuple, not a map; Stage(..., read=function)", paired(read=None), of(Paired)
    ),
    "stage that gives a tuple, measured": Mutant(
        "stages", "'layer2' gives a tuple, not a map", paired(read=None), of(Paired)
    ),
    "pool that needs the stem": Mutant(
        "branch",
        "zoo.branch(model, at='layer2') fails",
        lambda model: replace(embedding(model), pool=pool_with_stem),
        of(Embedding),
    ),
    "front that needs what comes after it": Mutant(
        "features", "the front up to layer2 gives another map than its stage", whole(features=LINKED), of(Linked)
    ),
    "split that skips a gate of zeros": Mutant("split", "split and forward differ by up to", card=of(Gated)),
    "split that skips a buffer of ones": Mutant("split", "split and forward differ by up to", card=of(Buffered)),
    "split that skips a dropout": Mutant(
        "training", "in train mode split and forward differ by up to", card=of(Dropping)
    ),
    "split that always uses running statistics": Mutant(
        "training", "in train mode split and forward differ by up to", whole(features=always_evaluating)
    ),
    "features without gradients": Mutant(
        "training", "no gradient of its split reaches conv1.weight", whole(features=without_gradients)
    ),
    "features that are half detached": Mutant(
        "training", "no gradient of its split reaches conv1.weight", whole(features=half_detached)
    ),
    "pool that is detached": Mutant("training", "no gradient of its split reaches conv1.weight", whole(pool=detached)),
    "a number for each class after the head": Mutant(
        "swap", "scale still holds a number for each of the 10 classes", card=of(Calibrated)
    ),
    "head that is a parameter": Mutant(
        "paths", "head site 'prototypes' is a parameter, and no module", functional_head, of(Functional)
    ),
    "head whose weight is used through a function": Mutant(
        "in_features", "or forward uses its weight through a function", card=of(Uncalled)
    ),
    "detector that takes one batch": Mutant("builds", "a list of images", one_batch, of(OneBatch, task="detection")),
    "conversion that halves": _convert("changes the values of layer1.0.weight, layer1.0.bias", halved),
    "conversion that rounds": _convert("changes the values of", rounded),
    "conversion that returns the model's values": _convert("changes the values of", of_the_model),
    "conversion that works in place": _convert("changes the values of fc.weight", in_place),
    "conversion that changes the model": _convert("changes the model that it is given: fc.weight", into_the_model),
    "file of which the model's own is ignored": Mutant(
        "state", "ignore has '*', which names most of the model's tensors", weights={"ignore": ("*",)}
    ),
    "file of which every name is ignored": Mutant("card", "ignore has ['?*']", weights={"ignore": ("?*",)}),
    "file that may lack most": Mutant("state", "absent covers", weights={"absent": ("*.*",)}),
}

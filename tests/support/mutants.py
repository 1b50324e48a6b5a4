"""Ways to get a plugin wrong, each with the check that finds it and the words in which it says so."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn.functional import dropout, linear

from support import odd_toys, toys
from zoo_core import Chain, Licenses, Preprocessing, flatten


@dataclass(frozen=True)
class Mutant:
    """A planted defect."""

    check: str
    says: str
    anatomy: object = None
    card: dict = field(default_factory=dict)
    weights: dict = field(default_factory=dict)

    def zoo(self):
        """A registry with this plugin alone."""
        return toys.zoo_of(self.anatomy, self.of())

    def of(self):
        """Its card."""
        entries = (replace(toys.V1, **self.weights),)
        return replace(toys.CARD, **{"weights": entries, **self.card})


# --- what an anatomy can say wrongly ----------------------------------------------------------------------------------


def head(index=0, **changes):
    def wrong(model):
        right = toys.anatomy(model)
        heads = list(right.heads)
        heads[index] = replace(heads[index], **changes)
        return replace(right, heads=tuple(heads))

    return wrong


def stage(**changes):
    def wrong(model):
        right = toys.anatomy(model)
        return replace(right, stages=(right.stages[0], replace(right.stages[1], **changes)))

    return wrong


def whole(**changes):
    return lambda model: replace(toys.anatomy(model), **changes)


def without_aux(model):
    right = toys.anatomy(model)
    return replace(right, heads=right.heads[:1])


def backwards(model):
    right = toys.anatomy(model)
    return replace(right, stages=right.stages[::-1])


def raising(model):
    raise RuntimeError("I have never seen such a model")


def doubled(model, x):
    return 2 * x.mean((2, 3))


# --- what a constructor can do wrongly --------------------------------------------------------------------------------


def a_dozen(num_classes=10):
    """Ignores the number of classes."""
    return toys.Toy(12)


class Thawing(toys.Toy):
    """Its norm follows the model's mode, whatever it was told itself."""

    def train(self, mode=True):
        super().train(mode)
        self.bn1.training = mode
        return self


class Gated(toys.Toy):
    """Multiplies its scores by a parameter that begins as ones, which the anatomy does not know."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        scores = super().forward(x)
        return scores if self.training else scores * self.scale


class Unstoppable(toys.Toy):
    """Whatever is frozen trains again with ``train()``."""

    def train(self, mode=True):
        super().train(mode)
        return self.requires_grad_() if mode else self


class ThreeOnly(toys.Toy):
    """Counts the channels itself."""

    def forward(self, x):
        red, green, blue = x.unbind(1)
        return super().forward(torch.stack([red, green, blue], 1))


class Deaf(toys.Toy):
    """Puts zeros in the place of the last channel."""

    def forward(self, x):
        return super().forward(torch.cat([x[:, :-1], torch.zeros_like(x[:, -1:])], 1))


class OnTheCPU(toys.Toy):
    """Subtracts a constant that it makes where torch makes tensors by default."""

    def forward(self, x):
        return super().forward(x - torch.tensor([0.5, 0.4, 0.4]).view(3, 1, 1))


class Table(toys.Toy):
    """Keeps a constant as a plain attribute, which stays where it is made."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.mix = torch.rand(8, 8)
        self.fc.register_forward_pre_hook(self.mixed)

    def mixed(self, _, args):
        return (linear(args[0], self.mix),)


class ToTheCPU(toys.Toy):
    """Pools on the CPU."""

    def forward(self, x):
        return super().forward(x).cpu() + self.fc.bias


class Contrasting(toys.Toy):
    """Takes the mean of the batch away from each image."""

    def forward(self, x):
        return super().forward(x - x.mean(0))


class Subtracting(toys.Toy):
    """Normalizes the images that it is given, in place."""

    def forward(self, x):
        return super().forward(x.sub_(0.5))


class Dropping(toys.Toy):
    """Its dropout does not know of eval mode."""

    def forward(self, x):
        return super().forward(dropout(x, 0.1))


class Remembering(toys.Toy):
    """Keeps all scores that it ever gave."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.seen = []

    def forward(self, x):
        self.seen.append(super().forward(x))
        return self.seen[-1]


class TwoStems(toys.Toy):
    """A second convolution looks at the image too."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.beside = nn.Conv2d(3, 4, 1, stride=2)

    def forward(self, x):
        middle = self.layer1(self.bn1(self.conv1(x) + self.beside(x)))
        return self.fc(self.norm(self.pool(self.layer2(middle)).flatten(1)))


class Sided(toys.Toy):
    """A convolution gives scores of every place while it trains."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.side = nn.Conv2d(6, num_classes, 1)

    def forward(self, x):
        scores = super().forward(x)
        return (*scores, self.side(self.layer1(self.bn1(self.conv1(x))))) if self.training else scores


class Hidden(toys.Toy):
    """Its second scores come from a parameter, and from no layer."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.side = nn.Parameter(torch.randn(num_classes, 3))

    def forward(self, x):
        scores = super().forward(x)
        return (*scores, linear(x.mean((2, 3)), self.side)) if self.training else scores


class Idle(toys.Toy):
    """Its auxiliary head never runs."""

    def forward(self, x):
        return self.fc(self.norm(self.pool(self.layer2(self.layer1(self.bn1(self.conv1(x))))).flatten(1)))


class Zeros(toys.Toy):
    """Its head is zeros until it trains, as in several libraries."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)


class Secretive(toys.Toy):
    """A random number that is in no state dict."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.noise = SimpleNamespace(shift=torch.randn(1, 1, 1, 1).item())

    def forward(self, x):
        return super().forward(x + self.noise.shift)


class Scaled(toys.Toy):
    """A buffer that no file holds, computed from the initial values of a layer."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        nn.init.constant_(self.fc.weight, 0.5)
        self.register_buffer("scale", self.fc.weight.detach().mean(), persistent=False)

    def forward(self, x):
        scores = super().forward(x)
        return scores if self.training else scores * self.scale


class Measured(Scaled):
    """The same as a plain number."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        scale = self.scale.item()
        del self.scale
        self.scale = scale


class Hooking(toys.Toy):
    """It hangs a hook on a layer the first time that it runs, as transformers' backbones do."""

    def forward(self, x):
        if not self.norm._forward_hooks:
            self.norm.register_forward_hook(lambda *_: None)
        return super().forward(x)


class Locked(toys.Toy):
    """Holds a lock, which can be neither copied nor pickled."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.lock = threading.Lock()


def downloading(num_classes=10):
    with socket.create_connection(("weights.example.org", 443), timeout=1):
        return toys.Toy(num_classes)


def downloading_if_it_can(num_classes=10):
    try:
        return downloading(num_classes)
    except OSError:
        return toys.Toy(num_classes)


def of_another_version(num_classes=10):
    raise TypeError("unexpected keyword 'pretrained'")


# --- what a conversion can do wrongly ---------------------------------------------------------------------------------


def renamed(state, model):
    return {name.replace("fc.", "head."): tensor for name, tensor in state.items()}


def shortened(state, model):
    return {name: tensor for name, tensor in state.items() if not name.startswith("layer2")}


def picky(state, model):
    return {"fc.weight": state["module.fc.weight"]}


def forgetful(state, model):
    state.clear()


def two_names():
    return ("cat", "dog")


def moving(model):
    if not model.bn1.running_mean.is_meta:
        model.bn1.running_mean += 1
    return toys.anatomy(model)


def switching(model):
    model.layer1.train(mode=not model.layer1.training)
    model.layer2.train()
    return toys.anatomy(model)


_asked = []


def counting(model):
    _asked.append(model)
    right = toys.anatomy(model)
    return replace(right, stages=(right.stages[0], replace(right.stages[1], channels=len(_asked))))


class Frozen(toys.Toy):
    def __init__(self):
        super().__init__()
        self.requires_grad_(requires_grad=False)


_cache = []


def cached():
    _cache[:] = _cache or [toys.Toy()]
    return _cache[0]


def build(function):
    return {"build": f"support.mutants:{function.__name__}"}


def odd(kind, **changes):
    return {"build": f"support.odd_toys:{kind.__name__}", **changes}


def preprocessing(**changes):
    return {"preprocessing": replace(Preprocessing(), **changes)}


def detached(_, found):
    return found.detach()


def emptied(_, found):
    return 0 * found


DETECTOR = odd(odd_toys.Detector, task="detection")

_count = []


def other_names():
    _count.append(None)
    return [f"class {number} of call {len(_count)}" for number in range(10)]


def cpu_pool(x):
    return x.mean((2, 3)) * torch.ones(8)


def cpu_anatomy(model):
    return replace(toys.anatomy(model), pool=Chain(cpu_pool, "norm"))


def pool_of_two(x):
    return x.mean((2, 3)).view(2, 8)


MUTANTS = {
    # forward
    "forward that changes its images": Mutant("forward", "forward changes the images", card=build(Subtracting)),
    "dropout in eval mode": Mutant("forward", "other scores each time in eval mode", card=build(Dropping)),
    "forward that keeps its scores": Mutant("forward", "leaves 1 tensors more in attributes", card=build(Remembering)),
    "pool of two images": Mutant(
        "forward",
        "does not take a batch of 3",
        lambda model: replace(toys.anatomy(model), pool=Chain(pool_of_two, "norm")),
    ),
    "constant on the CPU": Mutant(
        "forward", "(return super().forward(x - torch.tensor([0.5", card={"build": "support.mutants:OnTheCPU"}
    ),
    "attribute on the CPU": Mutant(
        "forward", "forward stays on the CPU when the model is on another", card={"build": "support.mutants:Table"}
    ),
    "scores on the CPU": Mutant(
        "forward", "forward stays on the CPU when the model is on another", card={"build": "support.mutants:ToTheCPU"}
    ),
    "pool on the CPU": Mutant("forward", "a part of the split stays on the CPU", cpu_anatomy),
    "scores that depend on the batch": Mutant(
        "forward", "gets other scores beside another one than alone", card={"build": "support.mutants:Contrasting"}
    ),
    "class names that change": Mutant(
        "card",
        "which gives 10 other class names when called again",
        weights={"categories": "support.mutants:other_names"},
    ),
    # weights entries
    "bad scheme": Mutant(
        "card", "ftp://example.org/toy.pth has none of the schemes", weights={"urls": ("ftp://example.org/toy.pth",)}
    ),
    "digest missing": Mutant("card", "toy/toy@V1: no digest at all", weights={"sha256": ""}),
    "too few class names": Mutant("card", "2 class names for 10 classes", weights={"categories": ("cat", "dog")}),
    "function that gives too few class names": Mutant(
        "card", "2 class names for 10 classes", weights={"categories": "support.mutants:two_names"}
    ),
    "function of class names that is not there": Mutant(
        "card",
        "categories names support.mutants:names, which gives no class names",
        weights={"categories": "support.mutants:names"},
    ),
    "plain http and a part of the digest": Mutant(
        "card", "it needs all 64 digits of the digest, and 8 are known", weights={"urls": ("http://example.org/a.pth",)}
    ),
    "url without a host": Mutant("card", "names no host", weights={"urls": ("https:///toy-5c106cde.pth",)}),
    "size of nothing": Mutant("card", "size 0 is no number of bytes", weights={"size": 0}),
    "accuracy of more than all": Mutant("card", "from 0 to 100", weights={"metrics": {"ImageNet-1K acc@1": 7613.0}}),
    "outputs that are no numbers": Mutant(
        "card", "no finite numbers", weights={"outputs": {"cpu": (float("nan"),) * 8}}
    ),
    "task with a letter too few": Mutant("card", "is not ['classification'] by", card={"task": "classifcation"}),
    "accuracy that is no percentage": Mutant("card", "in percent", weights={"metrics": {"ImageNet-1K acc@1": 0.76}}),
    "class names with line ends": Mutant(
        "card", "begin or end with white space", weights={"categories": tuple(f"{number}\n" for number in range(10))}
    ),
    "mean and std exchanged": Mutant(
        "card", "may be exchanged", weights=preprocessing(mean=(0.229, 0.224, 0.225), std=(0.485, 0.456, 0.406))
    ),
    "mean below all values": Mutant("card", "outside the range", weights=preprocessing(mean=(-0.5, 0.4, 0.4))),
    "range of no image": Mutant("card", "are those of values from 0 to 1", weights=preprocessing(value_range=2.0)),
    "crop of one pixel": Mutant("card", "a small part of what the card takes", weights=preprocessing(crop=(1, 1))),
    "std of next to nothing": Mutant("card", "less than a step", weights=preprocessing(std=(1e-9,) * 3)),
    "licence in capitals": Mutant(
        "card", "the licence of its code is 'MIT'", weights={"licenses": Licenses(code="MIT")}
    ),
    "licence empty": Mutant("card", "the licence of its data is ''", weights={"licenses": Licenses(data="")}),
    "mean of one channel": Mutant(
        "card", "mean has 1 numbers for images of 3 channels", weights=preprocessing(mean=(0.5,))
    ),
    "std of zero": Mutant("card", "has a number that is not positive", weights=preprocessing(std=(0.2, 0.0, 0.2))),
    "mean of another range": Mutant(
        "card", "is outside the range of the values, 1", weights=preprocessing(mean=(123.0, 116.0, 103.0))
    ),
    "equal class names": Mutant(
        "card", "10 class names, of which 1 differ: ['cat']", weights={"categories": ("cat",) * 10}
    ),
    "file of which everything is ignored": Mutant("card", "ignore has ['*']", weights={"ignore": ("*",)}),
    "file that may lack everything": Mutant("card", "absent has ['**']", weights={"absent": ("**",)}),
    "unknown filter": Mutant(
        "card", "interpolation 'biliniar' is none of", weights=preprocessing(interpolation="biliniar")
    ),
    "no default": Mutant("card", "it has weights but no default", card={"default": None}),
    "state dict renamed": Mutant(
        "state", "support.mutants:renamed loses fc.weight, fc.bias", weights={"convert": "support.mutants:renamed"}
    ),
    "state dict cut short": Mutant(
        "state", "missing (layer2.0.weight", weights={"convert": "support.mutants:shortened"}
    ),
    "conversion that fails": Mutant(
        "state",
        "support.mutants:picky fails on a state dict in the model's own",
        weights={"convert": "support.mutants:picky"},
    ),
    "conversion that returns nothing": Mutant(
        "state", "returns a NoneType, not a state dict", weights={"convert": "support.mutants:forgetful"}
    ),
    "options the constructor refuses": Mutant(
        "state", "refuses the options depth=5", weights={"options": {"depth": 5}}
    ),
    "more classes in the file than in the model": Mutant(
        "state",
        "toy/toy@V1: it says 1001 classes, and the head of the model that its options build gives 10",
        weights={"num_classes": 1001},
    ),
    "options that build another head": Mutant(
        "state",
        "it says 10 classes, and the head of the model that its options build gives 7",
        weights={"options": {"num_classes": 7}},
    ),
    # constructors
    "classifier without a head": Mutant(
        "builds", "a model of 10 classes, and its anatomy has no head", whole(heads=(), headless="it has none")
    ),
    "number of classes ignored": Mutant(
        "builds", "the card says 10 classes, and head site 'fc' gives 12", card=build(a_dozen)
    ),
    "another number of parameters": Mutant("builds", "parameters, not the 5 of its card", card={"parameters": 5}),
    "constructor that needs a network": Mutant(
        "builds", "asks the network for weights.example.org", card=build(downloading)
    ),
    "constructor that tries the network": Mutant(
        "builds", "asks the network for weights.example.org", card=build(downloading_if_it_can)
    ),
    "constructor of another version": Mutant("builds", "its constructor fails", card=build(of_another_version)),
    "constructor that is not there": Mutant(
        "builds", "support.mutants:tiy does not import", card={"build": "support.mutants:tiy"}
    ),
    # paths
    "anatomy that raises": Mutant("paths", "I have never seen such a model", raising),
    "wrong head path": Mutant("paths", "head site 'fc1': no such module; did you mean 'fc'", head(path="fc1")),
    "wrong stem path": Mutant("paths", "stem 'conv2': no such module; did you mean 'conv1'", whole(stem=("conv2",))),
    "wrong stage path": Mutant("paths", "stage layer2 'layer9': no such module", stage(modules=("layer9",))),
    "attribute that is not there": Mutant(
        "paths", "attribute 'num_clases' is not there", head(attributes=("num_clases",))
    ),
    "attribute that is something else": Mutant(
        "paths", "attribute 'training' is False", head(attributes=("training",))
    ),
    "role that is none": Mutant("paths", "Head.role is 'auxiliary'; did you mean 'aux'?", head(1, role="auxiliary")),
    # stem
    "wrong stem": Mutant(
        "stem", "stem layer1.0 does not come first: 'conv1' runs before it", whole(stem=("layer1.0",))
    ),
    "half a stem": Mutant("stem", "beside is given the image too", card=build(TwoStems)),
    "no stem": Mutant("stem", "names no stem", whole(stem=())),
    "stem that counts its channels": Mutant("in_channels", "forward fails with in_channels=1", card=build(ThreeOnly)),
    "stem that ignores in_channels": Mutant("in_channels", "the stem conv1 is deaf to the last one", card=build(Deaf)),
    "another layer sees the channels": Mutant(
        "in_channels", "a layer besides the stem conv1 sees the image", card=build(TwoStems)
    ),
    # head
    "stage whose map is detached": Mutant("features", "its read detaches or loses the map", stage(read=detached)),
    "stage whose map is emptied": Mutant("features", "its read detaches or loses the map", stage(read=emptied)),
    "channels that are classes": Mutant(
        "in_channels",
        "has 'num_classes', which is 10, and images have 3",
        whole(channel_attributes=("num_classes",)),
    ),
    "tokens that are a vector": Mutant("in_features", "given one vector an image, and not tokens", head(tokens=True)),
    "wrong in_features": Mutant("in_features", "'fc' is given 8 features, not 7", head(in_features=7)),
    "no main head": Mutant("in_features", "none of its head sites has the role 'main'", head(role="summed")),
    "no head and no reason": Mutant("swap", "Anatomy.headless does not say why", whole(heads=())),
    "aux head left as it was": Mutant("swap", "still 10-way after the swap: aux", without_aux),
    "class count left as it was": Mutant(
        "swap", "still 10 after the swap: num_classes; name it in Head.attributes", head(attributes=())
    ),
    "aux convolution left as it was": Mutant("swap", "still 10-way after the swap: side", card=build(Sided)),
    "aux scores without a layer": Mutant(
        "freeze", "it trains on scores of [(2, 10)]: a head that only trains was left out", card=build(Hidden)
    ),
    "wrong in_features of an aux head": Mutant(
        "in_features", "'aux' is given 6 features, not 5", head(1, in_features=5)
    ),
    "wrong number of classes of an aux head": Mutant(
        "in_features", "'aux' gives 10 scores, and 77 classes are 77", head(1, num_classes=77)
    ),
    "wrong number of outputs a class": Mutant(
        "in_features", "'fc' gives 10 scores, and 10 classes, 4 for each, are 40", head(per_class=4)
    ),
    "aux head that never runs": Mutant(
        "in_features", "'aux' is never called, neither in eval mode nor while it trains", card=build(Idle)
    ),
    # stages
    "no stages": Mutant("stages", "the anatomy names no stages", whole(stages=())),
    **{
        f"stride of 64 said to be {stride}": Mutant(
            "stages", f"so its stride is not {stride}", odd_toys.deep(stride), odd(odd_toys.Deep)
        )
        for stride in (32, 43, 100, 128)
    },
    "rows that shrink more than columns": Mutant(
        "stages", "so its stride is not 64", odd_toys.deep(), odd(odd_toys.Flat)
    ),
    "wrong stride of tokens": Mutant("stages", "so its stride is not 999", odd_toys.tokens(999), odd(odd_toys.Tokens)),
    "wrong stride of tokens, by half": Mutant(
        "stages", "so its stride is not 16", odd_toys.tokens(16), odd(odd_toys.Tokens)
    ),
    "wrong stride of tokens in one size": Mutant(
        "stages", "65 tokens for 64 by 64 pixels, so its stride is not 16", odd_toys.tokens(16), odd(odd_toys.OneSize)
    ),
    "wrong stride": Mutant("stages", "so its stride is not 16", stage(stride=16)),
    "wrong stride, too small": Mutant("stages", "so its stride is not 4", stage(stride=4)),
    "wrong channels": Mutant("stages", "stage layer2 has 8 channels, not 6", stage(channels=6)),
    "stages out of order": Mutant(
        "stages", "the stages run in the order layer1, layer2, and not layer2, layer1", backwards
    ),
    "stages that overlap": Mutant(
        "stages", "overlap: 'layer1' and 'layer1.2' are in both", stage(modules=("layer1.2", "layer2"))
    ),
    "wrong stride of tokens of an image that is resized": Mutant(
        "stages",
        "785 tokens for 224 by 224 pixels, so its stride is not 16",
        odd_toys.tokens(16),
        odd(odd_toys.Resizing),
    ),
    # split
    "split that skips a norm": Mutant("split", "split and forward differ by up to", whole(pool=Chain("pool", flatten))),
    "split that skips a stage": Mutant(
        "split", "the pool of the split fails on [2, 6, 16, 16]", whole(features=Chain("conv1", "bn1", "layer1"))
    ),
    "split that skips a scale of ones": Mutant("split", "split and forward differ by up to", card=build(Gated)),
    "split that scales": Mutant("split", "split and forward differ by up to", whole(pool=doubled)),
    "split that skips a norm before a head of zeros": Mutant(
        "split", "split and forward differ by up to", whole(pool=Chain("pool", flatten)), build(Zeros)
    ),
    # detectors
    "detector whose box layer is no site": Mutant(
        "swap", "still 10-way after the swap: boxes", odd_toys.detector(boxes=False), DETECTOR
    ),
    "detector that counts classes elsewhere": Mutant(
        "swap", "still 10 after the swap: num_classes", odd_toys.detector(attributes=()), DETECTOR
    ),
    "detector with a wrong stride": Mutant("stages", "so its stride is not 4", odd_toys.detector(stride=4), DETECTOR),
    "detector that normalizes three channels": Mutant(
        "in_channels", "forward fails with in_channels=1", odd_toys.detector(per_channel=()), DETECTOR
    ),
    "detector that trains again": Mutant(
        "freeze",
        "gradients outside the head: conv1.weight",
        odd_toys.detector(),
        odd(odd_toys.Restless, task="detection"),
    ),
    # what a constructor computes from initial values
    "buffer computed from initial values": Mutant(
        "values", "the buffer 'scale' is another one when it was built without initial values", card=build(Scaled)
    ),
    "number computed from initial values": Mutant(
        "values", "it gives other outputs from the same parameters and buffers", card=build(Measured)
    ),
    # side effects
    "anatomy that moves a buffer": Mutant("builds", "anatomy changes bn1.running_mean", moving),
    "anatomy that switches to train mode": Mutant("builds", "changes the mode of layer1", switching),
    "anatomy that counts": Mutant("builds", "twice gives two values of Anatomy.stages", counting),
    "build of one cached model": Mutant("builds", "shares conv1.weight, conv1.bias", card=build(cached)),
    "build that is frozen": Mutant("builds", "its constructor freezes every parameter", card=build(Frozen)),
    # training, copies and saves
    "norm that thaws": Mutant(
        "norms",
        "bn1.num_batches_tracked; the BatchNorm2d was put into train mode",
        card=build(Thawing),
    ),
    "backbone that trains again": Mutant("freeze", "gradients outside the head: conv1.weight", card=build(Unstoppable)),
    "anatomy that holds a lambda": Mutant(
        "twins", "pickle fails", whole(pool=lambda model, x: model.norm(model.pool(x).flatten(1)))
    ),
    "model that hangs a closure on itself as it runs": Mutant("twins", "pickle fails", card=build(Hooking)),
    "model that holds a lock": Mutant("twins", "deepcopy fails", card=build(Locked)),
    "number that is not saved": Mutant("save", "other outputs after it was saved and loaded", card=build(Secretive)),
}

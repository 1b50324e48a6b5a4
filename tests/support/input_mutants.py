"""Plugins that are right for the images, the dtype and the file that one looks at first, and wrong for others."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import torch
from torch import nn

from support import toys
from support.mutants import Mutant, whole
from zoo_core import Licenses

# --- the parts of a split ---------------------------------------------------------------------------------------------


def detached_in_eval_mode(model, x):
    found = model.norm(model.pool(x).flatten(1))
    return found if model.norm.training else found.detach()


class Averaging(toys.Toy):
    def forward(self, x):
        middle = self.layer1(self.bn1(self.conv1(x)))
        scores = self.fc(self.norm(self.layer2(middle).mean((2, 3))))
        return (scores, self.aux(middle.mean((2, 3)))) if self.training else scores


def pool_in_float32(model, x):
    return model.norm(x.float().mean((2, 3)).to(x.dtype))


def pool_that_gives_float32(model, x):
    return model.norm.float()(x.float().mean((2, 3)))


def pool_of_64_pixels(model, x):
    return model.norm(x.sum((2, 3)) / 64)


_kept = []


def keeping_features(model, x):
    _kept.append(model.layer2(model.layer1(model.bn1(model.conv1(x)))))
    return _kept[-1]


# --- forward ----------------------------------------------------------------------------------------------------------


class OfOneMind(toys.Toy):
    def short(self, x):
        return self.layer2(self.layer1(self.bn1(self.conv1(x)))).mean((2, 3))


class DarkHead(OfOneMind):
    def __init__(self):
        super().__init__()
        self.dark = nn.Linear(8, 10)

    def forward(self, x):
        return self.dark(self.short(x)) if x.mean() < -0.5 else super().forward(x)


class DarkBody(OfOneMind):
    def forward(self, x):
        return self.fc(self.short(x)) if x.mean() < -0.5 else super().forward(x)


class LargeBody(OfOneMind):
    def forward(self, x):
        return self.fc(self.short(x)) if x.shape[-1] > 100 else super().forward(x)


class Clamping(toys.Toy):
    def forward(self, x):
        return super().forward(x.clamp(-6, 6))


class Printing(toys.Toy):
    def forward(self, x):
        print(x.shape)  # noqa: T201 - what this forward is there for
        return super().forward(x)


class Writing(toys.Toy):
    def forward(self, x):
        Path("shapes.txt").write_text(str(x.shape))
        return super().forward(x)


class Seeding(toys.Toy):
    def forward(self, x):
        torch.manual_seed(0)
        return super().forward(x)


class SeedingPython(toys.Toy):
    def forward(self, x):
        random.seed(0)
        return super().forward(x)


class Drawing(toys.Toy):
    """Draws as stochastic depth does in eval mode too, and does nothing with it."""

    def forward(self, x):
        torch.rand(1)
        random.random()
        return super().forward(x)


class Switching(toys.Toy):
    def forward(self, x):
        self.layer2[2].train()
        return super().forward(x)


class Counting(toys.Toy):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        self.count += 1
        return super().forward(x)


class WithoutGradients(toys.Toy):
    def forward(self, x):
        scores = super().forward(x)
        torch.set_grad_enabled(False)
        return scores


class FixedStem(toys.Toy):
    def middle(self, x):
        with torch.no_grad():
            return self.layer1(self.bn1(self.conv1(x)))

    def forward(self, x):
        middle = self.middle(x)
        scores = self.fc(self.norm(self.pool(self.layer2(middle)).flatten(1)))
        return (scores, self.aux(middle.mean((2, 3)))) if self.training else scores


def features_of_a_fixed_stem(model, x):
    return model.layer2(model.middle(x))


# --- a conversion -----------------------------------------------------------------------------------------------------


def filling(state, model):
    return {**model.state_dict(), **state}


def printing(state, model):
    print(len(state))  # noqa: T201 - what this conversion is there for
    return dict(state)


def writing(state, model):
    Path("names.txt").write_text("\n".join(state))
    return dict(state)


def seeding(state, model):
    torch.manual_seed(0)
    return dict(state)


def downloading(state, model):
    try:
        socket.create_connection(("example.org", 443), timeout=0.1).close()
    except OSError:
        return dict(state)


def freezing(state, model):
    model.fc.requires_grad_(requires_grad=False)
    return dict(state)


def keeping(state, model):
    _kept.append(state)
    return dict(state)


def _of(kind):
    return {"build": f"support.input_mutants:{kind.__name__}"}


def _convert(says, function):
    return Mutant("state", says, weights={"convert": f"support.input_mutants:{function.__name__}"})


def _url(says, url):
    return Mutant("card", says, weights={"urls": (url,)})


MUTANTS = {
    "pool that is detached in eval mode": Mutant(
        "forward", "in eval mode no gradient of its split reaches conv1.weight", whole(pool=detached_in_eval_mode)
    ),
    "pool in float32": Mutant(
        "forward", "computes in float32 in a model of float64", whole(pool=pool_in_float32), _of(Averaging)
    ),
    "pool that gives float32": Mutant(
        "forward", "computes in float32 in a model of float64", whole(pool=pool_that_gives_float32), _of(Averaging)
    ),
    "pool of one size": Mutant("split", "an image of [3, 64, 96]", whole(pool=pool_of_64_pixels), _of(Averaging)),
    "features that are kept": Mutant(
        "forward", "stays in memory when others are computed", whole(features=keeping_features)
    ),
    "another head for dark images": Mutant("forward", "'fc' is not called for darker images", card=_of(DarkHead)),
    "another way for dark images": Mutant("forward", "for darker images", card=_of(DarkBody)),
    "another way for large images": Mutant(
        "forward",
        "for images of (3, 224, 224) forward computes with other layers than the split: norm.weight",
        card=_of(LargeBody),
    ),
    "split that skips a clamp": Mutant("split", "split and forward differ by up to", card=_of(Clamping)),
    "forward that prints": Mutant("forward", "forward in eval mode prints 'torch.Size", card=_of(Printing)),
    "forward that writes a file": Mutant("forward", "leaves shapes.txt in the current folder", card=_of(Writing)),
    "forward that seeds torch": Mutant("forward", "forward in eval mode seeds torch", card=_of(Seeding)),
    "forward that seeds Python": Mutant("forward", "seeds Python's random", card=_of(SeedingPython)),
    "forward that switches a mode": Mutant("forward", "changes the mode of layer2.2", card=_of(Switching)),
    "forward that counts in eval mode": Mutant("forward", "forward in eval mode changes count", card=_of(Counting)),
    "forward that switches gradients off": Mutant(
        "forward", "whether gradients are recorded", card=_of(WithoutGradients)
    ),
    "stem without gradients in forward too": Mutant(
        "training", "no gradient of forward reaches the stem", whole(features=features_of_a_fixed_stem), _of(FixedStem)
    ),
    "conversion that fills": _convert("to a file that has none", filling),
    "conversion that prints": _convert("prints '", printing),
    "conversion that writes a file": _convert("leaves names.txt in the current folder", writing),
    "conversion that seeds": _convert("changes the seed of torch", seeding),
    "conversion that asks the network": _convert("asks the network for example.org", downloading),
    "conversion that freezes": _convert("whether fc.weight trains", freezing),
    "conversion that keeps the file": _convert("keeps what it is given in memory", keeping),
    "size in megabytes": Mutant("state", "is it in kilobytes or megabytes?", weights={"size": 4}),
    "page of the hub": _url("is a page about a file", "https://huggingface.co/acme/net/blob/main/model.safetensors"),
    "page of GitHub": _url("is a page about a file", "https://github.com/acme/net/blob/main/toy-5c106cde.pth"),
    "url with a password": _url("has a user name in it", "https://me:secret@example.org/toy-5c106cde.pth"),
    "url that expires": _url("is signed (x-amz-signature)", "https://example.org/toy-5c106cde.pth?X-Amz-Signature=1"),
    "digest of another file": Mutant("card", "has other digits than its sha256", weights={"sha256": "deadbeef" * 8}),
    "digest of an empty file": Mutant(
        "card",
        "is the digest of a file without a byte",
        weights={
            "urls": ("https://example.org/toy.pth",),
            "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        },
    ),
    "mirror of itself": Mutant("card", "is there twice", weights={"urls": toys.V1.urls * 2}),
    "link to nowhere": Mutant("card", "which is no address of a page", weights={"docs": "see the paper"}),
    "more right at once than in five": Mutant(
        "card", "which counts more", weights={"metrics": {"ImageNet-1K acc@1": 76.0, "ImageNet-1K acc@5": 60.0}}
    ),
    "licence in words": Mutant("card", "the licence of its code", weights={"licenses": Licenses(code="apache 2.0")}),
    "ten outputs": Mutant("card", "are 10 numbers, and not 8", weights={"outputs": {"cpu": (1.0,) * 10}}),
    "outputs of a device that is none": Mutant("card", "no type of device", weights={"outputs": {"gpu": (1.0,) * 8}}),
}

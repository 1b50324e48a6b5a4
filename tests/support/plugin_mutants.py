"""Plugins with the mistakes of those who write their first one: cards copied, numbers written down, options unread."""

from __future__ import annotations

from dataclasses import replace
from operator import itemgetter
from types import SimpleNamespace

from torch import nn

from support import toys
from support.mutants import Mutant, head, whole


def _of(build, **changes):
    return {"build": f"support.plugin_mutants:{build.__name__}", **changes}


# --- heads ------------------------------------------------------------------------------------------------------------


class Rare(toys.Toy):
    """Its head begins with the log odds of a class that is rare."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        nn.init.constant_(self.fc.bias, -4.595)


def written_down(model):
    """Says ten classes, whatever the model was built for."""
    right = toys.anatomy(model)
    return replace(right, heads=(replace(right.heads[0], num_classes=10), right.heads[1]))


class Beside(toys.Toy):
    """Gives its scores and, beside them, the map."""

    def forward(self, x):
        found = self.layer2(self.layer1(self.bn1(self.conv1(x))))
        return self.fc(self.norm(self.pool(found).flatten(1))), found


# --- constructors -----------------------------------------------------------------------------------------------------

_CONFIGURATION = SimpleNamespace(num_labels=10)


class OfOneConfiguration(toys.Toy):
    """All models have one configuration, which holds the number of classes."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.config = _CONFIGURATION


class Noting(toys.Toy):
    """Keeps a map in an attribute for a skip connection: two threads have one."""

    def forward(self, x):
        self.low = self.layer1(self.bn1(self.conv1(x)))
        scores = self.fc(self.norm(self.pool(self.layer2(self.low)).flatten(1)) + self.low.mean((1, 2, 3)).unsqueeze(1))
        return (scores, self.aux(self.low.mean((2, 3)))) if self.training else scores


class OfPatches(toys.Toy):
    """Takes images of a multiple of 16 pixels."""

    def forward(self, x):
        assert x.shape[-1] % 16 == 0, "the image has no whole patches"
        return super().forward(x)


class Chosen(toys.Toy):
    """Three steps are by chance as many as channels."""

    def __init__(self, num_classes=10, in_channels=3):
        super().__init__(num_classes)
        self.conv1 = nn.Conv2d(in_channels, 4, 3, stride=2, padding=1)
        self.steps = 3


# --- weights ----------------------------------------------------------------------------------------------------------


def _url(says, url, **changes):
    return Mutant("card", says, weights={"urls": (url,), **changes})


MUTANTS = {
    "prior of a head that has none": Mutant(
        "swap", "Head.prior is 0.01, whose log odds are -4.60, and the constructor begins", head(prior=0.01)
    ),
    "prior left out": Mutant(
        "swap", "begins the biases of head site 'fc' at -4.60, and Head.prior is None", card=_of(Rare)
    ),
    "number of classes written down": Mutant(
        "swap", "a model of 9 classes, and its anatomy says 10: read the number from the model", written_down
    ),
    "linear head said to be a convolution": Mutant("paths", "is a Linear, and its kind 'conv'", head(kind="conv")),
    "scores that are the map": Mutant(
        "builds",
        "two images give scores of the shape (2, 8, 8, 8)",
        lambda model: replace(whole(scores=itemgetter(1))(model), heads=toys.anatomy(model).heads[:1]),
        _of(Beside),
    ),
    "scaling left out while it is off": Mutant(
        "in_channels",
        "with transform_input on, forward fails with in_channels=1, and it does not with 3",
        whole(scaling=None),
        {"build": "support.record_mutants:Scaling"},
    ),
    "channel attribute that is by chance three": Mutant(
        "in_channels",
        "'steps', which is 3 in a model of one channel too",
        whole(channel_attributes=("steps",)),
        _of(Chosen),
    ),
    "channel attribute that is not there": Mutant(
        "paths", "channel_attributes has 'in_chans', which is not there", whole(channel_attributes=("in_chans",))
    ),
    "numbers of each channel that are none": Mutant(
        "in_channels", "per_channel has 'num_classes', which is 10", whole(per_channel=("num_classes",))
    ),
    "configuration that all models share": Mutant(
        "builds",
        "shares config with the one before: what changes config.num_labels in one",
        head(attributes=("config.num_labels",)),
        _of(OfOneConfiguration),
    ),
    "forward that two threads share": Mutant(
        "forward",
        "gets other scores when another one is computed meanwhile",
        whole(features=None, pool=None),
        _of(Noting),
    ),
    "size that the model does not take": Mutant(
        "forward",
        "it takes no images of the input_size of its card, (3, 100, 100)",
        card=_of(OfPatches, input_size=(3, 100, 100)),
    ),
    "preprocessing forgotten for small images": Mutant(
        "card", "crops images to (224, 224), and the card takes (32, 32)", card={"input_size": (3, 32, 32)}
    ),
    "values needed, without need": Mutant(
        "values", "needs_values says", card={"needs_values": "it computes something, I think"}
    ),
    "pointer of the hub": _url("is a pointer", "https://huggingface.co/acme/net/raw/main/model.safetensors"),
    "page of Google Drive": _url("is a page about a file", "https://drive.google.com/file/d/1a2b3c/view?usp=sharing"),
    "page of Dropbox": _url("is a page about a file", "https://www.dropbox.com/s/abc/toy-5c106cde.pth?dl=0"),
    "page of GitLab": _url("is a page about a file", "https://gitlab.com/acme/net/-/blob/main/toy-5c106cde.pth"),
    "file of another framework": _url("zoo reads no .h5", "https://example.org/toy-5c106cde.h5"),
    "names of WordNet": Mutant(
        "card", "are numbers of WordNet", weights={"categories": tuple(f"n0144076{number}" for number in range(10))}
    ),
}

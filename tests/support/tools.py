"""What the tests with real tools share: a model of each family, batches for it, and a step of training."""

from __future__ import annotations

import torch

import zoo_core as zoo

MODELS = {
    "torchvision/mobilenet_v3_small": (3, 64),
    "timm/test_vit": (3, 160),
    "timm/test_convnext": (3, 64),
    "efficientnet_pytorch/efficientnet-b0": (3, 64),
    "pretrainedmodels/squeezenet1_1": (3, 64),
    "tiny/glyphnet": (1, 32),
}
"""Name to the channels and the side of its images here."""


def model(name, **arguments):
    """An untrained model of five classes, the same every time."""
    return zoo.get(name, weights=None, seed=0, **{"num_classes": 5, **arguments})


def batch(name, count=2):
    """Images of noise for the model of that name."""
    channels, side = MODELS.get(name, (3, 64))
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(1))


def train(model, name, steps=2, after=None):
    """A few steps of training all that requires a gradient; the model in eval mode."""
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.003)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(batch(name, 4)).square().mean().backward()
        optimizer.step()
        if after:
            after(model)
    return model.eval()


def trainable(model):
    """Names of the parameters that train."""
    return {name for name, each in model.named_parameters() if each.requires_grad}


def layers(model, *, but):
    """Paths of the layers that tools take for plain ones, without those below a path."""
    return [
        path
        for path, each in model.named_modules()
        if type(each) in (torch.nn.Linear, torch.nn.Conv2d) and getattr(each, "groups", 1) == 1 and path != but
    ]


def comes_back(model, name, folder, **arguments):
    """Save, load, and compare: the loaded model in eval mode."""
    loaded = zoo.load(zoo.save(model, folder, **arguments)).eval()
    assert torch.equal(loaded(batch(name)), model.eval()(batch(name)))
    return loaded

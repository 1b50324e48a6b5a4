"""Freeze batch norm so that it stays frozen, and check that it did."""

import copy

import torch
from torch import nn

import zoo_core as zoo

model = zoo.get("tiny/glyphnet", num_classes=9, freeze="backbone", seed=0)
before = copy.deepcopy(model.state_dict())


def train(model: nn.Module, steps: int = 5) -> None:
    """A few steps on noise, which is enough to move running statistics that are not held."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(zoo.param_groups(model, lr=0.1))
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(16, 1, 32, 32)), torch.randint(9, (16,))).backward()
        optimizer.step()


train(model)
print("frozen with zoo, moved:", zoo.drift(model, before))

# What most code does: no gradients. The norms go on following the data.
by_hand = zoo.get("tiny/glyphnet", num_classes=9, seed=0)
for name, parameter in by_hand.named_parameters():
    parameter.requires_grad = name.startswith("fc.")
train(by_hand)
moved = [name for name, buffer in by_hand.named_buffers() if not torch.equal(buffer, before[name])]
print("frozen by hand, moved:", len(moved), "buffers, such as", moved[0])

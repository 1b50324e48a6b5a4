"""Give head, backbone, biases and each depth a learning rate of its own, in groups that any optimizer takes."""

from typing import Any

import torch

import zoo_core as zoo


def show(groups: list[dict[str, Any]]) -> None:
    """One line for each group."""
    for group in groups:
        decay = group.get("weight_decay", "the optimizer's")
        print(f"  {group['name']:24} lr {group['lr']:.2g}, decay {decay}, {len(group['params'])} parameters")


model = zoo.get("resnet18", weights=None, num_classes=9)

print("a faster head; norms and biases are not decayed:")
show(groups := zoo.param_groups(model, lr=1e-3, head_lr=1e-2, weight_decay=0.05))
optimizer = torch.optim.AdamW(groups)

print("twice the rate and no decay for biases, as Caffe did:")
show(zoo.param_groups(model, lr=1e-3, bias_lr_scale=2, weight_decay=5e-4, no_decay="bias"))

print("a rate that shrinks with each stage down from the head, as in BEiT and MAE:")
show(zoo.param_groups(zoo.freeze(model, "stem"), lr=1e-3, layer_decay=0.75, weight_decay=0.05))

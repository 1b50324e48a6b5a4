"""Two outputs from one backbone: as two heads, and as two branches that each own a copy of the last stage."""

import torch

import zoo_core as zoo

x = torch.zeros(2, 3, 64, 64)
heads = {"colour": 3, "shape": zoo.mlp_head(5, hidden=(64,), dropout=0.2)}

model = zoo.swap_head(zoo.get("resnet18", weights=None), heads).eval()
print({name: tuple(scores.shape) for name, scores in model(x).items()})

model = zoo.branch(zoo.get("resnet18", weights=None), at="layer4", heads=heads).eval()
print({name: tuple(scores.shape) for name, scores in model(x).items()})

zoo.freeze(model, "backbone")  # the trunk; both branches go on training
print(sorted({name.split(".body")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}))

"""Cut a network: the front up to a stage, or backbone and head, all sharing parameters with the model."""

import torch

import zoo_core as zoo

model = zoo.get("resnet18", weights=None).eval()
x = torch.zeros(1, 3, 64, 64)

front = zoo.truncate(model, after="layer3")
print(type(front).__name__, tuple(front(x).shape))

backbone, head = zoo.split(model)
print(tuple(backbone(x).shape), tuple(head(backbone(x)).shape))

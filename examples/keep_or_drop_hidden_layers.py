"""Replace VGG's last layer and keep its hidden ones with their weights, or drop them."""

import torch

import zoo_core as zoo

# weights=None keeps this script offline; leave it out to start from pretrained weights.
model = zoo.swap_head(zoo.get("vgg11", weights=None), 9)
print("kept:   ", model.classifier[3], "->", model.classifier[6])

model = zoo.swap_head(zoo.get("vgg11", weights=None), 9, keep_hidden=False).eval()
print("dropped:", model.classifier[6], "->", tuple(model(torch.zeros(1, 3, 64, 64)).shape))

"""Put a head of several layers on a network: linear layers with batch norm and dropout, or one probability."""

import torch

import zoo_core as zoo

# Linear 512 -> 512, BatchNorm, ReLU, Dropout, Linear 512 -> 256, the same again, Linear 256 -> 9.
head = zoo.mlp_head(9, hidden=(512, 256), batch_norm=True, dropout=0.2)
model = zoo.get("resnet18", weights=None, head=head, freeze="backbone")
print(model.fc)

# The first width is read from the model, so that the same head fits a network with other features.
zoo.swap_head(other := zoo.get("mobilenet_v3_small", weights=None), head)
print(other.classifier[-1][0])

# Yes or no: one probability for each image, without an axis of length one.
zoo.swap_head(model, zoo.mlp_head(1, activation="sigmoid", squeeze=True))
print(tuple(model.eval()(torch.zeros(4, 3, 64, 64)).shape))

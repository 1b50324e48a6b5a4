"""Put a transposed convolution and pooling between the features of a ResNet and its classifier."""

import torch
from torch import nn

import zoo_core as zoo

head = nn.Sequential(
    nn.ConvTranspose2d(512, 128, kernel_size=2, stride=2),
    nn.ReLU(),
    nn.AdaptiveMaxPool2d(1),
    nn.Flatten(),
    nn.Linear(128, 9),
)
model = zoo.get("resnet18", weights=None, freeze="backbone")
zoo.swap_head(model, head, at="features")
print(type(model).__name__, tuple(model.eval()(torch.zeros(2, 3, 64, 64)).shape))
print("trains:", [name for name, parameter in model.named_parameters() if parameter.requires_grad])

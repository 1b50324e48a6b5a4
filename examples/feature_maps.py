"""Features of several layers at once, and encoders for segmentation, dilated and not."""

import torch

import zoo_core as zoo

x = torch.zeros(1, 3, 64, 64)

model = zoo.get("resnet18", weights=None).eval()
for name, features in zoo.features(model, x, at=["layer2", "layer4.0.conv1"]).items():
    print(name, tuple(features.shape))

for output_stride in (None, 16, 8):
    encoder = zoo.encoder("mobilenet_v3_large", weights=None, output_stride=output_stride).eval()
    print(output_stride, encoder.channels, encoder.strides, [tuple(f.shape[-2:]) for f in encoder(x)])

blocks = ["features.1", "features.3", "features.6", "features.16"]
encoder = zoo.encoder("mobilenet_v3_large", weights=None, output_stride=8, at=blocks).eval()
print(dict(zip(encoder.names, (tuple(f.shape[1:]) for f in encoder(x)), strict=True)))

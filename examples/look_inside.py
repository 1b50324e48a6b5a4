"""Look inside a model: its parts, a drawing, where its layers respond, and the first layer that gives nan."""

import tempfile
from pathlib import Path

import torch
from PIL import Image, ImageDraw

import zoo_core as zoo

folder = Path(tempfile.mkdtemp())
model = zoo.get("tiny/glyphnet", num_classes=9, freeze="backbone", seed=0)

print(model)
print(zoo.summary(model))
print(zoo.draw(model, folder / "net.pdf").name)  # .png and .svg too; full=True for every operation

image = Image.new("RGB", (64, 64), "black")
ImageDraw.Draw(image).text((32, 32), "K", fill="white", font_size=58, anchor="mm")
maps = zoo.activation_maps(model, image, at="layer?")
print({layer: values.shape for layer, values in maps.maps.items()})
print(maps.save(folder / "maps.png").name)

with torch.no_grad():
    model.layer2.conv1.weight[0, 0, 0, 0] = torch.nan
stats = zoo.activation_stats(model, zoo.transforms(model)(image)[None], layers="*conv?", stop="nan")
print(stats)
print(stats.plot(folder / "depth.png").name)

# Output:
# GlyphNet(
# ...
#   (fc): Linear(in_features=64, out_features=9, bias=True)
# )
# GlyphNet: tiny/glyphnet@GLYPHS_V1: 54 loaded, 2 initialized (fc.weight, fc.bias)
# part         stage   parameters  trainable  held  tensors        channels
# 2 layers     stem    176         0          1     6 loaded
# 4 layers     layer1  4,672       0          2     12 loaded      16 at 1/2
# 6 layers     layer2  14,528      0          3     18 loaded      32 at 1/4
# 6 layers     layer3  57,728      0          3     18 loaded      64 at 1/8
# fc (Linear)  head    585         585              2 initialized
# 77,689 parameters, 585 trainable
# net.pdf
# {'layer1': (16, 16), 'layer2': (8, 8), 'layer3': (4, 4)}
# maps.png
# layer         kind    output       mean  std  peak  zeros
# layer1.conv1  Conv2d  1x16x16x16  ...
# layer1.conv2  Conv2d  1x16x16x16  ...
# layer2.conv1  Conv2d  1x32x8x8  ...
# std from ... at layer1.conv1 to nan at layer2.conv1
# first bad layer: layer2.conv1, nan
# depth.png

"""See whether signals vanish or explode on their way through a network."""

import tempfile
from pathlib import Path

import torch
from torch import nn

import zoo_core as zoo

torch.manual_seed(0)
model = zoo.get("tiny/glyphnet", weights=None, seed=0)
stats = zoo.activation_stats(model, torch.randn(16, 1, 32, 32), layers=["stem.0", "layer*.conv?", "fc"])
print(stats)

# The same twelve layers, with weights that are a little too small, and a little too large.
for gain in (0.5, 1.0, 2.0):
    deep = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(12)))
    zoo.init_weights(deep, "normal", options={"std": gain / 8}, seed=0)
    print(f"gain {gain}:", str(zoo.activation_stats(deep, torch.randn(256, 64))).splitlines()[-1])

image = stats.plot(Path(tempfile.mkdtemp()) / "depth.png")
print(image.name, "drawn")

# Output:
# layer         kind    output           mean    std  peak  zeros
# stem.0        Conv2d  16x16x16x16  ...
# layer1.conv1  Conv2d  16x16x16x16  ...
# layer1.conv2  Conv2d  16x16x16x16  ...
# layer2.conv1  Conv2d  16x32x8x8  ...
# layer2.conv2  Conv2d  16x32x8x8  ...
# layer3.conv1  Conv2d  16x64x4x4  ...
# layer3.conv2  Conv2d  16x64x4x4  ...
# fc            Linear  16x114  ...
# std from 0.329 at stem.0 to 0.37 at fc
# gain 0.5: std from 0.5 at 0 to 0.000234 at 11
# gain 1.0: std from 0.99 at 0 to 0.952 at 11
# gain 2.0: std from 1.99 at 0 to 3.89e+03 at 11
# depth.png drawn

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

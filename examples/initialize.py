"""Initialize a whole network or only its new parts, by scheme and by kind of layer, the same way each time."""

from functools import partial

from torch import nn

import zoo_core as zoo

model = zoo.get("tiny/glyphnet", head=zoo.mlp_head(9, hidden=(128,), batch_norm=True))

# Only what is new: the pretrained layers keep their values.
zoo.init_weights(model, "xavier_uniform", where="new", seed=0)
print("initialized:", ", ".join(zoo.receipt(model).names("initialized")[:3]), "...")

# One part, with an argument of torch's own function. The bias is that of RetinaNet: one positive in a hundred.
zoo.init_weights(model, "normal", where="head", options={"std": 0.01}, bias=-4.6, seed=0)

# Every kind of layer its own scheme: this is DCGAN's.
normal = nn.init.normal_
zoo.init_weights(model, {nn.Conv2d: partial(normal, std=0.02), nn.BatchNorm2d: partial(normal, mean=1.0, std=0.02)})

# The whole network from the start; norms are reset as well.
zoo.init_weights(model, "kaiming_normal", options={"mode": "fan_out", "nonlinearity": "relu"}, seed=0)
print(f"std of the first convolution: {model.stem[0].weight.std().item():.3f}")

"""Save a network after surgery and training, and get it back on another machine."""

import tempfile
from pathlib import Path

import torch
import torchvision

import zoo_core as zoo

model = zoo.get("tiny/glyphnet", in_channels=3, freeze="backbone", head=zoo.mlp_head(2, hidden=(16,), dropout=0.2))
optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
model(torch.randn(8, 3, 32, 32)).square().sum().backward()
optimizer.step()

folder = zoo.save(model, Path(tempfile.mkdtemp(), "cats"), class_names=["cat", "dog"])
print(sorted(path.suffix for path in folder.iterdir()))
print((folder / "recipe.json").read_text())

# The same class, keys, values and frozen parts; nothing is downloaded and nothing is unpickled.
loaded = zoo.load(folder)
x = torch.randn(1, 3, 32, 32)
print(torch.equal(loaded.eval()(x), model.eval()(x)), zoo.class_names(loaded))

# A model that was built without zoo can be saved too, once zoo knows what it is.
own = zoo.adopt(torchvision.models.resnet18(), family="torchvision", name="resnet18")
print(type(zoo.load(zoo.save(zoo.swap_head(own, 9), Path(tempfile.mkdtemp(), "own")))).__name__)

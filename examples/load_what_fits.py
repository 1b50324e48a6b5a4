"""Load the part of a checkpoint that fits a model, and see what became of the rest."""

import tempfile
from pathlib import Path

import torch

import zoo_core as zoo

# A checkpoint as training scripts write them: wrapped, with a prefix, and with another number of classes.
trained = zoo.get("tiny/glyphnet").state_dict()
file = Path(tempfile.mkdtemp()) / "epoch3.pth"
torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in trained.items()}, "epoch": 3}, file)

model = zoo.get("tiny/glyphnet", weights=None, num_classes=9)
receipt = zoo.load_partial(model, file)
print(receipt)
print(receipt.notes["fc.weight"])

# The same architecture in somebody else's code, where every layer has another name: by order, without the classifier.
theirs = {f"net.{number}.{name.rpartition('.')[2]}": tensor for number, (name, tensor) in enumerate(trained.items())}
receipt = zoo.load_partial(model, theirs, match="order")
print(receipt.notes["layer1.conv1.weight"])

# Only some of it: parts of the model, or names in the file, can be left out.
print(zoo.load_partial(model, trained, skip=["layer3", "fc.*"]).counts)

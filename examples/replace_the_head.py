"""Replace the last layer of any classifier for nine classes of your own."""

import torch

import zoo_core as zoo

# The weights of this small network ship with zoo. With "resnet18" or any other name in its place they are downloaded.
model = zoo.get("tiny/glyphnet", num_classes=9)
print(model.fc)
print(zoo.receipt(model))

# The head that was there can be replaced again at any time, and auxiliary heads follow the main one.
inception = zoo.get("googlenet", weights=None, options={"init_weights": False})
zoo.swap_head(inception, 9, seed=0)
print([(site.path, site.num_classes) for site in zoo.anatomy(inception).heads])

# Nothing else has changed: the class, the keys outside the head and the way the model is called are the library's own.
print(type(model).__name__, tuple(model(torch.zeros(2, 1, 32, 32)).shape))

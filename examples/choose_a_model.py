"""Choose a model: filter and sort all there are without torch, then measure a few side by side."""

import tempfile
from pathlib import Path

import zoo_core as zoo

small = zoo.list(family="torchvision", max_parameters=6e6, min_accuracy=75, sort="accuracy")
print(small)
print(zoo.list("efficientnet*", family="efficientnet_pytorch", sort="multiply_adds")[:2])

# They are built untrained, so nothing is fetched; accuracy and licence are what their publishers say.
compared = zoo.compare(["mobilenet_v3_small", "tiny/glyphnet"])
print([(row.name, row.parameters, row.multiply_adds, row.accuracy) for row in compared.rows])
print(str(compared).splitlines()[0].split())
print(compared.plot(Path(tempfile.mkdtemp()) / "compared.png").name)

# Output:
# ['torchvision/efficientnet_b0', 'torchvision/regnet_y_400mf', 'torchvision/mobilenet_v3_large']
# ['efficientnet_pytorch/efficientnet-b0', 'efficientnet_pytorch/efficientnet-b1']
# [('torchvision/mobilenet_v3_small', 2542856, 56510400, 67.668), ('tiny/glyphnet', 84514, 3058816, None)]
# ['model', 'Mparams', 'GMACs', 'ms', 'MB', 'acc@1', 'licence']
# compared.png

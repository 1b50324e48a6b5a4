"""Choose a model: filter and sort all there are without torch, browse them, and measure a few side by side."""

import subprocess
import sys
import tempfile
from pathlib import Path

import zoo_core as zoo

# The most accurate Apache-licensed classifier under 10 million parameters; the table names the weights that are.
print(zoo.list(license="apache-2.0", max_parameters=10e6, sort="accuracy")[0])
small = zoo.list(family="torchvision", max_parameters=6e6, min_accuracy=75, sort="accuracy")
print(small)
print(zoo.list("efficientnet*", family="efficientnet_pytorch", sort="multiply_adds")[:2])

# `zoo browse --out zoo.html`: the whole catalogue as one page, to search, filter and sort without a network.
folder = Path(tempfile.mkdtemp())
subprocess.run([sys.executable, "-m", "zoo_core.cli", "browse", "--out", folder / "zoo.html"], check=True)  # noqa: S603 - our own command
print(f"{(folder / 'zoo.html').stat().st_size / 1e6:.1f} MB")

# They are built untrained, so nothing is fetched; accuracy and licence are what their publishers say.
compared = zoo.compare(["mobilenet_v3_small", "tiny/glyphnet"])
print([(row.name, row.parameters, row.multiply_adds, row.accuracy) for row in compared.rows])
print(str(compared).splitlines()[0].split())
print(compared.plot(folder / "compared.png").name)

# Output:
# timm/mobilenetv4_conv_medium
# ['torchvision/efficientnet_b0', 'torchvision/regnet_y_400mf', 'torchvision/mobilenet_v3_large']
# ['efficientnet_pytorch/efficientnet-b0', 'efficientnet_pytorch/efficientnet-b1']
# ... MB
# [('torchvision/mobilenet_v3_small', 2542856, 56510400, 67.668), ('tiny/glyphnet', 84514, 3058816, None)]
# ['model', 'Mparams', 'GMACs', 'ms', 'MB', 'acc@1', 'licence']
# compared.png

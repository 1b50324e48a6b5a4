"""Which part of an image speaks for a class, through pytorch-grad-cam (zoo-core[inspect])."""

import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

import zoo_core as zoo

image = Image.new("RGB", (128, 64), "black")
ImageDraw.Draw(image).text((96, 32), "K", fill="white", font_size=58, anchor="mm")

# The layer and how its output becomes rows and columns follow from the model, whichever family it is of.
found = zoo.cam("tiny/glyphnet", image, target="K", size=(64, 128))
print(found)
print("right half" if found.heatmap[:, 64:].mean() > found.heatmap[:, :64].mean() else "left half")
print(found.save(Path(tempfile.mkdtemp()) / "cam.png").name)

# Output:
# K (logit ...): gradcam at layer3, most at row ..., column ... of 64 x 128
# right half
# cam.png

"""From image files to names: one, many, a folder with a damaged file, and several labels at once."""

import tempfile
import warnings
from pathlib import Path

from PIL import Image, ImageDraw

import zoo_core as zoo

folder = Path(tempfile.mkdtemp())
for letter in "KLM":
    image = Image.new("RGB", (64, 64), "black")
    ImageDraw.Draw(image).text((32, 32), letter, fill="white", font_size=58, anchor="mm")
    image.save(folder / f"{letter}.png")

# A model by its name; a folder of yours that zoo.save wrote, or a module, is as good.
for name, probability in zoo.predict("tiny/glyphnet", folder / "K.png", top=5):
    print(f"{name} {probability:.3f}")

# Many images give a list. One that cannot be read is an error in its place, and the others are done.
(folder / "cut.png").write_bytes((folder / "K.png").read_bytes()[:100])
with warnings.catch_warnings(action="ignore"):  # it names the files that failed
    results = zoo.predict("tiny/glyphnet", folder, top=1)
for path, result in zip(sorted(folder.iterdir()), results, strict=True):
    print(path.name, result.summary.rpartition(": ")[2] if isinstance(result, zoo.ZooError) else result[0][0])

# Every class of at least this probability, each by itself, for models of several labels.
print([name for name, probability in zoo.predict("tiny/glyphnet", image, threshold=0.99)])

# A large image window by window: a map of scores, of which memory does not depend.
print(zoo.sliding_window("tiny/glyphnet", Image.new("L", (640, 320)), stride=16))

# Output:
# K 0.963
# R 0.023
# X 0.006
# H 0.005
# Ж 0.001
# K.png K
# L.png L
# M.png M
# cut.png the file is damaged or cut off
# [...]
# WindowScores(1 image, 114 classes, 19 rows, 39 columns)

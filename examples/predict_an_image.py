"""From an image to class names: the pipeline that belongs to a model's weights, and a model of your own."""

import tempfile
from pathlib import Path

import torch
from PIL import Image, ImageDraw

import zoo_core as zoo

photo = Image.new("RGB", (64, 64), "black")
ImageDraw.Draw(photo).text((18, 8), "K", fill="white", font_size=44)

# The pipeline is that of the weights in use: size, crop, filter, mean, deviation, order and range of the channels.
model = zoo.get("tiny/glyphnet").eval()
pipeline = zoo.transforms(model)
print(pipeline)


def predict(model: torch.nn.Module, image: Image.Image, best: int = 3) -> list[tuple[str, float]]:
    """The most probable classes of an image, by name."""
    with torch.inference_mode():
        chances = model(zoo.transforms(model)(image)[None]).softmax(1)[0]
    names = zoo.class_names(model)
    return [(names[i], round(chances[i].item(), 3)) for i in chances.topk(best).indices.tolist()]


print(predict(model, photo))

# It follows surgery: this one takes RGB now. A save keeps the class names and the pipeline with the model.
own = zoo.get("tiny/glyphnet", num_classes=2, in_channels=3, seed=0).eval()
folder = zoo.save(own, Path(tempfile.mkdtemp(), "own"), class_names=["cat", "dog"])
print(predict(zoo.load(folder), photo, best=1))

# To train: random cuts and flips, and the same normalisation. Nothing is built or fetched for a name.
print(zoo.transforms("resnet50@IMAGENET1K_V2", train=True))

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

# To train: random cuts and flips, and the same normalization. Nothing is built or fetched for a name.
print(zoo.transforms("resnet50@IMAGENET1K_V2", train=True))

# Output:
# Compose(
#       ToChannels(count=1)
#       Resize(size=[32, 32], interpolation=InterpolationMode.BILINEAR, antialias=True)
#       CenterCrop(size=[32, 32])
#       ToFloats(white=1.0, channel_order=RGB)
#       Normalize(mean=[0.5], std=[0.5], inplace=False)
#       ToPureTensor()
# )
# [('K', 0.834), ('Ж', 0.084), ('W', 0.012)]
# [('cat', 0.735)]
# Compose(
#       ToChannels(count=3)
#       RandomResizedCrop(size=[224, 224], scale=(0.08, 1.0), ratio=(0.75, 1.3333333333333333), ...)
#       RandomHorizontalFlip(p=0.5)
#       ToFloats(white=1.0, channel_order=RGB)
#       Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], inplace=False)
#       ToPureTensor()
# )

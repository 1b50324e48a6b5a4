"""Train a head on features that are computed once: every epoch after the first costs next to nothing."""

import tempfile
import time

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import zoo_core as zoo

digits = load_digits()
scans = torch.from_numpy(digits.images).float()[:, None] / 16
images = nn.functional.interpolate(scans, size=(32, 32), mode="bilinear") - 0.5
dataset = TensorDataset(images, torch.from_numpy(digits.target))

model = zoo.get("tiny/glyphnet", num_classes=10, freeze="backbone", seed=0)
backbone, head = zoo.split(model)  # both share their parameters with the model

started = time.perf_counter()
# without folder= they are kept in zoo's cache, and found there by the next run of this script
features = zoo.cached_features(backbone, dataset, folder=tempfile.mkdtemp())
print(f"one pass through the backbone: {time.perf_counter() - started:.2f} s for {len(features)} scans")

torch.manual_seed(0)
optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
batches = features.batches(64, shuffle=True)  # device="cuda" keeps them all on the GPU, if they fit
started = time.perf_counter()
for _ in range(5):
    for x, y in batches:
        loss = nn.functional.cross_entropy(head(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print(f"an epoch of the head: {(time.perf_counter() - started) / 5:.2f} s")

with torch.no_grad():
    right = (model.eval()(images).argmax(1) == dataset.tensors[1]).float().mean()
print(f"the whole model is right on {right:.0%} of what it learned from")

"""Grey images, RGB with a depth or infrared channel, or many spectral bands: other input channels, filters kept."""

import torch

import zoo_core as zoo

# One channel gets the sum of the old filters: a grey image gives the responses that it gave as grey RGB.
grey = zoo.get("resnet18", weights=None, in_channels=1)
print(grey.conv1)

# For more channels the filters are repeated and rescaled, unless one says otherwise. Here the first three keep theirs,
# and the depth channel starts silent: until training changes that, the scores do not depend on it.
rgbd = zoo.adapt_stem(zoo.get("resnet18", weights=None), 4, policy="zero").eval()
image = torch.randn(1, 4, 64, 64)
other_depth = torch.cat([image[:, :3], torch.randn(1, 1, 64, 64)], dim=1)
print(torch.equal(rgbd(image), rgbd(other_depth)))

# A map says which old filters each new channel gets: blue, green, red, and near infrared from red and green.
bands = zoo.adapt_stem(zoo.get("resnet18", weights=None), 5, map={0: 2, 1: 1, 2: 0, 3: (0, 1)})
print(tuple(bands(torch.randn(2, 5, 64, 64)).shape))

# The receipt says which tensors were changed on the way in.
print(zoo.receipt(zoo.get("tiny/glyphnet", in_channels=3)))

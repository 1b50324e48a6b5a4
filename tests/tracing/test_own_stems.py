"""Other input channels for networks of one's own: all that reads the image follows, or nothing changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import zoo_core as zoo
from zoo_core.errors import NotSupported


class Small(nn.Module):
    """A stem and a head."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.stem(self.prepared(x)).relu().mean((2, 3)))

    def prepared(self, x):
        return x


class Normalizes(Small):
    """Subtracts the means of its own buffers from the image, and divides by deviations."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.3, 0.4]))

    def prepared(self, x):
        return (x - self.mean) / self.std[:, None, None]


class Restores(Normalizes):
    """Adds to the image that it gives the means that it has subtracted."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        return self.head(self.stem(x - self.mean).relu()) + self.mean


class Blurs(Small):
    """Blurs the image with a fixed filter."""

    def __init__(self):
        super().__init__()
        self.register_buffer("kernel", torch.ones(3, 1, 3, 3) / 9)

    def prepared(self, x):
        return functional.conv2d(x, self.kernel, padding=1, groups=3)


class Exchanges(Small):
    """Takes red, green and blue the other way round."""

    def prepared(self, x):
        return x[:, [2, 1, 0]]


class Mirrors(Small):
    """Takes any number of channels the other way round."""

    def prepared(self, x):
        return x.flip(1)


class Transforms(Small):
    """A spatial transformer: the layers that find the transform see the image, and so do those after it."""

    def __init__(self):
        super().__init__()
        self.finds, self.theta = nn.Conv2d(3, 4, 7, 4), nn.Linear(4, 6)

    def prepared(self, x):
        theta = self.theta(self.finds(x).mean((2, 3))).view(-1, 2, 3)
        return functional.grid_sample(x, functional.affine_grid(theta, list(x.shape), False), align_corners=False)


def adopted(kind):
    torch.manual_seed(0)
    return zoo.adopt(kind().eval(), example=torch.zeros(1, 3, 24, 24))


def test_buffers_that_normalize_the_image_get_numbers_for_the_new_channels():
    model = zoo.adapt_stem(adopted(Normalizes), 5)
    assert model.mean.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6, 0.4, 0.5])
    assert model.std.tolist() == pytest.approx([0.2, 0.3, 0.4, 0.2, 0.3])
    assert model(torch.zeros(2, 5, 24, 24)).shape == (2, 10)
    assert zoo.receipt(model).tensors["mean"] == "adapted"


def test_channels_that_start_silent_leave_a_model_that_normalizes_as_it_was():
    model, x = adopted(Normalizes), torch.randn(2, 4, 24, 24)
    before = model(x[:, :3])
    torch.testing.assert_close(zoo.adapt_stem(model, 4, policy="zero")(x), before)


def test_a_saved_model_has_its_buffers_for_the_new_channels(tmp_path):
    zoo.register("mine/normalizes", example=torch.zeros(1, 3, 24, 24))(Normalizes)
    model = zoo.get("mine/normalizes", weights=None, in_channels=4).eval()
    zoo.save(model, tmp_path / "model")
    x = torch.randn(2, 4, 24, 24)
    assert torch.equal(zoo.load(tmp_path / "model").eval()(x), model(x))


def test_layers_after_a_spatial_transformer_are_of_the_stem():
    model = adopted(Transforms)
    assert zoo.anatomy(model).stem == ("finds", "stem")
    grey = torch.randn(2, 1, 24, 24)
    before = model(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(zoo.adapt_stem(model, 1)(grey), before)


@pytest.mark.parametrize("kind", [Blurs, Exchanges, Mirrors, Restores])
@pytest.mark.parametrize("channels", [1, 4])
def test_a_model_that_is_made_for_its_channels_is_refused_and_left_as_it_was(kind, channels):
    model, x = adopted(kind), torch.randn(2, 3, 24, 24)
    before, output = {name: each.clone() for name, each in model.state_dict().items()}, model(x)
    with pytest.raises(NotSupported, match="channel"):
        zoo.adapt_stem(model, channels)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert torch.equal(model(x), output)


def test_the_error_names_where_forward_fails():
    with pytest.raises(NotSupported, match="fails in 'stem': something there is made for 3 channels"):
        zoo.adapt_stem(adopted(Restores), 1)


def test_verbs_that_run_the_example_give_it_the_new_channels():
    model = zoo.adapt_stem(adopted(Small), 4)
    assert zoo.truncate(model, after="stem")(torch.zeros(2, 4, 24, 24)).shape[0] == 2
    zoo.summary(model)


def test_a_model_of_another_dtype_than_its_example_is_refused_too():
    model = adopted(Restores).bfloat16()
    with pytest.raises(NotSupported, match="made for 3 channels"):
        zoo.adapt_stem(model, 1)

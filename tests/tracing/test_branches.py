"""Mixtures of experts and other branches: what one of them gives is a part of a map, and no stage."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo_core as zoo

X = torch.zeros(1, 3, 64, 64)


def block(inputs, outputs):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, 2, 1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, 1, 1), nn.ReLU()
    )


class Net(nn.Module):
    """A stem, a block, two experts and a block; the gate sends bright images to one expert, dark ones to the other."""

    def __init__(self, route):
        super().__init__()
        self.stem, self.first, self.gate = nn.Conv2d(3, 4, 3, 2, 1), block(4, 8), nn.Linear(3, 2)
        self.experts, self.last = nn.ModuleList([block(8, 16), block(8, 16)]), block(16, 32)
        self.head, self.route = nn.Linear(32, 5), route
        self.gate.weight.data = torch.tensor([[9.0] * 3, [-9.0] * 3])

    def forward(self, x):
        gate = self.gate(x.mean((2, 3)))
        return self.head(self.last(self.route(self, self.first(self.stem(x)), gate)).mean((2, 3)))


def by_batch(net, x, gate):
    return net.experts[int(gate.mean(0).argmax())](x)


def by_sample(net, x, gate):
    chosen = gate.argmax(1).tolist()
    return torch.cat([net.experts[expert](x[i : i + 1]) for i, expert in enumerate(chosen)])


def by_mask(net, x, gate):
    result = x.new_zeros(len(x), 16, *(side // 2 for side in x.shape[2:]))
    for i, expert in enumerate(net.experts):
        mask = gate.argmax(1) == i
        if mask.any():
            result[mask] = expert(x[mask])
    return result


def by_index(net, x, gate):
    result = x.new_zeros(len(x), 16, *(side // 2 for side in x.shape[2:]))
    for i, expert in enumerate(net.experts):
        (rows,) = torch.where(gate.argmax(1) == i)
        result.index_copy_(0, rows, expert(x[rows]))
    return result


def weighted(net, x, gate):
    return sum(gate[:, i, None, None, None] * expert(x) for i, expert in enumerate(net.experts))


def stacked(net, x, gate):
    maps = torch.stack([expert(x) for expert in net.experts], 1)
    return torch.einsum("nechw,ne->nchw", maps, gate.softmax(1))


def selected(net, x, gate):
    one, other = (expert(x) for expert in net.experts)
    return torch.where((gate[:, :1] > 0)[..., None, None], one, other)


def masked(net, x, gate):
    chosen = gate.argmax(1)
    return sum(expert(x * (chosen == i).view(-1, 1, 1, 1)) for i, expert in enumerate(net.experts))


def joined(net, x, _gate):
    return torch.cat([expert(x)[:, :8] for expert in net.experts], 1)


ROUTES = [by_batch, by_sample, by_mask, by_index, weighted, stacked, selected, masked, joined]


@pytest.fixture(params=ROUTES, ids=lambda route: route.__name__)
def net(request):
    torch.manual_seed(0)
    return zoo.adopt(Net(request.param), example=X).eval()


def test_no_expert_is_a_stage(net):
    assert [stage.output for stage in zoo.anatomy(net).stages] == ["first", "last"]


@pytest.mark.parametrize("offsets", [(3.0, 3.0), (-3.0, -3.0), (3.0, -3.0)], ids=["bright", "dark", "both"])
def test_maps_beside_experts_are_those_of_forward_for_all_images(net, offsets):
    x, wanted = torch.randn(2, 3, 64, 64) + torch.tensor(offsets).view(2, 1, 1, 1), []
    encoder = zoo.encoder(net)
    hooks = [each.register_forward_hook(lambda *given: wanted.append(given[2])) for each in (net.first, net.last)]
    net(x)
    for hook in hooks:
        hook.remove()
    assert all(torch.equal(one, other) for one, other in zip(encoder(x), wanted, strict=True))


def test_a_module_around_experts_is_a_stage():
    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.experts = nn.Linear(8, 2), nn.ModuleList([block(8, 16), block(8, 16)])

        def forward(self, x):
            return by_mask(self, x, self.gate(x.mean((2, 3))))

    stages = [nn.Conv2d(3, 4, 3, 2, 1), block(4, 8), Mixture(), block(16, 32)]
    net = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))
    assert [stage.output for stage in zoo.trace(net, X).anatomy.stages] == ["1", "2", "3"]


def test_a_module_that_runs_for_some_values_only_is_refused_as_a_stage():
    with pytest.raises(zoo.ZooError, match=r"'experts\.0' does not run for all values"):
        zoo.adopt(Net(by_mask), example=X, stages=["first", "experts.0", "last"])


def test_maps_that_skip_to_a_decoder_are_stages():
    class Decoding(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.one = nn.Conv2d(3, 4, 3, 2, 1), block(4, 8)
            self.two, self.three = block(8, 16), block(16, 32)
            self.lateral, self.up, self.out = nn.Conv2d(16, 32, 1), nn.Upsample(scale_factor=2), nn.Conv2d(32, 5, 1)

        def forward(self, x):
            two = self.two(self.one(self.stem(x)))
            return self.out(self.up(self.three(two)) + self.lateral(two))

    assert [stage.output for stage in zoo.trace(Decoding(), X).anatomy.stages] == ["one", "two", "three"]

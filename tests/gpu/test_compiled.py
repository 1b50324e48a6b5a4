"""CUDA graphs, and ``torch.compile(mode="reduce-overhead")``, on models that surgery has changed: every family.

Without a GPU the models are compiled as a whole, and nothing is said of graphs.
"""

from __future__ import annotations

import copy

import pytest
import torch
from support.device_sample import model_under_test, need_a_device

import zoo_core as zoo

need_a_device()
pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]  # a compiler at work

SURGERY = {
    "tiny/glyphnet": lambda model: zoo.branch(model, at="layer3", heads={"a": 3, "b": 5}),
    "torchvision/resnet18": lambda model: zoo.swap_head(model, {"a": 3, "b": zoo.mlp_head(5, hidden=(8,))}),
    "torchvision/vit_b_32": lambda model: zoo.swap_head(model, 9),
    "timm/test_vit": lambda model: zoo.adapt_stem(zoo.swap_head(model, 9), 4),
    "timm/test_efficientnet": lambda model: zoo.swap_head(model, zoo.mlp_head(9, hidden=(16,))),
    "efficientnet_pytorch/efficientnet-b0": lambda model: zoo.swap_head(model, 9),
    "pretrainedmodels/resnet18": lambda model: zoo.swap_head(model, 9),
    "pretrainedmodels/squeezenet1_1": lambda model: zoo.swap_head(model, 9),
}
every_surgery = pytest.mark.parametrize("name", sorted(set(SURGERY) & set(zoo.list())))


@pytest.fixture
def changed(name, device):
    """A model after surgery on the device, its backbone frozen and itself in train mode, and images."""
    model, (x,) = model_under_test(name)
    model = zoo.freeze(SURGERY[name](model.to(device)), "backbone").train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    channels = 4 if "adapt_stem" in SURGERY[name].__code__.co_names else x.shape[1]
    return model, x[:, :1].expand(-1, channels, *x.shape[2:]).contiguous().to(device)


def parts(scores):
    """The tensors of a dict of heads, or the only one."""
    return [*scores.values()] if isinstance(scores, dict) else [scores]


def same(found, expected, tolerance):
    return all(
        (ours - theirs).abs().max() <= tolerance * theirs.std()
        for ours, theirs in zip(parts(found), parts(expected), strict=True)
    )


@every_surgery
def test_a_changed_model_in_eval_mode_runs_in_a_cuda_graph(changed, name, device):
    if device.type != "cuda":
        pytest.skip("graphs are a thing of CUDA")
    model, x = changed[0].eval(), changed[1]
    warm_up = torch.cuda.Stream()
    warm_up.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(warm_up):
        for _ in range(3):
            expected = model(x)
    torch.cuda.current_stream().wait_stream(warm_up)
    graph = torch.cuda.CUDAGraph()
    still = torch.zeros_like(x)
    with torch.no_grad(), torch.cuda.graph(graph):
        found = model(still)
    still.copy_(x)
    graph.replay()
    torch.cuda.synchronize()
    assert same(found, expected, 1e-4)


@every_surgery
def test_a_changed_model_compiles_as_a_whole_into_cuda_graphs(changed, name, device):
    from torch._dynamo.utils import counters

    model, x = changed[0].eval(), changed[1]
    with torch.no_grad():
        expected = model(x)
        torch.compiler.reset()
        counters.clear()
        mode = "reduce-overhead" if device.type == "cuda" else None
        compiled = torch.compile(model, mode=mode, fullgraph=True)
        for _ in range(3):
            torch.compiler.cudagraph_mark_step_begin()
            found = copy.deepcopy(compiled(x))
    assert counters["inductor"]["cudagraph_skips"] == 0
    assert same(found, expected, 1e-3)


@every_surgery
def test_a_compiled_step_with_a_frozen_backbone_trains_the_head_alone(changed, name, device):
    model, x = changed
    before = copy.deepcopy(model.state_dict())
    torch.compiler.reset()
    mode = "reduce-overhead" if device.type == "cuda" else None
    compiled = torch.compile(model, mode=mode, fullgraph=True)
    for _ in range(2):
        torch.compiler.cudagraph_mark_step_begin()
        model.zero_grad()
        sum(each.square().mean() for each in parts(compiled(x))).backward()
    trained = {key for key, each in model.named_parameters() if each.grad is not None}
    assert trained == {key for key, each in model.named_parameters() if each.requires_grad}
    assert zoo.drift(model, before) == {}

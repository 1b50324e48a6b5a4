"""Low-rank adapters: zoo's own door to PEFT, and a PeftModel that a user made."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from support.tools import MODELS, batch, comes_back, layers, model, train, trainable

import zoo_core as zoo
from zoo_core.errors import LoadMismatch, NotSupported, UsageError

TOOL = "peft"
pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")]
ADAPTABLE = [name for name in MODELS if not name.startswith("efficientnet_pytorch")]

KINDS = [
    *("timm/test_vit", "timm/test_efficientnet", "timm/test_byobnet", "timm/convnext_atto", "timm/levit_128s"),
    *("timm/mobilevit_xxs", "timm/ghostnet_050", "torchvision/swin_t", "torchvision/mobilenet_v2"),
    *("torchvision/mobilenet_v3_small", "torchvision/regnet_y_400mf", "torchvision/resnext50_32x4d"),
    *("torchvision/densenet121", "torchvision/shufflenet_v2_x0_5", "torchvision/squeezenet1_1"),
    *("torchvision/lraspp_mobilenet_v3_large", "torchvision/ssdlite320_mobilenet_v3_large"),
    *("pretrainedmodels/resnet18", "pretrainedmodels/xception", "pretrainedmodels/se_resnext50_32x4d"),
]


def peft_model(name, **arguments):
    """A model as PEFT's users wrap it, trained for two steps."""
    from peft import LoraConfig, get_peft_model

    bare = model(name)
    head = zoo.anatomy(bare).main.path
    modules = layers(bare, but=head)
    where = {"target_modules": modules, "modules_to_save": [head]} if modules else {"target_modules": [head]}
    return train(get_peft_model(bare, LoraConfig(**{"r": 4, "lora_alpha": 16, **where, **arguments})), name)


@pytest.mark.parametrize("name", ADAPTABLE)
def test_adapters_train_and_the_frozen_rest_does_not_move(name):
    bare = model(name)
    before, scores = copy.deepcopy(bare.state_dict()), bare.eval()(batch(name))
    zoo.add_lora(bare, rank=4, seed=0)
    assert torch.equal(bare.eval()(batch(name)), scores)
    train(bare, name)
    assert not torch.equal(bare(batch(name)), scores)
    assert zoo.drift(bare, before) == {}
    head = zoo.anatomy(bare).main.path
    assert all(".lora_" in each or each.startswith(head) for each in trainable(bare))
    assert all(each.grad is not None for each in bare.parameters() if each.requires_grad)


def test_nothing_is_printed_about_what_peft_imports():
    program = "import zoo_core as zoo; zoo.add_lora(zoo.get('tiny/glyphnet'))"
    answer = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert answer.stderr == ""


@pytest.mark.parametrize("name", ADAPTABLE)
def test_adapters_come_back_from_a_save_and_merge_to_the_same_scores(name, tmp_path):
    bare = train(zoo.add_lora(model(name), rank=2, alpha=4, dropout=0.1, seed=0), name)
    keys = set(model(name).state_dict())
    loaded = comes_back(bare, name, tmp_path / "adapted")
    assert trainable(loaded) == trainable(bare)
    zoo.merge_lora(loaded)
    assert set(loaded.state_dict()) == keys
    torch.testing.assert_close(loaded(batch(name)), bare(batch(name)), atol=1e-4, rtol=1e-4)
    comes_back(loaded, name, tmp_path / "merged")


@pytest.mark.sweep
@pytest.mark.parametrize("name", KINDS)
def test_adapters_of_each_architecture_come_back_and_merge_without_a_change_but_rounding(name, tmp_path):
    bare = zoo.add_lora(zoo.get(name, weights=None, num_classes=4, seed=0), rank=2, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for each, parameter in bare.named_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05 if ".lora_" in each else 0.02)
    loaded = zoo.load(zoo.save(bare, tmp_path / "adapted"))
    trained = bare.state_dict()
    assert all(torch.equal(value, trained[each]) for each, value in loaded.state_dict().items())
    plain = (loaded.backbone if zoo.info(name).task == "detection" else loaded).double().eval()
    x = torch.rand((2, *zoo.info(name).input_size), generator=generator, dtype=torch.float64)
    expected = _tensors(plain(x))
    zoo.merge_lora(loaded)
    torch.testing.assert_close(_tensors(plain(x)), expected, rtol=1e-9, atol=1e-9)
    assert [*loaded.state_dict()] == [*zoo.get(name, weights=None, num_classes=4, device="meta").state_dict()]


def _tensors(outputs):
    return [*outputs.values()] if isinstance(outputs, dict) else [outputs]


@pytest.mark.parametrize("name", MODELS)
def test_verbs_look_through_a_peft_model(name, tmp_path):
    wrapped = peft_model(name)
    before = copy.deepcopy(wrapped.state_dict())
    comes_back(wrapped, name, tmp_path / "saved")
    assert zoo.anatomy(wrapped).main.num_classes == 5
    groups = zoo.param_groups(wrapped, lr=1e-3, head_lr=1e-2)
    assert sum(len(group["params"]) for group in groups) == len(trainable(wrapped))
    backbone, head = zoo.split(wrapped)
    assert torch.equal(head(backbone(batch(name))), wrapped(batch(name)))
    zoo.unfreeze(wrapped, "head")
    assert not any("original_module" in each for each in trainable(wrapped))
    if name in ADAPTABLE:  # else nothing but the head is there to be frozen
        train(wrapped, name)
        assert all("lora_" not in each for each in zoo.drift(wrapped, before))
    zoo.freeze(wrapped, "all")
    assert not trainable(wrapped)
    zoo.swap_head(wrapped, 3)
    assert wrapped(batch(name)).shape[:2] == (2, 3)
    comes_back(wrapped, name, tmp_path / "swapped")


@pytest.mark.parametrize(
    "arguments",
    [
        {"use_rslora": True},
        {"rank_pattern": {"layer1.conv1": 2}},
        {"alpha_pattern": {"conv2": 8}},
        {"use_dora": True},
    ],
    ids=str,
)
def test_settings_of_a_lora_config_come_back(arguments, tmp_path):
    comes_back(peft_model("tiny/glyphnet", lora_dropout=0.1, **arguments), "tiny/glyphnet", tmp_path / "x")


def test_a_save_leaves_out_what_published_weights_have(tmp_path):
    adapted = zoo.add_lora(zoo.get("tiny/glyphnet", num_classes=9, seed=0), rank=2, seed=0)
    torch.nn.init.normal_(adapted.layer1.conv1.lora_B.default.weight)
    small = zoo.save(adapted, tmp_path / "small")
    whole = zoo.save(adapted, tmp_path / "whole", with_base=True)
    sizes = [sum(each.stat().st_size for each in folder.glob("*.safetensors")) for folder in (small, whole)]
    assert sizes[0] < sizes[1] / 5
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(zoo.load(small).eval()(x), adapted.eval()(x))
    assert torch.equal(zoo.load(zoo.save(zoo.load(small), tmp_path / "again")).eval()(x), adapted(x))
    assert "GLYPHS_V1" in zoo.receipt(zoo.load(small)).notes["layer1.conv1.base_layer.weight"]


def test_an_adapter_that_cannot_be_saved_says_how_it_can(tmp_path):
    from peft import IA3Config, LoraConfig, get_peft_model

    name = "tiny/glyphnet"
    wrapped = peft_model(name)
    with wrapped.disable_adapter(), pytest.raises(NotSupported, match="switched off"):
        zoo.save(wrapped, tmp_path / "x")
    wrapped.merge_adapter()
    with pytest.raises(NotSupported, match="unmerge_adapter"):
        zoo.save(wrapped, tmp_path / "x")
    wrapped.unmerge_adapter()
    wrapped.add_adapter("second", LoraConfig(r=2, target_modules=["conv2"]))
    with pytest.raises(NotSupported, match="merge_lora"):
        zoo.save(wrapped, tmp_path / "x")
    comes_back(zoo.merge_lora(wrapped), name, tmp_path / "x")
    other = get_peft_model(model(name), IA3Config(target_modules=["conv2"], feedforward_modules=[]))
    with pytest.raises(NotSupported, match="merge_and_unload"):
        zoo.save(other, tmp_path / "y")
    comes_back(other.merge_and_unload(), name, tmp_path / "y")


def test_files_of_peft_say_how_they_are_used(tmp_path):
    from peft import PeftModel

    name = "timm/test_vit"
    wrapped = peft_model(name)
    scores = wrapped(batch(name))
    torch.save(wrapped.state_dict(), tmp_path / "state.pt")
    wrapped.save_pretrained(tmp_path / "adapter")
    for path in (tmp_path / "state.pt", tmp_path / "adapter"):
        with pytest.raises(LoadMismatch, match=r"scale(.|\n)*merge_and_unload(.|\n)*from_pretrained"):
            zoo.get(name, weights=path)
    assert torch.equal(PeftModel.from_pretrained(model(name), tmp_path / "adapter").eval()(batch(name)), scores)
    merged = zoo.load(zoo.save(wrapped.merge_and_unload(), tmp_path / "merged")).eval()
    torch.testing.assert_close(merged(batch(name)), scores, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_adapted_is_refused_and_nothing_changes():
    bare = model("efficientnet_pytorch/efficientnet-b0")
    with pytest.raises(UsageError, match="Conv2dStaticSamePadding"):
        zoo.add_lora(bare)
    assert len(trainable(bare)) > 10
    adapted = zoo.add_lora(model("tiny/glyphnet"), at="layer1")
    with pytest.raises(UsageError, match="merge_lora"):
        zoo.add_lora(adapted, at=["layer1", "layer2"])
    zoo.add_lora(adapted, at="stem", rank=2)
    with pytest.raises(NotSupported, match="merge_lora"):
        zoo.adapt_stem(adapted, 5)
    assert zoo.adapt_stem(zoo.merge_lora(adapted), 5).stem[0].in_channels == 5


class Attention(torch.nn.Module):
    """Patches, torch's attention, which computes with the weight of its last layer, and a classifier."""

    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 16, 8, 8)
        self.attention = torch.nn.MultiheadAttention(16, 2, batch_first=True)
        self.hidden = torch.nn.Linear(16, 16)
        self.head = torch.nn.Linear(16, 5)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens)[0]
        return self.head(self.hidden(tokens).relu().mean(1))


def test_a_layer_whose_weight_is_read_by_other_code_gets_no_adapter():
    x = torch.randn(1, 3, 32, 32)
    adapted = zoo.add_lora(zoo.adopt(Attention(), example=x), rank=2)
    assert {each for each in trainable(adapted) if "lora_A" in each} == {"hidden.lora_A.default.weight"}
    adapted.train()(x).sum().backward()
    assert all(each.grad is not None for each in adapted.parameters() if each.requires_grad)


@pytest.mark.parametrize("edit", [{"rank": 10**9}, {"at": ["(a+)+$"]}, {"at": ["fc", "nothing"]}, {"peft_config": {}}])
def test_a_recipe_cannot_say_more_than_the_verb_takes(edit, tmp_path):
    import json

    folder = zoo.save(zoo.add_lora(model("tiny/glyphnet"), at="layer1", rank=2), tmp_path / "x")
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["edits"][-1].update(edit)
    (folder / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(zoo.ZooError):
        zoo.load(folder)

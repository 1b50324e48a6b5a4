"""torchao: quantized weights, and training that knows of quantization."""

from __future__ import annotations

import pytest
import torch
from support.tools import MODELS, batch, comes_back, model, train, trainable

import zoo_core as zoo
from zoo_core.errors import NotSupported, Unreadable

TOOL = "torchao"
pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore")]
LINEAR = [name for name in MODELS if name != "pretrainedmodels/squeezenet1_1"]  # it has convolutions alone


@pytest.mark.parametrize("name", LINEAR)
def test_verbs_work_on_a_model_whose_weights_are_quantized(name):
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    inner = model(name).eval()
    scores = inner(batch(name))
    quantize_(inner, Int8WeightOnlyConfig())
    assert (inner(batch(name)) - scores).abs().max() < 0.1
    backbone, head = zoo.split(inner)
    assert torch.equal(head(backbone(batch(name))), inner(batch(name)))
    zoo.freeze(inner)
    assert zoo.features(inner, batch(name))
    assert zoo.receipt(inner).model == name
    zoo.swap_head(inner, 3)
    assert inner(batch(name)).shape == (2, 3)


@pytest.mark.parametrize("name", LINEAR)
def test_a_quantized_model_is_saved_before_and_quantized_again_after_loading(name, tmp_path):
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    inner = model(name).eval()
    zoo.save(inner, tmp_path / "x")
    quantize_(inner, Int8WeightOnlyConfig())
    with pytest.raises(NotSupported, match=r"what zoo\.load\(folder\) returns"):
        zoo.save(inner, tmp_path / "y")
    loaded = zoo.load(tmp_path / "x").eval()
    quantize_(loaded, Int8WeightOnlyConfig())
    assert torch.equal(loaded(batch(name)), inner(batch(name)))


def test_a_file_of_quantized_weights_is_named_for_what_it_is(tmp_path):
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    inner = model("tiny/glyphnet")
    quantize_(inner, Int8WeightOnlyConfig())
    torch.save(inner.state_dict(), tmp_path / "int8.pt")
    with pytest.raises(Unreadable, match="torchao"):
        zoo.get("tiny/glyphnet", weights=tmp_path / "int8.pt")


@pytest.mark.parametrize("name", LINEAR)
def test_training_that_knows_of_quantization_keeps_what_is_frozen(name, tmp_path):
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerAxis, quantize_
    from torchao.quantization.qat import QATConfig

    inner = zoo.freeze(model(name))
    config = Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int8, weight_granularity=PerAxis(0))
    quantize_(inner, QATConfig(config, step="prepare"))
    before = {each: tensor.clone() for each, tensor in inner.state_dict().items()}
    assert zoo.anatomy(inner).main.num_classes == 5
    train(inner, name)
    assert zoo.drift(inner, before) == {}
    with pytest.raises(NotSupported, match="convert"):
        zoo.save(inner, tmp_path / "x")
    quantize_(inner, QATConfig(config, step="convert"))
    assert inner(batch(name)).shape == (2, 5)
    assert not trainable(inner) - {f"{zoo.anatomy(inner).main.path}.{each}" for each in ("weight", "bias")}


def test_a_model_that_was_never_quantized_is_not_changed_by_it(tmp_path):
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    name = "pretrainedmodels/squeezenet1_1"
    inner = model(name)
    quantize_(inner, Int8WeightOnlyConfig())  # of linear layers, and there are none
    comes_back(inner, name, tmp_path / "x")

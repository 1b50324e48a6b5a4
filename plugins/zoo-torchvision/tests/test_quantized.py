"""Official quantised weights: files of their layout, made by the library itself, through fetch, proof and load.

Beside tensors they hold dtypes and tuples of quantised tensors; ``weights_only=True`` reads them all the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.ao import quantization as ao
from torchvision import models
from torchvision.models.quantization.utils import quantize_model
from zoo_torchvision import build_quantizable
from zoo_torchvision.catalog import cards

import zoo_core as zoo
from zoo_core.errors import LoadMismatch, Unreadable, ZooError
from zoo_core.surgery.load_state_dict import is_packed, load_packed, packed_state_in

CARDS = {card.name: card for card in cards() if card.name.startswith("quantized_")}
ENTRIES = [(name, tag) for name, card in CARDS.items() for tag in card.tags]
QUICK = {"quantized_resnet18", "quantized_mobilenet_v3_large"}

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch.ao.quantization announces its own end
    pytest.mark.filterwarnings("ignore:.*:UserWarning:torch"),  # and says how its observers compute ranges
    pytest.mark.filterwarnings("ignore:auxiliary heads"),
    pytest.mark.filterwarnings("ignore:The default weight initialization"),  # of the library's own constructors
]


@pytest.fixture(autouse=True)
def _leaves_the_engine_alone():
    engine = torch.backends.quantized.engine
    yield
    torch.backends.quantized.engine = engine


def published_state(name):
    """What a file of these weights holds: of a model that the library quantised, or trained to be quantised."""
    torch.manual_seed(0)
    options = {
        "quantized_googlenet": {"aux_logits": True, "init_weights": False},
        "quantized_inception_v3": {"aux_logits": False, "init_weights": False},
    }.get(name, {})
    model = models.get_model(name, weights=None, quantize=False, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # so that one batch says what is normal
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
    prepared = name == "quantized_mobilenet_v3_large"
    if prepared:
        model.fuse_model(is_qat=True)
        model.qconfig = ao.get_default_qat_qconfig("qnnpack")
        ao.prepare_qat(model, inplace=True)
    model.train()(torch.rand(2, 3, 96, 96))
    if not prepared:
        quantize_model(model, CARDS[name].find().options["backend"])
    return model.state_dict()


@pytest.fixture
def publish(tmp_path, file_server):
    """Serve a file under the address of an entry, and put it where the library itself looks for it."""
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    server = file_server(folder)

    def publish(name, tag, content):
        card = CARDS[name]
        entry = card.find(tag)
        path = folder / entry.file_name
        torch.save(content, path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        served = replace(entry, urls=(f"{server.url}/{entry.file_name}",), sha256=sha256, size=path.stat().st_size)
        own = zoo.Zoo()
        own.add(replace(card, weights=(served,), default=tag))
        return zoo.use(own)

    return publish


@pytest.mark.parametrize(
    ("name", "tag"),
    [pytest.param(*each, id="@".join(each), marks=() if each[0] in QUICK else pytest.mark.full) for each in ENTRIES],
)
def test_official_weights_give_the_scores_of_the_librarys_own_model_bit_for_bit(name, tag, publish):
    with publish(name, tag, published_state(name)):
        ours = zoo.get(f"torchvision/{name}@{tag}")
    theirs = models.get_model(name, weights=tag, quantize=True).eval()
    side = CARDS[name].input_size[-1] if "inception" in name else 64
    x = torch.rand(2, 3, side, side)
    scores = ours(x)
    assert type(ours) is type(theirs)
    assert torch.equal(scores, theirs(x))
    assert scores.std() > 0
    outcomes = zoo.receipt(ours).tensors
    own = set(ours.state_dict())
    assert {outcome for key, outcome in outcomes.items() if key in own} == {"loaded"}
    assert {key.split(".")[0] for key in outcomes if key not in own} <= {"aux1", "aux2"}
    assert zoo.receipt(ours).strength == "proven"


@pytest.fixture(scope="module")
def resnet18():
    """A state of the layout of the published one."""
    return published_state("quantized_resnet18")


def test_a_file_with_the_packed_parameters_of_torch_1_3_loads(publish, resnet18):
    old = resnet18.copy()
    old._metadata = resnet18._metadata.copy()
    old["fc._packed_params.weight"], old["fc._packed_params.bias"] = old.pop("fc._packed_params._packed_params")
    old._metadata["fc._packed_params"] = {"version": 2}
    with publish("quantized_resnet18", "IMAGENET1K_FBGEMM_V1", old):
        model = zoo.get("torchvision/quantized_resnet18")
    assert zoo.receipt(model).names("adapted") == ("fc._packed_params._packed_params",)
    assert torch.equal(model.fc.weight().int_repr(), old["fc._packed_params.weight"].int_repr())


@pytest.fixture(scope="module")
def tiny():
    """A quantised model of two layers."""
    torch.manual_seed(0)
    model = nn.Sequential(ao.QuantStub(), nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2, 2)).eval()
    model.qconfig = ao.get_default_qconfig("fbgemm")
    ao.prepare(model, inplace=True)(torch.rand(1, 3, 3, 3))
    return ao.convert(model)


def test_all_that_a_quantised_model_holds_is_loaded(tiny):
    assert is_packed(tiny)
    assert set(load_packed(tiny, tiny.state_dict()).values()) == {"loaded"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("0.scale"), r"1 missing \(0.scale\)"),
        (lambda state: state.pop("1.weight"), "KeyError: '1.weight'"),
        (lambda state: state.update(surprise=torch.zeros(1)), r"1 unexpected \(surprise\)"),
        (lambda state: state.update({"1.weight": torch.zeros(1, 2)}), "1 of another shape"),
        (lambda state: state.update({"3._packed_params._packed_params": (torch.zeros(2), None)}), "of another shape"),
    ],
    ids=["missing", "missing-weight", "unexpected", "misshaped", "unpacked"],
)
def test_what_does_not_fit_a_quantised_model_is_refused(change, message, tiny):
    state = tiny.state_dict()
    change(state)
    with pytest.raises(LoadMismatch, match=message):
        load_packed(tiny, state)


def test_a_file_of_something_else_is_refused():
    with pytest.raises(Unreadable, match="no state of a quantised model"):
        packed_state_in([1, 2], Path("own.pth"))


def test_a_file_of_your_own_loads_into_a_quantised_model(tmp_path, resnet18):
    torch.save({"state_dict": resnet18, "epoch": 3}, tmp_path / "own.pth")
    options = {"quantize": True, "backend": "fbgemm"}
    model = zoo.get("torchvision/quantized_resnet18", weights=tmp_path / "own.pth", options=options)
    assert set(zoo.receipt(model).tensors.values()) == {"loaded"}


def test_an_engine_that_torch_has_not_is_named(publish, resnet18, monkeypatch):
    monkeypatch.setattr(type(torch.backends.quantized), "supported_engines", ["qnnpack"])
    with (
        publish("quantized_resnet18", "IMAGENET1K_FBGEMM_V1", resnet18),
        pytest.raises(ZooError, match=r"quantised for fbgemm(.|\n)*engines: qnnpack(.|\n)*torchvision/resnet18"),
    ):
        zoo.get("torchvision/quantized_resnet18")


def test_in_floats_it_is_an_ordinary_model():
    with torch.device("meta"):
        model = build_quantizable.build("quantized_resnet18")
    assert zoo.anatomy(zoo.adopt(model, family="torchvision")).main.path == "fc"

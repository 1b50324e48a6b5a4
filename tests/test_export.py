"""``zoo.export``: a model for another runtime, compared with itself."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

import zoo_core as zoo
from zoo_core.cli.group import zoo as group
from zoo_core.errors import NotSupported, UsageError, ZooError
from zoo_core.exporting import export as module
from zoo_core.exporting import formats
from zoo_core.exporting.formats import FORMATS

X = torch.randn(5, 1, 32, 32, generator=torch.Generator().manual_seed(5))
PORTABLE = ["pt2", "torchscript"]
ALL = [*PORTABLE, pytest.param("onnx", marks=pytest.mark.extra)]


@pytest.fixture(scope="module")
def glyphs():
    return zoo.get("tiny/glyphnet").eval()


@pytest.mark.parametrize("to", ALL)
def test_the_file_gives_what_the_model_gives_for_a_batch_of_any_length(to, glyphs, tmp_path):
    found = zoo.export(glyphs, tmp_path / "model.bin", to=to)
    x = torch.randn(5, 1, 32, 32)
    (scores,) = FORMATS[to].open(found.path)(x)
    with torch.no_grad():
        torch.testing.assert_close(scores, glyphs(x), rtol=0, atol=1e-4)
    assert found.difference < 1e-4 < found.largest
    assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]


@pytest.mark.parametrize("to", ALL)
def test_class_names_and_preprocessing_are_in_the_metadata(to, glyphs, tmp_path):
    path = zoo.export(glyphs, tmp_path / "model.bin", to=to, softmax=True).path
    found = json.loads(FORMATS[to].metadata(path))
    assert tuple(found["class_names"]) == zoo.class_names(glyphs)
    assert found["preprocessing"]["mean"] == [0.5]
    assert found["input"] == {"name": "image", "shape": [1, 32, 32]}
    assert (found["model"], found["tag"], found["softmax"]) == ("tiny/glyphnet", "GLYPHS_V1", True)
    (chances,) = FORMATS[to].open(path)(torch.randn(3, 1, 32, 32))
    torch.testing.assert_close(chances.sum(1), torch.ones(3))


@pytest.mark.parametrize("to", ALL)
def test_several_heads_are_named_outputs(to, tmp_path):
    model = zoo.swap_head(zoo.get("tiny/glyphnet"), {"colour": 3, "shape": 5})
    found = zoo.export(model, tmp_path / "model.bin", to=to)
    assert found.outputs == ("colour", "shape")
    assert [tuple(each.shape) for each in FORMATS[to].open(found.path)(torch.randn(4, 1, 32, 32))] == [(4, 3), (4, 5)]
    assert model.training


@pytest.mark.full
@pytest.mark.parametrize("to", ALL)
@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "mobilenet_v3_small", "vit_b_16", "swin_t", "googlenet", "lraspp_mobilenet_v3_large", "r3d_18"),
        *("timm/test_vit", "timm/test_convnext", "timm/test_efficientnet"),
        *("efficientnet_pytorch/efficientnet-b0", "pretrainedmodels/squeezenet1_1"),
    ],
)
def test_a_representative_of_each_kind_is_exported(name, to, tmp_path):
    model = zoo.get(name, weights=None, num_classes=7, seed=0)
    assert zoo.export(model, tmp_path / "model.bin", to=to).path.exists()


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "raft_small"])
def test_what_takes_no_batch_of_images_is_refused_with_the_reason(name, tmp_path):
    with pytest.raises(NotSupported, match=r"it takes (a list of|two) images"):
        zoo.export(zoo.get(name, weights=None, device="meta"), tmp_path / "model.onnx")


def test_what_the_exporter_cannot_do_is_refused_with_its_reason(glyphs, tmp_path):
    class Asks(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    model = zoo.get("tiny/glyphnet")
    model.stem.append(Asks())
    with pytest.raises(NotSupported, match=r"cannot be exported so(.|\n)*likely cause: \w+(.|\n)*dynamic=False"):
        zoo.export(model, tmp_path / "model.pt2", to="pt2")
    assert not [*tmp_path.glob("*.pt2")]


def test_a_file_that_gives_something_else_is_not_there(glyphs, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_compare", lambda *_, **__: (0.5, 2.0))
    with pytest.raises(ZooError, match=r"other outputs than the model(.|\n)*no file was written"):
        zoo.export(glyphs, tmp_path / "model.pt2", to="pt2")
    assert not [*tmp_path.glob("*.pt2")]


def test_wrong_arguments_are_refused(glyphs, tmp_path):
    with pytest.raises(UsageError, match="to cannot be"):
        zoo.export(glyphs, tmp_path / "model", to="tflite")
    with pytest.raises(UsageError, match="cannot be written"):
        zoo.export(glyphs, tmp_path / "nowhere" / "model.ts", to="torchscript")


def test_the_command_prints_the_largest_difference(tmp_path):
    out = tmp_path / "model.ts"
    answer = CliRunner().invoke(group, ["export", "tiny/glyphnet", "--to", "torchscript", "--out", str(out)])
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.startswith(f"{out}: outputs scores; largest difference ")


def test_a_model_that_gives_nan_is_not_taken_for_one_that_agrees(tmp_path):
    model = zoo.get("tiny/glyphnet")
    torch.nn.init.constant_(model.fc.weight, float("nan"))
    with pytest.raises(ZooError, match=r"gives nan or infinity(.|\n)*no file was written"):
        zoo.export(model, tmp_path / "model.pt2", to="pt2")
    assert not [*tmp_path.glob("*.pt2")]


@pytest.mark.parametrize("wrong", [float("nan"), 1.0])
def test_a_file_that_differs_for_one_image_alone_is_not_there(wrong, glyphs, tmp_path, monkeypatch):
    opened = FORMATS["pt2"].open

    def breaks_alone(path):
        return lambda batch: [each + wrong * (len(batch) == 1) for each in opened(path)(batch)]

    monkeypatch.setitem(FORMATS, "pt2", replace(FORMATS["pt2"], open=breaks_alone))
    with pytest.raises(ZooError, match="other outputs than the model"):
        zoo.export(glyphs, tmp_path / "model.pt2", to="pt2")


@pytest.mark.extra
def test_what_the_runtime_has_no_kernels_for_is_refused_in_words(tmp_path):
    with pytest.raises(NotSupported, match=r"the runtime does not take the file(.|\n)*model\.float\(\)"):
        zoo.export(zoo.get("tiny/glyphnet").to(torch.bfloat16), tmp_path / "model.onnx")


class Net(torch.nn.Module):
    """A small network of the tests' own, whose features go through ``change``."""

    def __init__(self, change=None):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3)
        self.fc = torch.nn.Linear(8, 4)
        self.change = change or (lambda h: h)

    def forward(self, x):
        return self.fc(self.change(self.conv(x).relu().mean((2, 3))))


def adopted(change=None):
    torch.manual_seed(0)
    return zoo.adopt(Net(change), example=torch.zeros(1, 3, 16, 16))


def test_the_name_of_the_file_says_the_format(glyphs, tmp_path):
    zoo.export(glyphs, tmp_path / "model.ts")
    assert torch.equal(FORMATS["torchscript"].open(tmp_path / "model.ts")(X)[0], glyphs(X))
    with pytest.raises(UsageError, match=r"ends in \.pt2(.|\n)*to='onnx', or another name"):
        zoo.export(glyphs, tmp_path / "model.onnx", to="pt2")
    with pytest.raises(UsageError, match="is a folder"):
        zoo.export(glyphs, tmp_path, to="pt2")


def test_a_branch_on_values_is_not_traced_away(tmp_path):
    model = adopted(lambda h: -h if h.mean() > 5 else h)
    for to in PORTABLE:
        with pytest.raises(NotSupported, match="cannot be exported so"):
            zoo.export(model, tmp_path / "model", to=to)


def test_a_model_that_is_random_in_eval_mode_is_named_as_the_cause(tmp_path):
    with pytest.raises(ZooError, match="the model itself gives something else each time"):
        zoo.export(adopted(lambda h: h + torch.randn_like(h)), tmp_path / "model.ts")


def test_an_autograd_function_is_traced_by_what_it_computes(tmp_path):
    from efficientnet_pytorch.utils import MemoryEfficientSwish

    assert zoo.export(adopted(MemoryEfficientSwish()), tmp_path / "model.ts").difference < 1e-6


def test_heads_are_outputs_whatever_they_are_called(tmp_path):
    model = zoo.swap_head(zoo.get("tiny/glyphnet"), {"image": 2, "aux": 3})
    zoo.save(model, tmp_path / "save", class_names={"image": ["a", "b"], "aux": ["x", "y", "z"]})
    path = zoo.export(tmp_path / "save", tmp_path / "model.pt2").path
    found = json.loads(FORMATS["pt2"].metadata(path))
    assert found["outputs"] == ["image", "aux"]
    assert found["input"]["name"] == "input_image"
    assert found["class_names"] == {"image": ["a", "b"], "aux": ["x", "y", "z"]}


@pytest.mark.extra
def test_a_head_may_have_the_name_of_the_input(tmp_path):
    model = zoo.swap_head(zoo.get("tiny/glyphnet"), {"image": 2, "aux": 3})
    assert zoo.export(model, tmp_path / "model.onnx").outputs == ("image", "aux")


def test_the_maps_of_an_encoder_are_outputs(tmp_path):
    encoder = zoo.encoder("tiny/glyphnet").eval()
    found = zoo.export(encoder, tmp_path / "model.pt2")
    assert found.outputs == encoder.names
    for map_, expected in zip(FORMATS["pt2"].open(found.path)(X), encoder(X), strict=True):
        assert torch.equal(map_, expected)
    with pytest.raises(NotSupported, match="probabilities of features"):
        zoo.export(encoder, tmp_path / "model.pt2", softmax=True)


def test_features_are_called_features_and_have_no_probabilities(tmp_path):
    model = zoo.get("tiny/glyphnet", num_classes=0)
    assert zoo.export(model, tmp_path / "model.ts").outputs == ("features",)
    with pytest.raises(NotSupported, match="probabilities of features"):
        zoo.export(model, tmp_path / "model.ts", softmax=True)


def test_a_size_needs_no_preprocessing(tmp_path):
    model = adopted()
    path = zoo.export(model, tmp_path / "model.ts", size=(24, 40)).path
    assert json.loads(FORMATS["torchscript"].metadata(path))["input"]["shape"] == [3, 24, 40]
    for wrong in (0, 7.5, "32", (32,), (32, 32, 32)):
        with pytest.raises(UsageError, match="size cannot be"):
            zoo.export(model, tmp_path / "model.ts", size=wrong)


def test_a_model_without_values_is_refused(tmp_path):
    with pytest.raises(NotSupported, match="meta device"):
        zoo.export(zoo.get("tiny/glyphnet", weights=None, device="meta"), tmp_path / "model.pt2")


def test_outputs_are_compared_each_with_its_own_scale(tmp_path, monkeypatch):
    model = zoo.swap_head(zoo.get("tiny/glyphnet"), {"large": 2, "small": 2})
    torch.nn.init.constant_(model.fc["large"].bias, 1e6)
    opened = FORMATS["pt2"].open
    wrong = lambda path: lambda batch: [opened(path)(batch)[0], opened(path)(batch)[1] + 1]  # noqa: E731 - as it is used
    monkeypatch.setitem(FORMATS, "pt2", replace(FORMATS["pt2"], open=wrong))
    with pytest.raises(ZooError, match="other outputs than the model"):
        zoo.export(model, tmp_path / "model.pt2")


def test_two_threads_write_one_file(glyphs, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        found = [*pool.map(lambda _: zoo.export(glyphs, tmp_path / "model.ts").difference, range(4))]
    assert found == [0.0] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["model.ts"]


@pytest.mark.extra
def test_the_tensors_of_a_large_onnx_model_are_beside_it_under_its_name(glyphs, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "_ALONE_UP_TO", 1000)
    path = zoo.export(glyphs, tmp_path / "model.onnx").path
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for each in [path, tmp_path / "model.onnx.data"]:
        each.rename(moved / each.name)
    renamed = (moved / "model.onnx").rename(moved / "renamed.onnx")
    torch.testing.assert_close(FORMATS["onnx"].open(renamed)(X)[0], glyphs(X), rtol=0, atol=1e-4)

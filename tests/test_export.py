"""``zoo.export``: a model for another runtime, compared with itself."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from operator import itemgetter

import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageDraw
from support import exports

import zoo_core as zoo
from zoo_core.cli.group import zoo as group
from zoo_core.errors import NotSupported, UsageError, WeightsError, ZooError
from zoo_core.exporting import export as module
from zoo_core.exporting import formats
from zoo_core.exporting.formats import FORMATS, archive_file

X = torch.randn(5, 1, 32, 32, generator=torch.Generator().manual_seed(5))
PORTABLE = ["pt2", "torchscript"]
EXTRA = [pytest.param(to, marks=pytest.mark.extra) for to in ("onnx", "openvino")]
ALL = [*PORTABLE, *EXTRA]


@pytest.fixture(scope="module")
def glyphs():
    return zoo.get("tiny/glyphnet").eval()


@pytest.mark.parametrize("to", ALL)
def test_the_file_gives_what_the_model_gives_for_a_batch_of_any_length(to, glyphs, tmp_path):
    found = zoo.export(glyphs, tmp_path / f"model{FORMATS[to].suffix}", to=to)
    x = torch.randn(5, 1, 32, 32)
    (scores,) = FORMATS[to].open(found.path)(x)
    with torch.no_grad():
        torch.testing.assert_close(scores, glyphs(x), rtol=0, atol=1e-4)
    assert found.difference < 1e-4 < found.largest
    beside = ["model.bin"] if to == "openvino" else []
    assert sorted(path.name for path in tmp_path.iterdir()) == [*beside, found.path.name]


@pytest.mark.parametrize("to", ALL)
def test_class_names_and_preprocessing_are_in_the_metadata(to, glyphs, tmp_path):
    path = zoo.export(glyphs, tmp_path / f"model{FORMATS[to].suffix}", to=to, softmax=True).path
    found = json.loads(FORMATS[to].metadata(path))
    assert tuple(found["class_names"]) == zoo.class_names(glyphs)
    assert found["preprocessing"]["mean"] == [0.5]
    assert found["input"] == {"name": "image", "shape": [1, 32, 32], "dtype": "float32"}
    assert (found["model"], found["tag"], found["softmax"]) == ("tiny/glyphnet", "GLYPHS_V1", True)
    (chances,) = FORMATS[to].open(path)(torch.randn(3, 1, 32, 32))
    torch.testing.assert_close(chances.sum(1), torch.ones(3))


def test_the_probabilities_of_several_labels_are_each_by_itself_in_the_graph(tmp_path):
    saved = zoo.save(zoo.get("tiny/glyphnet", num_classes=3, seed=0).eval(), tmp_path / "save", multi_label=True)
    path = zoo.export(str(saved), tmp_path / "model.pt2", softmax=True).path
    x = torch.randn(2, 1, 32, 32)
    (chances,) = FORMATS["pt2"].open(path)(x)
    torch.testing.assert_close(chances, zoo.load(saved)(x).sigmoid(), rtol=0, atol=1e-4)
    assert json.loads(FORMATS["pt2"].metadata(path))["multi_label"] is True


@pytest.mark.parametrize("to", ALL)
def test_several_heads_are_named_outputs(to, tmp_path):
    model = zoo.swap_head(zoo.get("tiny/glyphnet"), {"colour": 3, "shape": 5})
    found = zoo.export(model, tmp_path / f"model{FORMATS[to].suffix}", to=to)
    assert found.outputs == ("colour", "shape")
    assert [tuple(each.shape) for each in FORMATS[to].open(found.path)(torch.randn(4, 1, 32, 32))] == [(4, 3), (4, 5)]
    assert model.training


@pytest.mark.sweep
@pytest.mark.extra
@pytest.mark.filterwarnings("default")  # what an exporter says of a library's code is no reason to refuse it
@pytest.mark.parametrize(  # by format, so that each part of the sweep has some of every format, which take unlike long
    "row", sorted(exports.rows(), key=itemgetter("format")), ids=lambda row: "-".join((row["model"], row["format"]))
)
def test_a_model_of_each_kind_is_exported_as_the_page_says(row):
    (found,) = exports.tried(row["model"], [row["format"]])
    assert found["verdict"] == row["verdict"]


def test_the_page_has_the_table_of_what_was_tried():
    text = exports.PAGE.read_text(encoding="utf-8")
    assert exports.page(text, exports.rows()) == text


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
    with pytest.raises(NotSupported, match=r"cannot be exported so(.|\n)*likely cause: \w+(.|\n)*torch\.where"):
        zoo.export(model, tmp_path / "model.pt2", to="pt2")
    assert not [*tmp_path.glob("*.pt2")]


def test_a_file_that_gives_something_else_is_not_there(glyphs, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "compare", lambda *_, **__: (0.5, 2.0))
    with pytest.raises(ZooError, match=r"other outputs than the model(.|\n)*no file was written"):
        zoo.export(glyphs, tmp_path / "model.pt2", to="pt2")
    assert not [*tmp_path.glob("*.pt2")]


@pytest.mark.parametrize(("to", "there"), [("pt2", "model.pt2"), ("openvino", "model.xml"), ("openvino", "model.bin")])
def test_a_file_that_is_there_is_refused_before_the_model_runs(to, there, tmp_path):
    (tmp_path / there).write_text("a night of work")
    with pytest.raises(UsageError, match=f"{there} is there already[\\s\\S]*--overwrite"):
        zoo.export("tiny/no_such_model", tmp_path / f"model{FORMATS[to].suffix}")
    assert (tmp_path / there).read_text() == "a night of work"


def test_a_file_that_is_there_is_replaced_where_the_command_says_so(tmp_path):
    (tmp_path / "model.ts").write_text("an older model")
    command = ["export", "tiny/glyphnet", "--out", str(tmp_path / "model.ts"), "--overwrite"]
    answer = CliRunner().invoke(group, command)
    assert answer.exit_code == 0, answer.output
    assert FORMATS["torchscript"].open(tmp_path / "model.ts")(X)


def test_wrong_arguments_are_refused(glyphs, tmp_path):
    with pytest.raises(UsageError, match="to cannot be"):
        zoo.export(glyphs, tmp_path / "model", to="tflite")
    with pytest.raises(UsageError, match=r"called \.tflite[\s\S]*model\.onnx, or to='onnx'"):
        zoo.export(glyphs, tmp_path / "model.tflite")
    with pytest.raises(UsageError, match="cannot be written"):
        zoo.export(glyphs, tmp_path / "nowhere" / "model.ts", to="torchscript")


def test_the_command_prints_the_largest_difference(tmp_path):
    out = tmp_path / "model.ts"
    answer = CliRunner().invoke(group, ["export", "tiny/glyphnet", "--weights", "none", "--out", str(out)])
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.startswith(f"{out}: outputs scores; largest difference ")


def test_the_command_of_the_page_prints_what_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = exports.PAGE.read_text(encoding="utf-8")
    command = next(line for line in text.splitlines() if line.startswith("zoo export tiny/glyphnet"))
    answer = CliRunner().invoke(group, command.split()[1:])
    assert f"```text\n{answer.stdout}```" in text


def test_a_model_that_gives_nan_is_not_taken_for_one_that_agrees(tmp_path):
    model = zoo.get("tiny/glyphnet")
    torch.nn.init.constant_(model.fc.weight, float("nan"))
    with pytest.raises(ZooError, match=r"returns nan or infinity(.|\n)*no file was written"):
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


@pytest.mark.extra
def test_attention_within_windows_is_exported_to_onnx(tmp_path):
    def windows(h):
        parts = h.view(-1, 2, 1, 4, 1)  # batch, windows, heads, tokens, channels, of which the exporter knows four
        return h + torch.nn.functional.scaled_dot_product_attention(parts, parts, parts).flatten(1)

    assert zoo.export(adopted(windows), tmp_path / "model.onnx").difference < 1e-4


@pytest.mark.extra
@pytest.mark.parametrize(
    ("axes", "mask"),
    [((2, 4, 1), (4, 4)), ((2, 4, 1), (-1, 4, 4)), ((2, 1, 4, 1), (4, 4)), ((2, 1, 4, 1), (-1, 2, 1, 4, 4))],
    ids=["three axes", "three axes, a mask each", "five axes", "five axes, a mask each"],
)
def test_attention_with_a_mask_is_exported_to_onnx(axes, mask, tmp_path):
    def masked(h):
        parts = h.view(-1, *axes) if len(axes) > 3 else h.view(-1, *axes[1:])  # heads of a batch on one axis, as in SAM
        scores = parts @ parts.transpose(-1, -2)
        added = scores[0].flatten()[:16].view(mask) if len(mask) == 2 else scores * 3
        return h + torch.nn.functional.scaled_dot_product_attention(parts, parts, parts, attn_mask=added).view(-1, 8)

    assert zoo.export(adopted(masked), tmp_path / "model.onnx").difference < 1e-4


@pytest.mark.extra
def test_the_reason_of_an_exporter_names_what_caused_it_and_has_no_colours(tmp_path):
    with pytest.raises(NotSupported, match=r"ConversionError: .*, since DispatchError: No ONNX function") as raised:
        zoo.export(adopted(torch.special.bessel_j0), tmp_path / "model.onnx")
    assert "x1b" not in str(raised.value)


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
        zoo.export(encoder, tmp_path / "other.pt2", softmax=True)


def test_features_are_called_features_and_have_no_probabilities(tmp_path):
    model = zoo.get("tiny/glyphnet", num_classes=0)
    assert zoo.export(model, tmp_path / "model.ts").outputs == ("features",)
    with pytest.raises(NotSupported, match="probabilities of features"):
        zoo.export(model, tmp_path / "other.ts", softmax=True)


def test_a_size_needs_no_preprocessing(tmp_path):
    model = adopted()
    path = zoo.export(model, tmp_path / "model.ts", size=(24, 40)).path
    assert json.loads(FORMATS["torchscript"].metadata(path))["input"]["shape"] == [3, 24, 40]
    for wrong in (0, 7.5, "32", (32,), (32, 32, 32)):
        with pytest.raises(UsageError, match="size cannot be"):
            zoo.export(model, tmp_path / "other.ts", size=wrong)


def test_a_clip_has_as_many_frames_as_are_asked_for(tmp_path):
    model = zoo.get("torchvision/mc3_18", weights=None)
    path = zoo.export(model, tmp_path / "model.ts", size=32, frames=4).path
    assert json.loads(FORMATS["torchscript"].metadata(path))["input"]["shape"] == [3, 4, 32, 32]


@pytest.mark.parametrize("name", ["tiny/glyphnet", "torchvision/mc3_18"])
def test_frames_that_cannot_be_are_refused(name, tmp_path):
    with pytest.raises(UsageError, match="frames"):
        zoo.export(zoo.get(name, weights=None), tmp_path / "model.ts", frames=4 if name == "tiny/glyphnet" else 0)


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


class _Cancels(torch.nn.Module):
    """Scores of which rounding takes most digits: in float64 they are others."""

    def forward(self, x):
        return (x + 1e5) - 1e5


def _exported_as(monkeypatch, run_of):
    """Have files of pt2 give what a function of their own run gives."""
    opened = FORMATS["pt2"].open
    monkeypatch.setitem(FORMATS, "pt2", replace(FORMATS["pt2"], open=lambda path: run_of(opened(path))))


def test_a_file_may_differ_from_a_model_as_the_model_from_itself_in_float64(tmp_path, monkeypatch):
    model = zoo.get("tiny/glyphnet", num_classes=3, seed=0)
    plain = zoo.get("tiny/glyphnet", num_classes=3, seed=0).double().eval()
    model.set_submodule("fc", torch.nn.Sequential(model.fc, _Cancels()))
    _exported_as(monkeypatch, lambda _: lambda batch: [plain(batch.double()).float()])
    found = zoo.export(model, tmp_path / "model.pt2")
    assert found.difference > 1e-3 * found.largest


def test_a_file_that_differs_by_more_than_rounding_is_refused_and_the_rounding_told(tmp_path, monkeypatch):
    model = zoo.get("tiny/glyphnet", num_classes=3, seed=0)
    model.set_submodule("fc", torch.nn.Sequential(model.fc, _Cancels()))
    _exported_as(monkeypatch, lambda run: lambda batch: [each * 1.2 for each in run(batch)])
    with pytest.raises(ZooError, match=r"other outputs than the model[\s\S]*rounding grows in the model"):
        zoo.export(model, tmp_path / "model.pt2")


def test_a_runtime_that_mixes_up_the_images_of_a_batch_is_named(glyphs, tmp_path, monkeypatch):
    _exported_as(monkeypatch, lambda run: lambda batch: [each[:1].expand_as(each) for each in run(batch)])
    with pytest.raises(ZooError, match=r"for one image at a time and not for a batch"):
        zoo.export(glyphs, tmp_path / "model.pt2")


@pytest.mark.extra
def test_positions_that_are_resized_with_antialiasing_are_so_in_openvino(tmp_path):
    model = zoo.get("timm/test_vit", weights=None, seed=0, options={"dynamic_img_size": True})
    torch.nn.init.normal_(model.pos_embed)
    found = zoo.export(model, tmp_path / "model.xml", size=96)
    assert found.difference < 1e-4 * found.largest


def test_two_threads_write_one_file(glyphs, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        found = [*pool.map(lambda _: zoo.export(glyphs, tmp_path / "model.ts", overwrite=True).difference, range(4))]
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


def letters(folder):
    """Images of the letter K in folders of two classes, so that half of them are in the wrong one."""
    for name in ("A", "K"):
        (folder / name).mkdir(parents=True)
        for size in (40, 44):
            image = Image.new("RGB", (64, 64), "black")
            ImageDraw.Draw(image).text((18, 8), "K", fill="white", font_size=size)
            image.save(folder / name / f"{size}.png")
    return folder


def test_preprocessing_in_the_graph_is_that_of_the_pipeline(tmp_path):
    numbers = {"mean": (10, 20, 30), "std": (2, 3, 4), "value_range": 255, "channel_order": "BGR"}
    expected = zoo.Preprocessing((16, 16), (16,), **numbers)
    model = zoo.set_preprocessing(adopted(), expected).eval()
    path = zoo.export(model, tmp_path / "model.pt2", with_preprocessing=True).path
    images = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    expected = model(zoo.transforms(model)(images.movedim(-1, 1)))
    assert torch.equal(FORMATS["pt2"].open(path)(images)[0], expected)
    found = json.loads(FORMATS["pt2"].metadata(path))
    assert found["input"] == {"name": "image", "shape": [16, 16, 3], "dtype": "uint8"}
    assert found["normalizes"]


def test_preprocessing_in_the_graph_has_to_be_known(tmp_path):
    with pytest.raises(NotSupported, match="no weights say how images"):
        zoo.export(adopted(), tmp_path / "model.pt2", with_preprocessing=True)


@pytest.mark.extra
@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_other_runtimes_take_bytes_as_well(to, glyphs, tmp_path):
    path = zoo.export(glyphs, tmp_path / f"model{FORMATS[to].suffix}", with_preprocessing=True, softmax=True).path
    images = torch.randint(0, 256, (3, 32, 32, 1), dtype=torch.uint8)
    expected = glyphs(zoo.transforms(glyphs)(images.movedim(-1, 1))).softmax(1)
    torch.testing.assert_close(FORMATS[to].open(path)(images)[0], expected, rtol=0, atol=1e-4)


@pytest.mark.extra
def test_openvino_is_two_files_that_move_together(glyphs, tmp_path):
    path = zoo.export(glyphs, tmp_path / "model.xml").path
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    (tmp_path / "moved").mkdir()
    for each in (path, path.with_suffix(".bin")):
        each.rename(tmp_path / "moved" / each.name)
    moved = tmp_path / "moved" / "model.xml"
    torch.testing.assert_close(FORMATS["openvino"].open(moved)(X)[0], glyphs(X), rtol=0, atol=1e-4)
    assert json.loads(FORMATS["openvino"].metadata(moved))["model"] == "tiny/glyphnet"
    with pytest.raises(UsageError, match=r"model\.bin\.xml"):
        zoo.export(glyphs, tmp_path / "model.bin", to="openvino")


@pytest.mark.extra
def test_eight_bits_come_with_the_accuracy_before_and_after(tmp_path):
    folder = letters(tmp_path / "letters")
    out = tmp_path / "model.onnx"
    answer = CliRunner().invoke(group, ["export", "tiny/glyphnet", "--out", str(out), "--int8", str(folder)])
    assert answer.exit_code == 0, answer.output
    assert "int8 on 4 images: top-1 0.5000 before and " in answer.stdout
    weights = [each for each in onnx_model(out).graph.initializer if each.data_type == 3]  # int8
    assert len(weights) >= 5
    assert json.loads(FORMATS["onnx"].metadata(out))["model"] == "tiny/glyphnet"
    assert [path.name for path in tmp_path.glob("*.onnx*")] == ["model.onnx"]


def onnx_model(path):
    import onnx

    return onnx.load(path)


@pytest.mark.extra
@pytest.mark.filterwarnings("ignore")  # of torch, about an enum of torchao's
def test_eight_bits_of_torch_export_are_written_by_torchao_and_run_in_another_process(glyphs, tmp_path):
    pytest.importorskip("torchao")
    out = tmp_path / "model.pt2"
    folder = letters(tmp_path / "letters")
    result = zoo.export(glyphs, out, int8=folder)
    x = torch.stack([zoo.transforms(glyphs)(Image.open(path)) for path in folder.rglob("*.png")])
    assert (result.int8.images, result.int8.before) == (4, 0.5)
    assert result.int8.agreement == 1.0
    torch.save(x, tmp_path / "x.pt")
    script = """
import sys, torch, torchao
program = torch.export.load(sys.argv[1])
assert [each.dtype for each in program.state_dict.values() if each.ndim > 1] == [torch.int8] * 10
torch.save(program.module()(torch.load(sys.argv[2]))[0], sys.argv[2])
"""
    subprocess.run([sys.executable, "-c", script, str(out), str(tmp_path / "x.pt")], check=True)
    with torch.no_grad():
        scores = glyphs(x)
    torch.testing.assert_close(torch.load(tmp_path / "x.pt"), scores, rtol=0, atol=0.05 * scores.abs().max())
    assert json.loads(FORMATS["pt2"].metadata(out))["model"] == "tiny/glyphnet"
    assert out.stat().st_size < zoo.export(glyphs, tmp_path / "float.pt2").path.stat().st_size * 0.6


def test_eight_bits_are_refused_where_they_are_not_written(glyphs, tmp_path):
    with pytest.raises(UsageError, match="int8 is for ONNX and pt2"):
        zoo.export(glyphs, tmp_path / "model.ts", int8=tmp_path)
    with pytest.raises(UsageError, match="int8 takes a batch of any length"):
        zoo.export(glyphs, tmp_path / "model.onnx", int8=tmp_path, dynamic=False)
    with pytest.raises(UsageError, match="exclude each other"):
        zoo.export(glyphs, tmp_path / "model.onnx", int8=tmp_path, with_preprocessing=True)
    with pytest.raises(NotSupported, match="classifiers of one head"):
        zoo.export(zoo.swap_head(zoo.get("tiny/glyphnet"), {"a": 2, "b": 2}), tmp_path / "model.onnx", int8=tmp_path)


@pytest.fixture
def full_disk():
    """Files end at 100 KB, for real: torch and safetensors write theirs without Python."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("to", ["pt2", "torchscript"])
def test_a_full_disk_does_not_end_the_process(to, tmp_path):
    (tmp_path / "net").write_text("before")
    with pytest.raises(UsageError, match="cannot be written"):
        zoo.export(zoo.get("tiny/glyphnet", weights=None), tmp_path / "net", to=to, size=32, overwrite=True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_torch_warns_of_nothing_while_it_writes_an_archive(tmp_path, caplog):
    with caplog.at_level("WARNING", logger="torch.export"):
        zoo.export("tiny/glyphnet", tmp_path / "net.pt2")
    assert caplog.records == []


@pytest.mark.usefixtures("full_disk")
def test_an_archive_whose_last_write_is_cut_short_is_an_error(tmp_path):
    with pytest.raises(OSError, match="too large"), archive_file(tmp_path / "net") as file:
        file.write(bytes(100_001))


@pytest.mark.usefixtures("full_disk")
def test_a_save_on_a_full_disk_is_an_error_of_zoo(tmp_path):
    with pytest.raises(WeightsError, match="cannot save"):
        zoo.save(zoo.get("tiny/glyphnet", weights=None), tmp_path / "save")
    assert list(tmp_path.iterdir()) == []

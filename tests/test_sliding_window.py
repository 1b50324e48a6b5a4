"""``zoo.sliding_window``: a model run over a large image, compared with torch written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

import zoo_core as zoo
from zoo_core.cli.group import zoo as group
from zoo_core.errors import ImageError, NotSupported, UsageError
from zoo_core.images.rows import open_rows

X = torch.randn(2, 1, 70, 90, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def glyphs():
    return zoo.get("tiny/glyphnet").eval()


@pytest.fixture(scope="module")
def segmenter():
    model = zoo.get("lraspp_mobilenet_v3_large", weights=None, num_classes=3, seed=0).eval()
    return zoo.set_preprocessing(model, "lraspp_mobilenet_v3_large")


@torch.no_grad()
def unfolded(model, x, size, stride):
    """The map of scores, with ``nn.Unfold``."""
    n, c, height, width = x.shape
    windows = nn.Unfold(size, stride=stride)(x).transpose(1, 2).reshape(-1, c, size, size)
    rows, columns = ((side - size) // stride + 1 for side in (height, width))
    return model(windows).reshape(n, rows, columns, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize("stride", [32, 13, 40])
def test_a_map_of_scores_is_that_of_unfold(stride, glyphs):
    found = zoo.sliding_window(glyphs, X, size=32, stride=stride, batch_size=3)
    torch.testing.assert_close(found.scores, unfolded(glyphs, X, 32, stride), rtol=0, atol=1e-5)
    assert found.names == zoo.class_names(glyphs)


def test_embeddings_are_what_the_head_is_given(glyphs):
    backbone, head = zoo.split(glyphs)
    found = zoo.sliding_window(glyphs, X[0], size=32, stride=16, outputs="embeddings").scores
    torch.testing.assert_close(found, unfolded(backbone, X[:1], 32, 16), rtol=0, atol=1e-5)
    assert found.shape[1] == head.in_features


@pytest.mark.parametrize("blend", ["constant", "gaussian"])
def test_the_logits_of_segmentation_are_blended(blend, segmenter):
    x = torch.randn(1, 3, 70, 90)
    found = zoo.sliding_window(segmenter, x, size=(32, 48), stride=(20, 24), blend=blend, batch_size=2).scores
    y, x_ = ((torch.arange(side) - (side - 1) / 2) / (side / 8) for side in (32, 48))
    weights = (
        torch.exp(-(y[:, None] ** 2) / 2 - x_**2 / 2).clamp(min=1e-3) if blend == "gaussian" else torch.ones(32, 48)
    )
    total, count = torch.zeros(3, 70, 90), torch.zeros(70, 90)
    for top in (0, 20, 38):
        for left in (0, 24, 42):
            with torch.no_grad():
                logits = segmenter(x[:, :, top : top + 32, left : left + 48])["out"][0]
            total[:, top : top + 32, left : left + 48] += logits * weights
            count[top : top + 32, left : left + 48] += weights
    torch.testing.assert_close(found[0], total / count, rtol=1e-4, atol=1e-5)


def test_sides_may_be_integers_of_numpy(glyphs):
    found = zoo.sliding_window(glyphs, X, size=np.int64(32), stride=(np.int32(16), 16))
    assert torch.equal(found.scores, zoo.sliding_window(glyphs, X, size=32, stride=16).scores)


def test_eight_bits_in_an_array_of_sixteen_are_refused(glyphs):
    with pytest.raises(ImageError, match="not known which value is white"):
        zoo.sliding_window(glyphs, np.full((64, 64), 200, dtype=np.uint16))


def test_an_image_is_normalized_and_not_resized(glyphs, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    expected = unfolded(glyphs, (torch.from_numpy(pixels)[None, None] / 255 - 0.5) / 0.5, 32, 32)
    for image in (tmp_path / "image.png", pixels, Image.fromarray(pixels), torch.from_numpy(pixels)[None]):
        found = zoo.sliding_window(glyphs, image, stride=32).scores
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_an_array_on_disk_is_read_by_rows_of_windows(glyphs, tmp_path):
    array = np.lib.format.open_memmap(tmp_path / "a.npy", mode="w+", dtype=np.uint8, shape=(400, 64, 1))
    array[:] = np.random.default_rng(0).integers(0, 256, array.shape)
    read = []

    class Spied:
        ndim, shape, dtype = array.ndim, array.shape, array.dtype

        def __array__(self, dtype=None, copy=None):
            raise AssertionError("read whole")

        def __getitem__(self, rows):
            read.append(rows.stop - (rows.start or 0))
            return array[rows]

    found = zoo.sliding_window(glyphs, Spied(), size=32, stride=16)
    assert max(read) == 32
    torch.testing.assert_close(found.scores, zoo.sliding_window(glyphs, array, size=32, stride=16).scores)


def test_scores_go_to_a_file_that_is_there_when_it_is_whole(glyphs, tmp_path):
    found = zoo.sliding_window(glyphs, X, size=32, out=tmp_path / "scores.npy")
    expected = zoo.sliding_window(glyphs, X, size=32).scores
    assert torch.equal(torch.from_numpy(np.load(tmp_path / "scores.npy")), expected)
    assert torch.equal(found.scores, expected)
    with pytest.raises(UsageError, match="cannot be written"):
        zoo.sliding_window(glyphs, X, size=32, out=tmp_path / "nowhere" / "scores.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["scores.npy"]


def test_the_command_writes_a_file(glyphs, tmp_path):
    Image.fromarray(np.zeros((64, 96), dtype=np.uint8)).save(tmp_path / "image.png")
    out = tmp_path / "scores.npy"
    answer = CliRunner().invoke(
        group, ["sliding-window", "tiny/glyphnet", str(tmp_path / "image.png"), "--out", str(out), "--stride", "16"]
    )
    assert answer.stdout == f"{out}: 1 x 114 x 3 x 5\n", answer.output


@pytest.mark.parametrize("out", ["image.png", "nowhere/scores.npy", "folder.npy"])
def test_no_other_file_is_written_over(out, glyphs, tmp_path):
    (tmp_path / "image.png").write_bytes(b"mine")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(UsageError, match="written"):
        zoo.sliding_window(glyphs, X, out=tmp_path / out)
    assert (tmp_path / "image.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"size": 100}, "smaller than a window"),
        ({"size": 0}, "size cannot be"),
        ({"stride": "all"}, "stride cannot be"),
        ({"blend": "linear"}, "blend cannot be"),
        ({"outputs": "logits"}, "outputs cannot be"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_impossible_arguments_are_refused(options, problem, glyphs):
    with pytest.raises(UsageError, match=problem):
        zoo.sliding_window(glyphs, X, **options)


def test_a_stride_that_would_leave_pixels_without_scores_is_refused(segmenter):
    with pytest.raises(UsageError, match="leaves pixels out"):
        zoo.sliding_window(segmenter, torch.zeros(3, 64, 64), size=32, stride=33)


def test_a_detector_and_several_heads_have_no_map_of_scores():
    with pytest.raises(NotSupported, match="detection"):
        zoo.sliding_window(zoo.get("ssdlite320_mobilenet_v3_large", weights=None), torch.zeros(3, 400, 400))
    with pytest.raises(NotSupported, match="several heads"):
        zoo.sliding_window(zoo.swap_head(zoo.get("tiny/glyphnet"), {"a": 2, "b": 3}), X)


def test_all_channels_of_an_image_go_to_a_model_that_takes_them():
    model = zoo.get("tiny/glyphnet", in_channels=5).eval()
    zoo.set_preprocessing(model, zoo.Preprocessing(crop=(32, 32), mean=(0.0,) * 5, std=(1.0,) * 5))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 5), dtype=np.uint8)
    with torch.no_grad():
        expected = model(torch.from_numpy(pixels[:32, :32]).permute(2, 0, 1)[None] / 255)
    found = zoo.sliding_window(model, pixels, size=32).scores
    torch.testing.assert_close(found[:, :, 0, 0], expected)
    with pytest.raises(UsageError, match="3 channels for a model that takes 5"):
        zoo.sliding_window(model, pixels[:, :, :3].copy(), size=32)


# With tifffile, and MONAI


@pytest.mark.extra
@pytest.mark.parametrize(
    "layout",
    [
        {"tile": (32, 32), "compression": "deflate"},
        {"rowsperstrip": 7, "compression": "lzw"},
        {"rowsperstrip": 100},
        {"tile": (64, 48), "planarconfig": "separate"},
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_of_any_layout_is_read_by_its_parts(layout, dtype, tmp_path):
    import tifffile

    from zoo_core.images.rows import _TiffRows

    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (100, 75, 3)).astype(dtype)
    written = pixels.transpose(2, 0, 1) if "planarconfig" in layout else pixels
    tifffile.imwrite(tmp_path / "image.tif", written, photometric="rgb", **layout)
    rows = open_rows(tmp_path / "image.tif", "image.tif")
    assert isinstance(rows, _TiffRows)
    for top, bottom in [(0, 32), (17, 60), (68, 100), (0, 100)]:
        expected = torch.from_numpy(pixels[top:bottom].astype(np.float32)).permute(2, 0, 1)
        found = rows.band(top, bottom)
        assert found.shape == expected.shape
        torch.testing.assert_close(found * (65535 if dtype == np.uint16 else 1), expected, check_dtype=False)
    rows.close()


@pytest.mark.parametrize(
    ("kind", "mode"),  # no TIFF holds HSV
    [("file", "YCbCr"), ("file", "CMYK"), ("PIL", "YCbCr"), ("PIL", "HSV"), ("PIL", "CMYK")],
)
def test_other_colours_become_rgb(kind, mode, tmp_path):
    rows, columns = np.mgrid[:40, :40]
    pixels = np.dstack([rows * 6, columns * 6, (rows + columns) * 3]).astype(np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    if kind == "file":
        image.save(tmp_path / "image.tif")
    rows = open_rows(tmp_path / "image.tif" if kind == "file" else image, "image")
    expected = torch.from_numpy(pixels).permute(2, 0, 1).float()
    assert (rows.band(0, 40).float() - expected).abs().max() < 8


@pytest.mark.extra
def test_floats_of_a_tiff_that_are_no_colours_are_refused(glyphs, tmp_path):
    import tifffile

    for name, white in {"normalized": -2.0, "to 255": 255.0, "nan": float("nan")}.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", np.full((64, 64), white, dtype=np.float32), rowsperstrip=8)
        with pytest.raises(ImageError, match=f"{name}.tif: floats from"):
            zoo.sliding_window(glyphs, tmp_path / f"{name}.tif", size=32)


@pytest.mark.extra
def test_a_tiff_that_is_cut_off_is_named(glyphs, tmp_path):
    import tifffile

    tifffile.imwrite(tmp_path / "whole.tif", np.ones((64, 64), dtype=np.uint8), compression="deflate", rowsperstrip=8)
    data = (tmp_path / "whole.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[: len(data) - 30])
    (tmp_path / "text.tif").write_text("hello")
    for name in ("cut.tif", "text.tif"):
        with pytest.raises(ImageError, match=name):
            zoo.sliding_window(glyphs, tmp_path / name, size=32)


@pytest.mark.extra
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("blend", ["constant", "gaussian"])
def test_blended_logits_are_those_of_monai(blend, segmenter):
    from monai.inferers import sliding_window_inference

    x = torch.randn(2, 3, 90, 110)
    with torch.no_grad():
        expected = sliding_window_inference(
            x, (64, 64), 1, lambda window: segmenter(window)["out"], overlap=0.5, mode=blend
        )
    found = zoo.sliding_window(segmenter, x, size=64, stride=32, blend=blend).scores
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.extra
@pytest.mark.parametrize("verb", [zoo.sliding_window, zoo.activation_maps, zoo.cam, zoo.predict])
def test_a_size_that_the_model_cannot_take_is_an_error_that_names_the_image(verb, tmp_path):
    model = zoo.set_preprocessing(zoo.get("squeezenet1_1", weights=None), "squeezenet1_1")
    Image.new("RGB", (32, 32)).save(path := tmp_path / "image.png")
    with pytest.raises(zoo.errors.ImageError, match=r"image.png: no result: .*input size") as caught:
        verb(model, path, size=8)
    assert "zoo.preprocessing(model)" in str(caught.value)
    assert model.training

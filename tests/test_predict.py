"""``zoo.predict``: from images of any kind to named results."""

from __future__ import annotations

import io
import json
import os
import struct
import threading
import warnings

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageCms
from torch import nn

import zoo_core as zoo
from zoo_core.cli.group import zoo as group
from zoo_core.errors import ImageError, NotSupported, UnknownModel, UsageError, ZooWarning
from zoo_core.images.loading import Loaded
from zoo_core.prediction.results import Reading
from zoo_core.utils.eval_mode import inferring

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
GREY = PIXELS[:, :, 0]


@pytest.fixture(scope="module")
def glyphs():
    return zoo.get("tiny/glyphnet").eval()


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def by_hand(model, image, top=5):
    """What torch says, written out."""
    with torch.no_grad():
        chances = model(zoo.transforms(model)(image)[None]).softmax(1)[0]
    names = zoo.class_names(model)
    return [(names[i], chances[i].item()) for i in chances.topk(top).indices.tolist()]


# What an image can be


def test_a_result_is_that_of_torch_written_out(glyphs, photo):
    assert zoo.predict(glyphs, photo) == by_hand(glyphs, Image.open(photo))
    assert len(zoo.predict(glyphs, photo, top=2)) == 2


@pytest.mark.parametrize(
    "kind",
    [
        str,
        lambda path: path.read_bytes(),
        lambda path: io.BytesIO(path.read_bytes()),
        Image.open,
        lambda _: PIXELS,
        lambda _: PIXELS[:, ::-1][:, ::-1],
    ],
    ids=["path", "bytes", "open file", "PIL", "array", "strided array"],
)
def test_one_image_of_any_kind_gives_one_result(kind, glyphs, photo):
    assert zoo.predict(glyphs, kind(photo)) == zoo.predict(glyphs, photo)


def test_a_tensor_of_uint8_and_one_of_floats_are_one_image(glyphs):
    tensor = torch.from_numpy(PIXELS[:32, :32]).permute(2, 0, 1)  # of the model's size: nothing is resampled
    expected = dict(zoo.predict(glyphs, tensor, top=114))
    assert dict(zoo.predict(glyphs, tensor / 255, top=114)) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("many", ["list", "folder", "glob", "batch", "arrays", "generator"])
def test_many_images_give_a_list_of_results(many, glyphs, photo):
    Image.fromarray(PIXELS).save(photo.with_name("second.png"))
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    images = {
        "list": [photo, PIXELS],
        "folder": photo.parent,
        "glob": str(photo.parent / "*.png"),
        "batch": torch.stack([tensor, tensor]),
        "arrays": np.stack([PIXELS, PIXELS]),
        "generator": (each for each in [photo, photo]),
    }[many]
    results = zoo.predict(glyphs, images, batch_size=1)
    assert len(results) == 2
    assert results[0] == results[1]
    if many != "batch":
        assert results[0] == zoo.predict(glyphs, photo)


def test_a_folder_is_read_with_the_folders_inside_it_in_order(glyphs, tmp_path):
    for name in ("b/2.png", "a/1.png", "b/.hidden.png", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(GREY).save(tmp_path / name, format="PNG")
    (tmp_path / "a" / "circle").symlink_to(tmp_path)
    from zoo_core.images.loading import sources_of

    sources, several = sources_of(tmp_path)
    assert several
    assert [source.name for source in sources] == [str(tmp_path / "a/1.png"), str(tmp_path / "b/2.png")]


@pytest.mark.parametrize("dtype", [str, object])
def test_an_array_of_paths_is_many_images(dtype, glyphs, photo):
    paths = np.array([str(photo), str(photo)], dtype=dtype)
    assert zoo.predict(glyphs, paths) == zoo.predict(glyphs, [photo, photo])


def test_what_is_no_file_is_not_waited_for(glyphs, photo, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "circle.png").symlink_to("circle.png")
    (tmp_path / "dead.png").symlink_to("nowhere.png")
    Image.fromarray(PIXELS).convert("L").save(tmp_path / "drawing.eps")
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    names = ["pipe.png", "circle.png", "dead.png", "drawing.eps", "clip.mp4"]
    with pytest.warns(ZooWarning, match="5 of 6"):
        *failed, good = zoo.predict(glyphs, [*(tmp_path / name for name in names), photo])
    assert good == zoo.predict(glyphs, photo)
    problems = ["no file", "not there", "nowhere.png, which is not there", "a drawing (EPS)", "a video"]
    for name, problem, error in zip(names, problems, failed, strict=True):
        assert error.summary.startswith(f"{tmp_path / name}: ")
        assert problem in error.summary
        assert error.parts["hint"]


def test_an_impossible_size_is_refused_before_memory_is_taken(glyphs, photo):
    with pytest.raises(UsageError, match="gigabytes"):
        zoo.predict(glyphs, photo, size=100_000)


# Images that are not plain


def test_an_image_is_turned_upright_as_its_exif_data_says(glyphs, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(PIXELS)).save(tmp_path / "turned.png", exif=exif)
    assert zoo.predict(glyphs, tmp_path / "turned.png") == zoo.predict(glyphs, PIXELS)


def test_sixteen_bits_are_kept(glyphs, tmp_path):
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    deep, plain = (dict(zoo.predict(glyphs, image)) for image in (tmp_path / "deep.png", GREY))
    assert deep == pytest.approx(plain, abs=0.02)


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bits_of_either_byte_order_are_one_image(mode, glyphs, tmp_path):
    pixels = GREY.astype("<u2" if mode == "I;16" else ">u2") * 257
    Image.frombytes(mode, (60, 40), pixels.tobytes()).save(tmp_path / "deep.tif")
    deep, plain = (dict(zoo.predict(glyphs, image)) for image in (tmp_path / "deep.tif", GREY))
    assert deep == pytest.approx(plain, abs=0.02)


def test_a_lab_image_is_read_as_rgb(glyphs):
    plain = Image.fromarray(np.full((32, 32, 3), (200, 30, 40), dtype=np.uint8))
    lab = ImageCms.applyTransform(
        plain, ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    )
    assert lab.mode == "LAB"
    expected = dict(zoo.predict(glyphs, plain, top=114))
    assert dict(zoo.predict(glyphs, lab, top=114)) == pytest.approx(expected, abs=0.02)


def test_a_file_that_cannot_seek_is_read(glyphs, photo):
    class Stream:
        def read(self):
            return photo.read_bytes()

    assert zoo.predict(glyphs, Stream()) == zoo.predict(glyphs, photo)


def test_a_path_may_begin_with_a_tilde(glyphs, photo, monkeypatch):
    monkeypatch.setenv("HOME", str(photo.parent))
    assert zoo.predict(glyphs, "~/photo.png") == zoo.predict(glyphs, photo)


@pytest.mark.parametrize("mode", ["CMYK", "L", "P", "LA", "RGBA", "1"])
def test_an_image_of_any_mode_is_read(mode, glyphs, tmp_path):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.fromarray(PIXELS).convert(mode).save(path)
    assert len(zoo.predict(glyphs, path)) == 5


def test_the_first_frame_of_an_animation_is_taken(glyphs, tmp_path):
    frames = [Image.fromarray(GREY), Image.fromarray(GREY[::-1])]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(ZooWarning, match=r"moving.gif: the first of 2 frames"):
        assert zoo.predict(glyphs, tmp_path / "moving.gif") == zoo.predict(glyphs, frames[0])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(100), "a HEIC photo"),
        (b"<!DOCTYPE HTML><html>404</html>", "a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an answer of a server"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a drawing"),
    ],
    ids=["HEIC", "web page", "answer of a bucket", "Git LFS", "PDF", "SVG"],
)
@pytest.mark.parametrize("kind", ["file", "bytes"])
def test_what_pillow_cannot_read_is_called_what_it_is(kind, content, problem, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=problem) as caught:
        zoo.read_image(tmp_path / "photo.jpg" if kind == "file" else content)
    assert "next step:" in str(caught.value)


@pytest.mark.extra
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_tiff_of_floats_in_colour_is_read(dtype, planes, tmp_path):
    tifffile = pytest.importorskip("tifffile")
    values = (PIXELS / 255).astype(dtype)
    stored = values.transpose(2, 0, 1) if planes == "separate" else values
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planes)
    for item in (tmp_path / "a.tif", (tmp_path / "a.tif").read_bytes()):
        np.testing.assert_allclose(zoo.read_image(item).permute(1, 2, 0), values, atol=1e-6)
    tifffile.imwrite(tmp_path / "a.tif", 255 * stored, photometric="rgb", planarconfig=planes)
    with pytest.raises(ImageError, match="floats from 0 to 255"):
        zoo.read_image(tmp_path / "a.tif")


@pytest.mark.extra
def test_raw_values_of_a_camera_are_no_image(tmp_path):
    pytest.importorskip("tifffile").imwrite(tmp_path / "a.jpg.tif", GREY.astype(np.uint16), photometric="cfa")
    (tmp_path / "a.jpg.tif").rename(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="a TIFF of CFA values"):
        zoo.read_image(tmp_path / "a.jpg")


@pytest.mark.extra
def test_colours_times_transparency_are_refused(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    values = np.zeros((8, 8, 4), np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=["assocalpha"])
    with pytest.raises(ImageError, match="multiplied by its transparency"):
        zoo.read_image(tmp_path / "a.tif")


@pytest.mark.extra
def test_a_tiff_larger_than_memory_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    pytest.importorskip("tifffile").imwrite(tmp_path / "a.tif", np.zeros((64, 64, 3), np.float32), photometric="rgb")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="too large"):
        zoo.read_image(tmp_path / "a.tif")


def test_twelve_bits_in_sixteen_are_noted(glyphs, tmp_path):
    Image.fromarray(GREY.astype(np.uint16) * 16).save(tmp_path / "dark.png")
    answer = command("tiny/glyphnet", tmp_path / "dark.png")
    assert answer.exit_code == 0
    assert "dark.png: dark: its values reach" in answer.stderr
    for dark in (tmp_path / "dark.png", GREY.astype(np.uint16) * 16, torch.from_numpy(GREY.astype(np.uint16) * 16)):
        with pytest.warns(ZooWarning, match="dark: its values reach"):
            zoo.predict(glyphs, dark)


@pytest.mark.parametrize("kind", [np.array, torch.from_numpy, lambda values: values.astype(">u2")])
def test_eight_bits_in_an_array_of_sixteen_are_refused(glyphs, kind):
    with pytest.raises(ImageError, match=r"16 bits, none above 2\d\d, so that it is not known(.|\n)*uint8"):
        zoo.predict(glyphs, kind(GREY.astype(np.uint16)))
    assert zoo.predict(glyphs, kind(GREY.astype(np.uint16) * 257), top=1)


def bad_files(folder, photo):
    data = photo.read_bytes()
    for name, content in {"cut.png": data[: len(data) // 2], "empty.png": b"", "text.png": b"hello"}.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "problem"),
    [("cut.png", "damaged or cut off"), ("empty.png", "empty"), ("text.png", "no image"), ("none.png", "no such file")],
)
def test_one_image_that_cannot_be_read_is_an_error_that_names_it(name, problem, glyphs, photo):
    bad_files(photo.parent, photo)
    with pytest.raises(ImageError, match=f"{name}: .*{problem}"):
        zoo.predict(glyphs, photo.with_name(name))


def test_one_bad_image_of_many_is_named_and_the_others_are_done(glyphs, photo):
    bad_files(photo.parent, photo)
    with pytest.warns(ZooWarning, match=r"3 of 4 images(.|\n)*cut\.png"):
        results = zoo.predict(glyphs, photo.parent)
    assert [isinstance(each, ImageError) for each in results] == [True, True, False, True]
    with pytest.warns(ZooWarning, match="1 of 2"):
        assert zoo.predict(glyphs, [photo, photo.parent / "nowhere*.png"])[0] == zoo.predict(glyphs, photo)


@pytest.mark.parametrize(
    "wrong",
    [
        torch.full((3, 8, 8), 2.0),
        torch.full((3, 8, 8), -1.0),
        torch.zeros(3, 8, 8, dtype=torch.int64),
        torch.zeros(8),
        np.zeros((3, 64, 64), dtype=np.uint8),
        np.zeros((8, 8, 7), dtype=np.uint8),
        object(),
        "https://example.org/cat.jpg",
        "",
        "data:image/png;base64," + 400 * "A",
        "cat\0.png",
        {"image": PIXELS},
        torch.from_numpy(PIXELS),
        Image.fromarray(GREY.astype(np.int32)),
        np.zeros((2, 3000), dtype=np.uint8),
    ],
    ids=[
        "to 255",
        "normalized",
        "integers",
        "a vector",
        "channels first",
        "seven channels",
        "no image",
        "url",
        "empty path",
        "base64",
        "zero byte",
        "dict",
        "channels last",
        "integers of 32 bits",
        "line",
    ],
)
def test_what_is_no_image_is_refused(wrong, glyphs):
    with pytest.raises(ImageError):
        zoo.predict(glyphs, wrong)


def test_an_error_of_the_preparation_says_what_it_said(glyphs):
    with pytest.raises(ImageError, match=r"image 0: an image of 2 channels(.|\n)*\n  expected: 1 channel") as caught:
        zoo.predict(glyphs, np.zeros((8, 8, 2), dtype=np.uint8))
    assert str(caught.value).count("expected:") == 1


def test_a_folder_without_images_is_an_error(glyphs, tmp_path):
    with pytest.raises(ImageError, match="no images in this folder"):
        zoo.predict(glyphs, tmp_path)


# Models


@pytest.mark.parametrize("name", ["squeezenet1_1", "timm/test_resnet", "pretrainedmodels/squeezenet1_1"])
def test_a_model_of_any_family_predicts(name, photo):
    model = zoo.set_preprocessing(zoo.get(name, weights=None, num_classes=3, seed=0), name)
    found = zoo.predict(model, photo, class_names=["a", "b", "c"])
    with torch.no_grad():
        chances = model.eval()(zoo.transforms(model)(Image.open(photo))[None]).flatten(1).softmax(1)[0]
    assert dict(found) == pytest.approx(dict(zip("abc", chances.tolist(), strict=True)), abs=1e-6)


def test_a_name_a_saved_folder_and_a_checkpoint_predict_alike(glyphs, photo, tmp_path):
    expected = zoo.predict(glyphs, photo)
    assert zoo.predict("tiny/glyphnet", photo) == expected
    assert zoo.predict(str(zoo.save(glyphs, tmp_path / "saved")), photo) == expected
    torch.save({"state_dict": glyphs.state_dict()}, tmp_path / "last.ckpt")
    own = zoo.predict("tiny/glyphnet", photo, weights=str(tmp_path / "last.ckpt"))
    assert [chance for _, chance in own] == [chance for _, chance in expected]


def test_neither_a_name_nor_a_folder_is_an_error(photo):
    with pytest.raises(UnknownModel):
        zoo.predict("glyphnett", photo)


def test_a_model_is_in_the_mode_it_was_in(photo):
    model = zoo.get("tiny/glyphnet")
    zoo.freeze(model, "layer1")
    before = [module.training for module in model.modules()]
    zoo.predict(model, photo)
    assert [module.training for module in model.modules()] == before


def test_what_two_models_share_stays_in_eval_mode_until_both_have_run():
    norm, entered, is_over, modes = torch.nn.BatchNorm1d(2), threading.Event(), threading.Event(), []

    def run():
        with inferring(torch.nn.Sequential(norm)):
            entered.set()
            is_over.wait(10)
            modes.append(norm.training)

    thread = threading.Thread(target=run)
    with inferring(torch.nn.Sequential(norm)):
        thread.start()
        entered.wait(10)
    is_over.set()
    thread.join()
    assert modes == [False]
    assert norm.training


def test_threads_predict_with_one_model_in_train_mode(photo):
    model, results = zoo.get("tiny/glyphnet").train(), []
    before = model.stem[1].running_mean.clone()
    threads = [threading.Thread(target=lambda: results.append(zoo.predict(model, [photo] * 8))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(each == results[0] for each in results)
    assert model.training
    assert torch.equal(model.stem[1].running_mean, before)


def test_an_object_that_gives_an_array_is_read_as_the_array(glyphs):
    class Given:
        def __array__(self, dtype=None, copy=None):
            return np.full((32, 32, 3), 200, np.uint8)

    assert zoo.predict(glyphs, Given()) == zoo.predict(glyphs, np.asarray(Given()))


def test_a_model_without_preprocessing_says_how_to_give_it_one(photo):
    model = zoo.get("resnet18", weights=None)
    with pytest.raises(NotSupported, match=r"zoo\.set_preprocessing\(model, \"torchvision/resnet18\"\)"):
        zoo.predict(model, photo)


def test_a_model_that_no_library_published_is_told_to_say_its_numbers(photo):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(3600, 2))
    model = zoo.adopt(network, example=torch.rand(1, 3, 32, 32))
    with pytest.raises(NotSupported, match=r"zoo\.set_preprocessing\(model, zoo\.Preprocessing\(\)\)"):
        zoo.predict(model, photo)
    zoo.set_preprocessing(model, zoo.Preprocessing(crop=(32, 32), resize=(32,)))
    assert len(zoo.predict(model, photo)) == 2


def test_several_labels_are_those_above_the_threshold(glyphs, photo):
    found = zoo.predict(glyphs, photo, threshold=0.5)
    with torch.no_grad():
        chances = glyphs(zoo.transforms(glyphs)(Image.open(photo))[None]).sigmoid()[0]
    expected = {name for name, chance in zip(zoo.class_names(glyphs), chances, strict=True) if chance >= 0.5}
    assert {name for name, _ in found} == expected
    assert [chance for _, chance in found] == sorted((chance for _, chance in found), reverse=True)


def test_several_heads_give_a_result_each(photo):
    model = zoo.swap_head(zoo.get("tiny/glyphnet"), {"colour": 3, "shape": 5})
    found = zoo.predict(model, [photo, photo], top=9)
    assert {name: len(each) for name, each in found[0].items()} == {"colour": 3, "shape": 5}
    named = zoo.predict(model, photo, class_names={"colour": ["red", "green", "blue"]})
    assert {name for name, _ in named["colour"]} == {"red", "green", "blue"}
    with pytest.raises(UsageError, match=r"'size'(.|\n)*any of colour, shape"):
        zoo.predict(model, photo, class_names={"size": ["small"]})
    with pytest.raises(UsageError, match=r"one list, and the model has the heads colour, shape(.|\n)*a dict"):
        zoo.predict(model, photo, class_names=["red", "green", "blue"])


def test_one_logit_is_a_probability_by_itself(photo):
    model = zoo.get("tiny/glyphnet", num_classes=1)
    with torch.no_grad():
        expected = model.eval()(zoo.transforms(model)(Image.open(photo))[None]).sigmoid().item()
    assert zoo.predict(model, photo, class_names=["cat"]) == [("cat", pytest.approx(expected))]


def test_a_softmax_of_the_model_is_not_taken_again(glyphs, photo):
    wrapped = torch.nn.Sequential(glyphs, torch.nn.Softmax(1))
    assert dict(zoo.predict(wrapped, photo)) == pytest.approx(dict(zoo.predict(glyphs, photo)))


@pytest.mark.parametrize("run", [zoo.predict, zoo.sliding_window])
def test_features_are_not_read_as_scores(run, photo):
    cut = zoo.set_preprocessing(zoo.truncate(zoo.get("resnet18", weights=None), after="layer2"), "resnet18")
    headless = zoo.set_preprocessing(zoo.get("timm/test_vit", weights=None), "timm/test_vit")
    headless.reset_classifier(0)
    for model in (cut, headless):
        with pytest.raises(NotSupported, match="no head"):
            run(model, photo)


def test_an_untrained_model_by_name_is_warned_of(photo):
    with pytest.warns(ZooWarning, match="tiny/glyphnet is untrained"):
        zoo.predict("tiny/glyphnet", photo, weights=None)
    assert command("tiny/glyphnet", photo, "--weights", "none").exit_code == 2


def test_what_is_no_model_is_refused(photo):
    with pytest.raises(UsageError, match="a model cannot be None"):
        zoo.predict(None, photo)


def test_other_numbers_of_names_and_scores_are_refused(photo):
    with pytest.raises(UsageError, match=r"2 class names for 114 scores(.|\n)*class_names="):
        zoo.predict("tiny/glyphnet", photo, class_names=["cat", "dog"])


def test_a_head_that_was_changed_by_hand_has_no_names_of_the_old_one(photo):
    model = zoo.get("tiny/glyphnet")
    model.fc = torch.nn.Linear(64, 9)
    assert {name for name, _ in zoo.predict(model, photo, top=9)} == set("012345678")


def test_nan_is_not_a_result(photo):
    model = zoo.get("tiny/glyphnet")
    with torch.no_grad():
        model.fc.bias.fill_(torch.nan)
    with pytest.raises(ImageError, match="nan"):
        zoo.predict(model, photo)
    with pytest.raises(ImageError, match="likely cause: some values are nan"):
        zoo.predict(model, np.full((32, 32), np.nan))


def test_optical_flow_has_no_names(photo):
    with pytest.raises(NotSupported, match="optical flow"):
        zoo.predict(zoo.get("raft_small", weights=None, device="meta"), photo)


@pytest.mark.parametrize(
    "options",
    [
        {"top": 0},
        {"batch_size": 0},
        {"threshold": 2},
        {"threshold": True},
        {"class_names": "abc"},
        {"class_names": range(114)},
        {"num_workers": -1},
        {"num_workers": "2"},
    ],
)
def test_impossible_arguments_are_refused(options, glyphs, photo):
    with pytest.raises(UsageError):
        zoo.predict(glyphs, photo, **options)


# Segmentation, detection and video


@pytest.fixture(scope="module")
def segmenter():
    model = zoo.get("lraspp_mobilenet_v3_large", weights=None, num_classes=3, seed=0).eval()
    return zoo.set_preprocessing(model, "lraspp_mobilenet_v3_large")


def test_segmentation_labels_each_pixel_of_the_image(segmenter, photo, tmp_path):
    found = zoo.predict(segmenter, photo, size=64, class_names=["cat", "dog"])
    with torch.no_grad():
        maps = segmenter(zoo.transforms(segmenter, size=64)(Image.open(photo))[None])["out"]
    expected = torch.nn.functional.interpolate(maps, size=(40, 60), mode="bilinear").argmax(1)[0]
    assert torch.equal(found.mask, expected)
    assert found.names == ("background", "cat", "dog")
    assert sum(share for _, share, _ in found.legend) == pytest.approx(1)
    with Image.open(found.save(tmp_path / "mask.png")) as image:
        assert image.size == (60, 40 + 16 * len(found.legend))
    assert found.draw(Image.open(photo)).width == 60
    with pytest.raises(zoo.ZooError, match="cannot write"):
        found.save(tmp_path / "mask.svg")


def test_a_segmenter_with_a_crop_labels_what_the_crop_would_cut_off(segmenter, photo):
    model = zoo.set_preprocessing(segmenter, zoo.Preprocessing(crop=(32, 32), resize=(48,)))
    assert zoo.predict(model, photo).mask.shape == (40, 60)


def test_detections_are_those_of_torchvision_in_pixels_of_the_image(photo):
    model = zoo.get("ssdlite320_mobilenet_v3_large", weights=None, num_classes=3, seed=0).eval()
    zoo.set_preprocessing(model, "ssdlite320_mobilenet_v3_large")
    found = zoo.predict(model, photo, threshold=0.0, class_names=(name for name in ("cat", "dog")))
    with torch.no_grad():
        expected = model([zoo.transforms(model)(Image.open(photo))])[0]
    assert torch.equal(found.boxes, expected["boxes"])
    assert torch.equal(found.scores, expected["scores"])
    assert found.names == tuple(["background", "cat", "dog"][i] for i in expected["labels"])
    assert len(found) == len(expected["scores"]) > 0
    assert found[0].box == tuple(found.boxes[0].tolist())
    with pytest.raises(UsageError, match="1 class names for a model of 3 classes"):
        zoo.predict(model, photo, class_names=["cat"])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photo).transpose(Image.Transpose.ROTATE_90).save(photo.with_name("turned.png"), exif=exif)
    drawn = [found.draw(image).tobytes() for image in (photo, photo.with_name("turned.png"), PIXELS, Image.open(photo))]
    assert len({*drawn}) == 1


def test_masks_and_keypoints_are_read_and_drawn():
    output = {
        "boxes": torch.tensor([[1.0, 1.0, 5.0, 5.0], [0.0, 0.0, 2.0, 2.0]]),
        "scores": torch.tensor([0.9, 0.2]),
        "labels": torch.tensor([2, 1]),
        "masks": torch.ones(2, 1, 10, 10),
        "keypoints": torch.tensor([[[2.0, 3.0, 1.0]], [[0.0, 0.0, 0.0]]]),
    }
    image = Loaded("image", torch.zeros(3, 10, 10), size=(20, 20))
    (found,) = Reading(("background", "cat", "dog"), 5, None).results([output], [image])
    assert [(each.name, each.box) for each in found] == [("dog", (2.0, 2.0, 10.0, 10.0))]
    assert found.masks.shape == (1, 20, 20)
    assert found.keypoints.tolist() == [[[4.0, 6.0, 1.0]]]
    assert found.draw(torch.zeros(3, 20, 20)).getpixel((15, 15)) != (0, 0, 0)


def test_a_clip_is_named_by_a_video_model():
    model = zoo.set_preprocessing(zoo.get("r3d_18", weights=None, num_classes=2, seed=0), "r3d_18")
    clip = torch.randint(0, 256, (4, 3, 40, 60), dtype=torch.uint8)
    found = zoo.predict(model, clip, class_names=["run", "jump"], size=32)
    assert {name for name, _ in found} == {"run", "jump"}
    frames = clip.permute(0, 2, 3, 1).numpy()
    assert zoo.predict(model, frames, class_names=["run", "jump"], size=32) == found
    with pytest.raises(ImageError, match="no clip"):
        zoo.predict(model, clip[0])
    with pytest.raises(ImageError, match="frame 0: floats from"):
        zoo.predict(model, torch.full((2, 3, 8, 8), 2.0))


# The command


def command(*args):
    return CliRunner().invoke(group, ["predict", *map(str, args)])


def test_the_command_names_what_fails_and_finishes_the_rest(photo, glyphs):
    bad_files(photo.parent, photo)
    answer = command("tiny/glyphnet", photo.parent, "nowhere.png", "--json")
    records = [json.loads(line) for line in answer.stdout.splitlines()]
    done = {record["image"]: record for record in records if "result" in record}
    assert answer.exit_code == 1
    assert [tuple(pair) for pair in done[str(photo)]["result"]] == zoo.predict(glyphs, photo)
    assert len(records) - len(done) == 4
    assert "cut.png: the file is damaged or cut off" in answer.stderr
    assert answer.stderr.splitlines()[-1] == "5 images, 4 failed"


def test_the_command_takes_names_from_a_file(photo):
    names = photo.with_name("names.txt")
    names.write_text("one\ntwo\n")
    answer = command("tiny/glyphnet", photo, "--class-names", names)
    assert isinstance(answer.exception, UsageError)
    names.write_text("\n".join(f"class {i}" for i in range(zoo.info("tiny/glyphnet").num_classes)))
    assert command("tiny/glyphnet", photo, "--class-names", names, "--top", 1).stdout.startswith(f"{photo}: class ")


def test_the_command_refuses_a_file_without_names(photo):
    names = photo.with_name("names.txt")
    names.write_text("")
    answer = command("tiny/glyphnet", photo, "--class-names", names)
    assert "no class name in it" in answer.stderr
    assert answer.exit_code == 2


def test_the_command_draws_files_of_one_name_beside_one_another(photo, segmenter, tmp_path):
    saved = zoo.save(segmenter, tmp_path / "saved", preprocessing=zoo.Preprocessing(crop=None, resize=(32,)))
    (photo.parent / "other").mkdir()
    Image.fromarray(GREY).save(photo.parent / "other" / "photo.png")
    drawn = tmp_path / "drawn"
    answer = command(saved, photo, photo.parent / "other", "--draw", drawn)
    assert answer.exit_code == 0, answer.output
    assert sorted(path.name for path in drawn.iterdir()) == ["photo-2.png", "photo.png"]


def test_no_warning_is_given_where_all_is_well(glyphs, photo):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zoo.predict(glyphs, [photo, photo])


# With PyAV


@pytest.mark.extra
def test_a_video_file_is_a_clip_of_frames_spread_over_it(tmp_path):
    import av

    from zoo_core.images.video import read_clip

    with av.open(str(tmp_path / "video.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 12 * i, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    clip = read_clip(tmp_path / "video.mp4", "video", 4).image
    assert clip.shape == (4, 3, 48, 64)
    assert [round(frame.float().mean().item() / 12) for frame in clip] == [2, 7, 12, 17]
    assert read_clip(tmp_path / "video.mp4", "video", 32).note == "20 frames, repeated for the 32 that the model takes"
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(ImageError, match="text: no video"):
        read_clip(tmp_path / "text.mp4", "text", 4)


@pytest.mark.extra
def test_a_video_of_a_phone_is_turned_upright(tmp_path):
    import av

    from zoo_core.images.video import read_clip

    path = tmp_path / "video.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        pixels = np.zeros((48, 64, 3), dtype=np.uint8)
        pixels[:24, :32] = 255  # top left
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    content[matrix : matrix + 20] = struct.pack(">5i", 0, 1 << 16, 0, -(1 << 16), 0)  # a quarter turn clockwise
    path.write_bytes(content)
    frame = read_clip(path, "video", 1).image[0].float().mean(0)
    assert frame.shape == (64, 48)
    assert frame[:32, 24:].mean() > 200
    assert frame[32:].mean() < 50


@pytest.mark.parametrize(
    "use",
    [zoo.predict, lambda model, image: zoo.embed(model, [image])],
    ids=["predict", "embed"],
)
def test_a_model_that_keeps_a_table_of_its_first_forward_trains_afterwards(use):
    class Keeping(torch.nn.Sequential):  # as ConViT keeps the distances of its patches
        table = None

        def forward(self, x):
            self.table = torch.rand(3, 1, 1) if self.table is None else self.table
            return super().forward(x * self[0].weight.mean() * self.table)

    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2)
    model = zoo.adopt(Keeping(*layers), example=torch.zeros(1, 3, 32, 32))
    zoo.set_preprocessing(model, "torchvision/resnet18")
    use(model, Image.new("RGB", (40, 40), "red"))
    model.train()(torch.rand(2, 3, 32, 32)).sum().backward()
    assert model[0].weight.grad is not None

"""Summaries, activation maps and class activation maps."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from support.kinds import of_each_kind
from torch import nn

import zoo_core as zoo
from zoo_core.cli.group import zoo as group
from zoo_core.errors import ImageError, NotSupported, UnknownPart, UsageError, ZooWarning
from zoo_core.inspect.compare import Comparison, Measured
from zoo_core.inspect.overlay import view_of
from zoo_core.surgery.metadata import anatomy_of


def patched(side):
    """A black image with a patch of noise in it, and where the patch is."""
    image = np.zeros((side, side, 3), dtype=np.uint8)
    quarter = side // 4
    place = (slice(quarter // 2, quarter // 2 + quarter), slice(5 * quarter // 2, 7 * quarter // 2))
    image[place] = np.random.default_rng(0).integers(0, 255, (quarter, quarter, 3))
    return image, place


def test_a_summary_says_what_trains_at_which_rate_and_is_held(tmp_path):
    model = zoo.get("resnet18", weights=None, num_classes=9, freeze="backbone")
    optimizer = torch.optim.SGD(zoo.param_groups(model, lr=0.1))
    found = zoo.summary(model, optimizer=optimizer)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.trainable == 9 * 513
    head = found.parts[-1]
    assert (head.stage, head.trainable, head.rates) == ("head", 9 * 513, (0.1,))
    assert sum(part.held for part in found.parts) == 20
    assert "layer4" in str(found)
    assert "<table>" in found.save(tmp_path / "net.html").read_text()


@pytest.mark.parametrize("name", ["tiny/glyphnet", "timm/test_vit", "mobilenet_v3_small"])
def test_what_is_printed_fits_a_terminal(name):
    model = zoo.get(name, weights=None, num_classes=9).eval()
    side = zoo.info(name).input_size
    tables = [zoo.summary(model), zoo.summary(model).layers(), zoo.activation_stats(model, torch.zeros(1, *side))]
    tables.append(Comparison((Measured("timm/" + "x" * 60, license="apache-2.0"), Measured("a", error="b")), "cpu", 1))
    for lines in (str(table).splitlines() for table in tables):
        names = {path for path, _ in model.named_modules()} | {"timm/" + "x" * 60}
        assert [line for line in lines if len(line) > 80 and line not in names] == []


@pytest.mark.parametrize("name", ["resnet18", "swin_t", "timm/test_vit"])
def test_each_layer_is_one_line_of_a_summary(name):
    with torch.device("meta"):
        model = zoo.swap_head(zoo.get(name, weights=None), 9)
    found = zoo.summary(zoo.freeze(model, "backbone"))
    lines = str(found.layers()).splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("layer "))
    assert len(lines[begin + 1 : -1]) == len(found.rows)
    assert [line.split()[4] for line in lines[begin + 1 : -1] if line.split()[1] == "head"] == ["yes"]


def test_a_held_norm_whose_weights_train_is_shown_as_training():
    model = zoo.freeze(zoo.get("tiny/glyphnet", weights=None), "backbone")
    model.layer1.bn1.requires_grad_(True)
    found = zoo.summary(model).layers()
    trains = {line.split()[0]: line.split()[4] for line in str(found).splitlines() if line.startswith("layer1.bn")}
    assert trains == {"layer1.bn1": "yes", "layer1.bn2": "held"}
    assert str(dataclasses.replace(found, rows=(*found.rows,))) == str(found)


def test_activation_maps_are_the_means_over_channels(tmp_path):
    model = zoo.get("tiny/glyphnet").eval()
    found = zoo.activation_maps(model, torch.rand(1, 32, 32), at=["layer1", "*conv2"])
    assert list(found.maps) == ["layer1.conv2", "layer1", "layer2.conv2", "layer3.conv2"]
    zeros = zoo.activation_maps(model, np.zeros((32, 32), dtype=np.uint8), at="layer2")
    x = zoo.transforms(model)(torch.zeros(1, 32, 32, dtype=torch.uint8))
    expected = zoo.features(model, x[None], at="layer2")["layer2"].mean(1)[0]
    torch.testing.assert_close(torch.from_numpy(zeros.maps["layer2"]), expected.detach())
    with Image.open(found.save(tmp_path / "maps.png")) as image:
        assert min(image.size) >= 160


def test_a_layer_that_is_not_there_is_named():
    with pytest.raises(UnknownPart, match="layer9"):
        zoo.activation_maps("tiny/glyphnet", np.zeros((32, 32), dtype=np.uint8), at="layer9*")


def test_a_glob_over_everything_takes_the_layers_that_give_a_map():
    model = zoo.get("timm/test_vit", weights=None, seed=0)
    found = zoo.activation_maps(model, np.zeros((160, 160, 3), dtype=np.uint8), at="*")
    assert "block1" in found.maps
    assert "head" not in found.maps
    assert repr(found).startswith("ActivationMaps(")


def test_a_folder_is_named_where_one_image_is_looked_at(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UsageError, match=f"{tmp_path}: this looks at one image"):
        zoo.activation_maps("tiny/glyphnet", tmp_path)


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(UsageError, match="optimizer cannot be 3"):
        zoo.summary("tiny/glyphnet", optimizer=3)


@pytest.mark.extra
@pytest.mark.parametrize(
    "name",
    [
        "tiny/glyphnet",
        "resnet18",
        "swin_t",
        "timm/levit_128s",  # whose last stages mix the whole image
        "timm/vit_tiny_patch16_224",
        "timm/deit_tiny_distilled_patch16_224",
    ],
)
def test_a_patch_in_a_blank_image_lights_up(name, tmp_path):
    pytest.importorskip("pytorch_grad_cam")
    torch.manual_seed(0)
    model = zoo.get(name, weights=None)
    image, place = patched(zoo.info(name).input_size[-1])
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    found = zoo.cam(model.requires_grad_(False), image)
    assert found.heatmap.shape == image.shape[:2]
    assert found.heatmap[place].mean() > 1.5 * found.heatmap.mean() > 0
    assert model.training
    assert all(bool((parameter.grad == 1).all()) for parameter in model.parameters())
    with Image.open(found.save(tmp_path / "cam.png")) as image:
        assert min(image.size) >= 160


@pytest.mark.extra
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_heatmap_is_the_same_in_any_precision_and_around_any_block(dtype):
    expected = zoo.cam("tiny/glyphnet", np.eye(32)).heatmap
    model = zoo.get("tiny/glyphnet").to(dtype)
    for block in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        with block:
            np.testing.assert_allclose(zoo.cam(model, np.eye(32)).heatmap, expected, atol=0.05)


@pytest.mark.extra
def test_where_nothing_speaks_for_a_class_the_heatmap_is_zero_and_warned_of():
    model = zoo.get("tiny/glyphnet").eval()
    with torch.no_grad():
        model.fc.weight.fill_(-1.0)
    with pytest.warns(ZooWarning, match="nothing in the image speaks for class 3"):
        assert not zoo.cam(model, np.eye(32), target=3, at="layer3").heatmap.any()


@pytest.mark.extra
@pytest.mark.parametrize("method", ["scorecam", "ablationcam", "layercam"])
def test_other_methods_run(method):
    assert zoo.cam("tiny/glyphnet", np.eye(32), method=method).heatmap.max() == pytest.approx(1, abs=0.2)


@pytest.mark.extra
def test_nan_and_features_are_not_shown():
    model = zoo.get("tiny/glyphnet")
    with torch.no_grad():
        model.fc.bias.fill_(torch.nan)
    with pytest.raises(NotSupported, match="nan"):
        zoo.cam(model, np.eye(32))
    with pytest.raises(NotSupported, match="no head"):
        zoo.cam(zoo.truncate(zoo.get("tiny/glyphnet"), after="layer2"), np.eye(32))


@pytest.mark.extra
def test_a_target_is_any_integer_and_a_layer_one_name():
    image = patched(32)[0]
    targets = [zoo.cam("tiny/glyphnet", image, target=target).target for target in (3, np.int64(3), torch.tensor(3))]
    assert targets == [3, 3, 3]
    with pytest.raises(UsageError, match="target cannot be"):
        zoo.cam("tiny/glyphnet", image, target=np.int64(-1))
    with pytest.raises(UsageError, match="at cannot be"):
        zoo.cam("tiny/glyphnet", image, at=["layer1"])


@pytest.mark.extra
def test_a_name_of_two_classes_is_refused_with_their_numbers(tmp_path):
    model = zoo.get("tiny/glyphnet", weights=None, num_classes=3, seed=0)
    zoo.set_preprocessing(model, "tiny/glyphnet")
    model = zoo.load(zoo.save(model, tmp_path / "cranes", class_names=["crane", "dog", "crane"]))
    with pytest.raises(UsageError, match=r"2 classes.*'crane'\s+got: the classes 0, 2\s.*target=0"):
        zoo.cam(model, np.eye(32), target="crane")
    assert zoo.cam(model, np.eye(32), target=0).target == 0
    assert zoo.cam(model, np.eye(32), target="dog").target == 1


@pytest.fixture(scope="module")
def two_heads():
    model = zoo.swap_head(zoo.get("tiny/glyphnet", seed=0), {"colour": 3, "shape": 5})
    return zoo.set_preprocessing(model, "tiny/glyphnet")


@pytest.mark.extra
def test_a_heatmap_is_of_a_class_of_the_head_that_is_named(two_heads):
    maps = {head: zoo.cam(two_heads, np.eye(32), head=head, target=1) for head in ("colour", "shape")}
    assert [found.name for found in maps.values()] == ["colour: 1", "shape: 1"]
    x = zoo.transforms(two_heads)(zoo.read_image(np.eye(32)))[None]
    with torch.no_grad():
        expected = two_heads.eval()(x)
    for head, found in maps.items():
        assert found.logit == pytest.approx(expected[head][0, 1].item(), abs=1e-4)
        assert found.heatmap.max() > 0.9
    assert not np.allclose(maps["colour"].heatmap, maps["shape"].heatmap)
    with pytest.raises(UsageError, match=r"a class from 0 to 2"):
        zoo.cam(two_heads, np.eye(32), head="colour", target=4)


@pytest.mark.extra
@pytest.mark.parametrize(("head", "message"), [(None, "several heads"), ("size", "the head 'size' is not one")])
def test_a_head_that_is_not_named_or_not_there_is_answered_with_those_that_are(head, message, two_heads):
    with pytest.raises(UsageError, match=message) as caught:
        zoo.cam(two_heads, np.eye(32), head=head)
    assert "'colour', 'shape'" in str(caught.value)
    with pytest.raises(UsageError, match="leave it out"):
        zoo.cam("tiny/glyphnet", np.eye(32), head="fc")


@pytest.mark.extra
@pytest.mark.parametrize("name", ["timm/pit_ti_224", "timm/crossvit_9_240"])
def test_a_stage_that_gives_several_tensors_has_a_heatmap(name):
    image, _ = patched(zoo.info(name).input_size[-1])
    assert zoo.cam(zoo.get(name, weights=None, seed=0), image).heatmap.max() == pytest.approx(1, abs=0.01)


@pytest.mark.extra
def test_the_heatmap_is_of_the_tensor_that_has_the_map_where_a_stage_gives_another_before_it():
    from timm.models.tnt import TNT

    torch.manual_seed(0)
    net = TNT(img_size=64, embed_dim=16, inner_dim=8, depth=2, num_heads_inner=2, num_heads_outer=2, num_classes=5)
    net = zoo.set_preprocessing(zoo.adopt(net.eval(), family="timm"), "timm/tnt_s_legacy_patch16_224")
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    kept = []
    net.blocks[0].register_forward_hook(lambda _, __, output: kept.append(output[1]))
    logit = net(view_of(net, image, 64).x)[0, 3]
    (slope,) = torch.autograd.grad(logit, kept[0])
    tokens, slope = (each[0, 1:].T.reshape(16, 4, 4) for each in (kept[0], slope))
    expected = (slope.mean((1, 2), keepdim=True) * tokens).sum(0).relu()
    found = zoo.cam(net, image, target=3, at="block1", size=64).heatmap
    assert np.corrcoef(found[8::16, 8::16].ravel(), expected.detach().numpy().ravel())[0, 1] > 0.99


_SMALL_ENOUGH = set(zoo.list(task="classification", max_parameters=60e6))
CLASSIFIERS = [name for name in of_each_kind() if name in _SMALL_ENOUGH]
EARLIER = {"timm/starnet_s050": "stage2"}
"""Where the patch is looked for in kinds whose untrained weights mix the whole image at every stage but one."""
CORNERS = ((1, 5), (5, 1))


def with_a_patch(blank, corner):
    """The image with a patch of noise in it, a quarter of it a side, and where the patch is."""
    eighth = len(blank) // 8
    place = tuple(slice(eighth * at, eighth * (at + 2)) for at in corner)
    image = blank.copy()
    image[place] = np.random.default_rng(0).integers(0, 255, image[place].shape)
    return image, place


def detector_of_patches(name):
    """An untrained model whose class 0 is that there is a patch, and an image without one."""
    model = zoo.get(name, weights=None, seed=0).eval()
    if not any(site.num_classes for site in anatomy_of(model).heads):
        model = zoo.swap_head(model, 9)
    side = zoo.info(name).input_size[-1]
    blank = np.zeros((side, side, 3), dtype=np.uint8)
    with contextlib.suppress(zoo.ZooError):  # of kinds without weights
        mean = zoo.preprocessing(zoo.set_preprocessing(model, name)).mean
        blank += np.uint8([255 * each for each in mean] if max(mean) <= 1 else mean)
    images = [blank, *(with_a_patch(blank, corner)[0] for corner in [*CORNERS, (1, 1), (5, 5), (3, 3)])]
    x = torch.cat([view_of(model, image).x for image in images])
    for site in anatomy_of(model).heads:
        modules = model.get_submodule(site.path).modules()
        last = [module for module in modules if isinstance(module, nn.Linear | nn.Conv2d)][-1]
        inputs = []
        handle = last.register_forward_pre_hook(lambda _, args, inputs=inputs: inputs.append(args[0]))
        with torch.no_grad():
            model(x)
        handle.remove()
        if inputs:  # an auxiliary head does not run in eval mode
            values = inputs[-1].flatten(2).mean(-1) if isinstance(last, nn.Conv2d) else inputs[-1]
            values = values.reshape(len(values), -1, values.shape[-1]).mean(1)  # over tokens
            with torch.no_grad():
                last.weight.zero_()
                last.weight[0] = (values[1:].mean(0) - values[0]).reshape(last.weight[0].shape)
    return model, blank


@pytest.mark.extra
@pytest.mark.full
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_patch_in_a_blank_image_lights_up_in_every_kind(name):
    """Weights that nobody trained do: the head is the difference that the patch makes to what it is given."""
    model, blank = detector_of_patches(name)
    for corner in CORNERS:
        image, place = with_a_patch(blank, corner)
        heatmap = zoo.cam(model, image, target=0, at=EARLIER.get(name)).heatmap
        assert heatmap[place].mean() > 1.4 * heatmap.mean() > 0


# The commands


def command(*args):
    return CliRunner().invoke(group, [*map(str, args)])


def test_the_commands_write_files_and_print(tmp_path):
    image = tmp_path / "image.png"
    Image.fromarray(patched(32)[0]).save(image)
    for name, arguments in {"maps": [image], "draw": [], "stats": [image], "summary": [], "compare": []}.items():
        out = tmp_path / f"{name}.{'html' if name == 'summary' else 'png'}"
        answer = command(name, "tiny/glyphnet", *arguments, "--out", out)
        assert answer.exit_code == 0, answer.output
        assert out.stat().st_size
        assert out.name in answer.stdout or name == "compare"


@pytest.mark.parametrize(
    "arguments",
    [
        *(["cam", "IMAGE", name] for name in ("cam.svg", "cam", "nowhere/cam.png", "folder.png")),
        *(["maps", "IMAGE", name] for name in ("maps.txt", "nowhere/maps.png")),
        *([name, out] for name in ("draw", "stats", "compare") for out in ("net.txt", "nowhere/net.svg")),
        *(["summary", out] for out in ("net.pdf", "nowhere/net.html")),
    ],
    ids=" ".join,
)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(arguments, tmp_path):
    (tmp_path / "folder.png").mkdir()
    name, *image, out = arguments
    answer = command(name, "no model", *image, "--out", tmp_path / out)
    assert answer.exit_code == 2
    assert out in answer.stderr.splitlines()[-1]


def test_a_summary_is_no_pdf(tmp_path):
    with pytest.raises(UsageError, match="not written to"):
        zoo.summary("tiny/glyphnet").save(tmp_path / "net.pdf")


def test_stats_of_a_checkpoint_with_nan_end_with_the_layer_and_exit_code_1(tmp_path):
    state = zoo.get("tiny/glyphnet").state_dict()
    state["layer2.conv1.weight"][0] = torch.nan
    torch.save(state, tmp_path / "last.ckpt")
    with pytest.warns(UserWarning, match="1 of the .* tensors .* hold nan or infinities"):
        answer = command("stats", "tiny/glyphnet", "--weights", tmp_path / "last.ckpt", "--stop", "nan")
    assert answer.exit_code == 1
    assert answer.stdout.splitlines()[-1] == "first bad layer: layer2.conv1, nan"


@pytest.mark.parametrize("name", ["maps", "stats"])
def test_an_image_that_cannot_be_read_is_named(name, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"hello")
    out = tmp_path / "out.png"
    error = command(name, "tiny/glyphnet", tmp_path / "bad.png", "--out", out).exception
    assert isinstance(error, ImageError)
    assert "bad.png" in str(error)
    assert not out.exists()


@pytest.mark.extra
def test_cam_takes_a_name_before_a_number(tmp_path):
    image = tmp_path / "image.png"
    Image.fromarray(patched(32)[0]).save(image)
    saved = zoo.save(zoo.get("tiny/glyphnet", num_classes=3), tmp_path / "saved", class_names=["3", "2", "1"])
    for target, name in {"1": "1", "0": "3"}.items():
        answer = command("cam", saved, image, "--target", target, "--out", tmp_path / "cam.png")
        assert answer.stdout.startswith(f"{name} (logit")

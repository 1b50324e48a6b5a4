import hashlib
import subprocess
import sys
from importlib.resources import files

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch import Generator
from zoo_tiny import zoo_families
from zoo_tiny.anatomy import anatomy
from zoo_tiny.catalog import CHARACTERS, GLYPHS_V1, cards
from zoo_tiny.distort import clean, distorted
from zoo_tiny.glyphs import HELD_OUT_FACES, SIDE, TRAINING_FACES, draw
from zoo_tiny.model import GlyphNet, glyphnet
from zoo_tiny.train import accuracy, main, normalized, train, write

import zoo_core as zoo


@pytest.fixture(scope="module")
def shipped() -> bytes:
    package, _, path = GLYPHS_V1.urls[0].removeprefix("package://").partition("/")
    return files(package).joinpath(path).read_bytes()


@pytest.fixture(scope="module")
def trained(shipped) -> GlyphNet:
    model = glyphnet()
    model.load_state_dict(load(shipped))
    return model.eval()


@pytest.fixture(scope="module")
def held_out():
    return draw(HELD_OUT_FACES)


# The card


def test_the_card_states_the_digest_and_size_of_the_file_that_ships(shipped):
    assert hashlib.sha256(shipped).hexdigest() == GLYPHS_V1.sha256
    assert len(shipped) == GLYPHS_V1.size


def test_the_file_is_named_by_its_digest_and_small(shipped):
    assert GLYPHS_V1.file_name == f"glyphnet-{GLYPHS_V1.sha256[:8]}.safetensors"
    assert len(shipped) < 400 * 1024


def test_the_card_counts_parameters_and_classes_as_the_model_does():
    (card,) = cards()
    model = glyphnet()
    assert sum(parameter.numel() for parameter in model.parameters()) == card.parameters
    assert model.fc.out_features == card.num_classes == GLYPHS_V1.num_classes == len(GLYPHS_V1.class_names)


def test_the_file_has_every_tensor_of_the_model_and_no_other(shipped):
    expected = {name: tensor.shape for name, tensor in glyphnet().state_dict().items()}
    assert {name: tensor.shape for name, tensor in load(shipped).items()} == expected


@pytest.mark.parametrize(
    ("metric", "distort"), [("held-out typeface acc@1", False), ("held-out typeface, distorted, acc@1", True)]
)
def test_the_card_states_the_accuracy_that_is_measured(trained, held_out, metric, distort):
    # Another processor rounds differently, which can turn a glyph or two of the 873.
    assert accuracy(trained, held_out, distort=distort) == pytest.approx(GLYPHS_V1.metrics[metric], abs=0.4)


def test_the_catalogue_is_read_without_torch():
    code = "import zoo_tiny.catalog, sys; zoo_tiny.catalog.cards(); assert not {'torch', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_plugin_contributes_one_family():
    assert [family.name for family in zoo_families()] == ["tiny"]


# The anatomy


def test_the_split_equals_the_forward_pass_bit_for_bit(trained):
    parts, x = anatomy(trained), torch.randn(3, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(trained.fc(parts.pool(trained, parts.features(trained, x))), trained(x))


def test_the_stages_have_the_channels_and_strides_that_the_anatomy_states():
    model = glyphnet().eval()
    x = torch.zeros(1, 1, 64, 64)
    outputs = {}
    for stage in anatomy(model).stages:
        model.get_submodule(stage.output).register_forward_hook(
            lambda *call, name=stage.name: outputs.update({name: call[2]})
        )
    model(x)
    measured = [(name, y.shape[1], 64 // y.shape[-1]) for name, y in outputs.items()]
    assert measured == [(stage.name, stage.channels, stage.stride) for stage in anatomy(model).stages]


def test_the_stem_is_the_first_layer_that_sees_the_image():
    model = glyphnet(in_channels=3)
    (path,) = anatomy(model).stem
    assert model.get_submodule(path).in_channels == 3


# Through zoo


def test_get_brings_the_weights_through_the_cache_and_proves_them(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    model = zoo.get("tiny/glyphnet", num_classes=9, freeze="backbone")
    receipt = zoo.receipt(model)
    assert receipt.sha256 == GLYPHS_V1.sha256
    assert receipt.strength == "proven"
    assert receipt.names("initialized") == ("fc.weight", "fc.bias")
    assert [file.name for file in tmp_path.rglob("*.safetensors")] == [GLYPHS_V1.file_name]


# The glyphs


def test_no_digit_is_among_the_characters():
    assert not any(character.isnumeric() for character in CHARACTERS)


def test_the_held_out_typeface_is_not_trained_on():
    assert not any(face.startswith("DejaVuSerif") for face in TRAINING_FACES)
    assert all(face.startswith("DejaVuSerif") for face in HELD_OUT_FACES)


def test_the_held_out_typeface_has_every_character(held_out):
    assert set(held_out.labels.tolist()) == set(range(len(CHARACTERS)))


def test_the_ink_of_every_glyph_spans_the_frame(held_out):
    for ink in held_out.images > 0:
        rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
        # The box filter may leave the outermost row or column too faint to count.
        assert max(np.ptp(rows), np.ptp(columns)) >= SIDE - 2


def test_distortions_depend_on_the_generator_alone(held_out):
    images = torch.from_numpy(held_out.images[:8])
    first, again, other = (distorted(images, Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_distorted_images_stay_between_paper_and_ink(held_out):
    x = distorted(torch.from_numpy(held_out.images[:64]), Generator().manual_seed(0))
    assert x.shape == (64, 1, 32, 32)
    assert x.min() >= 0
    assert x.max() <= 1


# The training


def test_training_learns():
    glyphs = draw(["cmss10"])
    x, y = normalized(clean(torch.from_numpy(glyphs.images))), torch.from_numpy(glyphs.labels)

    def loss(model):
        with torch.no_grad():
            return torch.nn.functional.cross_entropy(model(x), y).item()

    assert loss(train(glyphs, steps=40, seed=0)) < 0.9 * loss(train(glyphs, steps=1, seed=0))


def test_training_twice_writes_the_same_bytes(tmp_path):
    glyphs = draw(["cmss10"])
    first, second = (write(train(glyphs, steps=2, seed=3), tmp_path / name) for name in "ab")
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


def test_the_script_prints_what_the_card_has_to_say(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", "--steps", "1", "--output", str(tmp_path)])
    main()
    (written,) = tmp_path.iterdir()
    printed = capsys.readouterr().out
    assert hashlib.sha256(written.read_bytes()).hexdigest() in printed
    assert str(written.stat().st_size) in printed
    assert "held-out typeface acc@1" in printed

"""Embeddings and classifiers of waveforms, held to the library's own."""

import pytest
import torch
import torchaudio

import zoo_core as zoo

X = torch.randn(2, 1, 8_000, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def theirs():
    """The library's encoder with values of its own."""
    torch.manual_seed(1)
    return torchaudio.models.hubert_base().eval()


def test_a_file_of_the_library_gives_its_features(theirs, tmp_path):
    torch.save(theirs.state_dict(), tmp_path / "hubert.pth")
    model = zoo.get("torchaudio/hubert_base", weights=tmp_path / "hubert.pth").eval()
    with torch.no_grad():
        assert torch.allclose(model(X), theirs(X[:, 0])[0].mean(1), atol=1e-6)


def test_a_classifier_of_waveforms_is_frozen_and_split():
    model = zoo.get("torchaudio/wav2vec2_base", weights=None, num_classes=5, freeze="backbone").eval()
    backbone, head = zoo.split(model)
    with torch.no_grad():
        assert backbone(X).shape == (2, 768)
        assert torch.equal(head(backbone(X)), model(X))
    assert {name for name, each in model.named_parameters() if each.requires_grad} == {"head.weight", "head.bias"}


def test_letters_are_swapped():
    model = zoo.swap_head(zoo.get("torchaudio/wav2letter", weights=None).eval(), 9)
    assert model(X).shape[:2] == (2, 9)

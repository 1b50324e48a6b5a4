"""A speech encoder of torchaudio as a model of one tensor."""

from __future__ import annotations

import torchaudio
from torch import Tensor, nn
from torch.nn.functional import layer_norm


class SpeechEncoder(nn.Module):
    """The mean of what an encoder gives for the frames of a waveform, under the names of the library's files.

    Args:
        name: A function of ``torchaudio.models``, such as ``"hubert_base"``.
        normalize: Whether each waveform is given mean 0 and variance 1 first.
    """

    def __init__(self, name: str, *, normalize: bool = False) -> None:
        super().__init__()
        model = getattr(torchaudio.models, name)()
        self.feature_extractor, self.encoder = model.feature_extractor, model.encoder
        self.normalize = normalize
        self.head = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """An embedding, or scores, of each waveform in ``[N, 1, samples]``."""
        if self.normalize:
            x = layer_norm(x, x.shape[-1:])
        for layer in self.feature_extractor.conv_layers:
            x, _ = layer(x, None)
        features: Tensor = self.encoder(x.transpose(1, 2))
        return self.head(features.mean(1))  # type: ignore[no-any-return] # an Identity, or a classifier

"""The torchaudio family: speech encoders that give an embedding or take a classifier, and Wav2Letter."""

from __future__ import annotations

from zoo_core.plugin import Card, Family, hookimpl

_SECOND = (1, 16_000)
"""One channel, and the samples of a second at 16 kHz."""
_NORMALIZED = {"wav2vec2_large_lv60k", "hubert_large", "hubert_xlarge", "wavlm_large"}
"""The encoders that were trained on waveforms of mean 0 and variance 1."""
_ENCODERS = {
    "wav2vec2_base": 94_370_944,
    "wav2vec2_large": 315_427_968,
    "wav2vec2_large_lv60k": 315_437_696,
    "hubert_base": 94_370_944,
    "hubert_large": 315_434_112,
    "hubert_xlarge": 962_492_544,
    "wavlm_base": 94_381_168,
    "wavlm_large": 315_452_096,
}
"""Each encoder to the number of its parameters."""


@hookimpl
def zoo_families() -> list[Family]:
    """The one family of this plugin; it declares no anatomy, so zoo traces it."""
    return [Family("torchaudio", requires="torchaudio", catalog="zoo_torchaudio:cards", tested=">=2.11,<2.12")]


def cards() -> list[Card]:
    """The networks. No torch here.

    Example:
        >>> [card.name for card in cards() if "wavlm" in card.name]
        ['wavlm_base', 'wavlm_large']
    """
    encoders = [
        Card(
            family="torchaudio",
            name=name,
            build="zoo_torchaudio.encoder:SpeechEncoder",
            task="embedding",
            input_size=_SECOND,
            num_classes=0,
            options={"name": name, "normalize": name in _NORMALIZED},
            parameters=parameters,
        )
        for name, parameters in _ENCODERS.items()
    ]
    wav2letter = Card(
        family="torchaudio",
        name="wav2letter",
        build="torchaudio.models:Wav2Letter",
        task="speech",
        input_size=_SECOND,
        num_classes=40,
        parameters=26_211_290,
    )
    return [*encoders, wav2letter]

"""What the tiny family has: one model, whose weights ship inside this package, and the characters it distinguishes.

There is no digit among them, so that digits can show what it learned to see.
"""

from __future__ import annotations

from zoo_core.plugin import Card, Licenses, Preprocessing, Weights

LETTERS = "ABCDEFGHJKLMNOPQRSTUVWXYZabdefghijlmnqrty"
"""Latin letters. A small letter that is only a smaller copy of its capital counts as the capital: c, k, o, p, ..."""

OTHERS = "αβγδεζηθλμξπρστφχψωΓΔΘΛΞΠΣΦΨΩБДЖЗИЛФЦЧШЩЪЫЭЮЯбф!?&@#%$+*=/<[{(§€£¥©→∞∫√∂∇"
"""Greek, Cyrillic and signs."""

CHARACTERS = LETTERS + OTHERS
"""Every class, in the order of the network's outputs."""

GLYPHS_V1 = Weights(
    tag="GLYPHS_V1",
    urls=("package://zoo_tiny/weights/glyphnet-deb5bb06.safetensors",),
    sha256="deb5bb0624497cf357e1d4af8ea52768f3b03d43a26dc18b45fd30e0d35ec8b3",
    size=345_512,
    num_classes=len(CHARACTERS),
    categories=tuple(CHARACTERS),
    preprocessing=Preprocessing(crop=(32, 32), resize=(32, 32), mean=(0.5,), std=(0.5,)),
    licenses=Licenses(
        code="apache-2.0",
        weights="apache-2.0",
        # DejaVu, STIX and Computer Modern, as matplotlib ships them. The BaKoMa licence of the last has no SPDX name.
        data="bitstream-vera and ofl-1.1 and licenseref-bakoma",
    ),
    # `zoo lock --outputs tiny/glyphnet` measures these.
    outputs={"cpu": (-2.25321, -1.53892, 2.11902, -1.29924, -3.10093, 1.09083, -0.0240054, 0.562163)},
    # Both on DejaVu Serif, a typeface that training never saw.
    metrics={"held-out typeface acc@1": 94.27, "held-out typeface, distorted, acc@1": 84.31},
)
"""Trained by ``python -m zoo_tiny.train``; bright ink on dark paper, from the fonts that ship with matplotlib."""


def cards() -> list[Card]:
    """The catalogue of the tiny family: its one card.

    Example:
        >>> [card.id for card in cards()]
        ['tiny/glyphnet']
    """
    return [
        Card(
            family="tiny",
            name="glyphnet",
            build="zoo_tiny.model:glyphnet",
            input_size=(1, 32, 32),
            num_classes=len(CHARACTERS),
            weights=(GLYPHS_V1,),
            default="GLYPHS_V1",
            parameters=84_514,
        )
    ]

"""The characters GlyphNet tells apart. There is no digit among them, so that digits can show what it learned to see."""

from __future__ import annotations

import unicodedata

LETTERS = "ABCDEFGHJKLMNOPQRSTUVWXYZabdefghijlmnqrty"
"""Latin letters. A small letter that is only a smaller copy of its capital counts as the capital: c, k, o, p, ..."""

OTHERS = "αβγδεζηθλμξπρστφχψωΓΔΘΛΞΠΣΦΨΩБДЖЗИЛФЦЧШЩЪЫЭЮЯбф!?&@#%$+*=/<[{(§€£¥©→∞∫√∂∇"
"""Greek, Cyrillic and signs."""

CHARACTERS = LETTERS + OTHERS
"""Every class, in the order of the network's outputs."""

_CAPITALS = {small: small.upper() for small in "ckopsuvwxz"}


def plain(code: int) -> str:
    """The character of :data:`CHARACTERS` that a code point shows, or else the normalized character itself.

    Args:
        code: A Unicode code point; mathematical alphabets (script, Fraktur, double-struck, ...) count as their letters.

    Example:
        >>> plain(ord("c")), plain(0x1D504)
        ('C', 'A')
    """
    normalized = unicodedata.normalize("NFKC", chr(code))
    return _CAPITALS.get(normalized, normalized)

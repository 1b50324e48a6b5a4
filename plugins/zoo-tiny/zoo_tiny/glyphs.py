"""The characters GlyphNet learns, drawn from the fonts that ship with matplotlib."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo_tiny.catalog import CHARACTERS, LETTERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRAINING_FACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmti10", "cmss10", "cmtt10", "cmmi10"),
)
"""The font files, without ``.ttf``, whose glyphs are trained on."""

HELD_OUT_FACES = tuple(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic"))
"""A whole typeface that training never sees: accuracy is measured on it."""

SIDE = 48
"""Height and width of a drawn glyph, in pixels; its ink touches two opposite edges."""

_DRAWN_AT = 96

_CAPITALS = {small: small.upper() for small in "ckopsuvwxz"}


@dataclass(frozen=True)
class Glyphs:
    """Glyphs: characters as they are drawn from fonts, and what they are.

    Attributes:
        images: ``[N, 48, 48]``, 0 for paper to 255 for ink.
        labels: ``[N]``, indices into :data:`zoo_tiny.catalog.CHARACTERS`.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def draw(faces: Sequence[str]) -> Glyphs:
    """Draw the glyphs of all characters of :data:`zoo_tiny.catalog.CHARACTERS` in every way these faces have.

    Besides the plain letters a face may hold script, Fraktur, double-struck and other mathematical alphabets, which
    Unicode marks as font variants of the letters. They are drawn too.

    Args:
        faces: Names of font files of matplotlib, without ``.ttf``.

    Example:
        >>> glyphs = draw(["cmss10"])  # has no Greek or Cyrillic where Unicode expects it
        >>> len(glyphs), glyphs.images.shape[1:]
        (51, (48, 48))
    """
    drawn = [(image, label) for face in faces for image, label in _draw_face(face)]
    return Glyphs(np.stack([image for image, _ in drawn]), np.array([label for _, label in drawn], dtype=np.int64))


def _draw_face(face: str) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Draw the glyphs of one font, each with the class of its character."""
    import matplotlib as mpl
    from matplotlib.font_manager import get_font
    from matplotlib.ft2font import LoadFlags

    font = get_font(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"))
    font.set_size(_DRAWN_AT, 72)
    # The Computer Modern files put other signs where Unicode has punctuation, so only their letters are used.
    characters = LETTERS if face.startswith("cm") else CHARACTERS
    for code in sorted(_codes(font.get_charmap(), characters)):
        font.set_text(chr(code), 0.0, flags=LoadFlags.NO_HINTING)
        font.draw_glyphs_to_bitmap(antialiased=True)
        ink = np.asarray(font.get_image())
        if ink.any():
            yield _fit(ink), CHARACTERS.index(_plain(code))


def _codes(charmap: Mapping[int, int], characters: str) -> set[int]:
    """The code points of a font that are one of the characters, or a mathematical variant of one."""
    return {code for code in charmap if _is_letter_form(code) and _plain(code) in characters}


def _plain(code: int) -> str:
    """The character whose glyph a code point of a font is, as :data:`CHARACTERS` has it, or else a normalized one.

    Args:
        code: A Unicode code point; mathematical alphabets (script, Fraktur, double-struck, ...) count as their letters.

    Example:
        >>> _plain(ord("c")), _plain(0x1D504)
        ('C', 'A')
    """
    normalized = unicodedata.normalize("NFKC", chr(code))
    return _CAPITALS.get(normalized, normalized)


def _is_letter_form(code: int) -> bool:
    """Whether the glyph of a code point in a font is a character itself, or a mathematical variant of one."""
    decomposition = unicodedata.decomposition(chr(code))
    return not decomposition or decomposition.startswith("<font>")


def _fit(ink: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut the drawing of a glyph to its ink, scale and centre it so that its longer side fills the frame."""
    from PIL import Image

    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = ink.shape
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    fitted = np.asarray(Image.fromarray(ink).resize(size, Image.Resampling.BOX))
    top, left = (SIDE - fitted.shape[0]) // 2, (SIDE - fitted.shape[1]) // 2
    frame = np.zeros((SIDE, SIDE), dtype=np.uint8)
    frame[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted
    return frame

"""What the conformance kit is expected to find, and why it is so."""

from __future__ import annotations

_NO_PADDING = (
    "the windows of its first convolution start every 8 pixels (in pit_b_224 every 7), which is the stride; because "
    "they are 16 (14) wide, and nothing is padded, one less fits in a row than the size of the image over the stride"
)
_NO_DIGEST = (
    "the files of I-JEPA have no digest in their names, and the server that has them declares none; zoo refuses them "
    'until its user says trust="first-use", and pins what came then'
)

_PADDED = "timm resizes to less than its crop there (a crop_pct above 1) and pads with black, as they were tested"
_SCORED_EARLY = "each stage has a norm and a head of its own, which run right after it and are trained as heads are"

EXPECTED = {
    "depths:efficientvim_*": _SCORED_EARLY,
    "card:volo_d4_448": _PADDED,
    "card:volo_d5_448": _PADDED,
    "card:volo_d5_512": _PADDED,
    "stages:pit_*": _NO_PADDING,
    "card:vit_giant_patch16_gap_224": _NO_DIGEST,
    "card:vit_huge_patch14_gap_224": _NO_DIGEST,
    "card:vit_huge_patch16_gap_448": _NO_DIGEST,
}

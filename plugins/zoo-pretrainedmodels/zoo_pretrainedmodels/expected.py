"""What the conformance kit is expected to find, and why it is so."""

from __future__ import annotations

_PLAIN_HTTP = (
    "the library has this file on plain http alone, and of its digest the first 8 or 9 digits; zoo refuses it until "
    'its user pins the full digest with zoo lock, names an https mirror, or says trust="first-use"'
)
_ON_PLAIN_HTTP = (
    *("bninception", "cafferesnet101", "densenet*", "dpn*", "fbresnet152", "inceptionresnetv2", "inceptionv4"),
    *("nasneta*", "pnasnet5large", "polynet", "resnext101_*", "se*", "xception"),
)

EXPECTED = {
    "swap:squeezenet*": "the library's scores are [N, num_classes, 1, 1], and so are ours",
    **{f"card:{name}": _PLAIN_HTTP for name in _ON_PLAIN_HTTP},
}

"""What the conformance kit is expected to find, and why it is so."""

from __future__ import annotations

_HOOKED = """
Beit ConvNext ConvNextV2 Dinov2 Dinov2WithRegisters DINOv3ConvNext DINOv3ViT Pixio PPLCNet PPLCNetV3 PPLCNetV4
RfDetrDinov2 Sapiens2 Swin Tipsv2Vision UVDoc VitPose
"""
_HOOKS = (
    "it returns hidden states, and the library collects these by closures that it hangs on the layers at the first "
    "forward, which pickle refuses; zoo.save, save_pretrained and deepcopy work"
)

EXPECTED = {
    **{f"twins:{name}Backbone": _HOOKS for name in _HOOKED.split()},
    "stages:RfDetrDinov2Backbone": "its layers are given windows of the image, side by side in the batch, and no map",
}

"""zoo: any pretrained network of any installed family, verified, with one set of surgery tools.

Use it as ``import zoo_core as zoo; model = zoo.get("resnet18", num_classes=9)``. The public names are written once, in
the stub beside this file. Each is imported when it is first used, so that importing this package is fast and imports no
torch.
"""

import sys

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and any(word.startswith("zoo_core") for word in sys.orig_argv):
    del sys.path[0]  # `python -m zoo_core` would import whatever a file in the current folder is called

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

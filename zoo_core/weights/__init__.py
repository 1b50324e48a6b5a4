"""Weights: fetch, prove, cache and read them.

``obtain`` turns a card and its weights into a proven file, ``read_state_dict`` turns a file into tensors, and ``fetch``
brings one proven file into a folder. The names are in the stub beside this file; nothing here imports torch but the
reader.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

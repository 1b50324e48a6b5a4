"""What tests of fine-tuning share: a Trainer that is quiet, a short run, and the weights that one left."""

from __future__ import annotations

import zoo_core as zoo

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
RUN = {"model": "tiny/glyphnet", "batch_size": 8, "augment": "light", "trainer": QUIET}


def weights(folder):
    """The tensors of a saved model, by name."""
    return zoo.load(folder).state_dict()

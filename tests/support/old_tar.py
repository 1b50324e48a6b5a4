"""Writes checkpoints as torch 0.1 did, which no later torch can do."""

import io
import pickle
import struct
import tarfile
from collections import OrderedDict

import torch


def old_tar(path, state, storages=None):
    """A checkpoint as torch 0.1 wrote it: pickles of storages and tensors in a tar archive."""
    storages_file, tensors_file, main = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pickle.dump(len(state), storages_file, protocol=2)
    for key, tensor in enumerate(state.values()):
        pickle.dump((str(key), "cpu", torch.FloatStorage), storages_file, protocol=2)
        values = tensor.contiguous().flatten().tolist()
        count = len(values) if storages is None else storages
        storages_file.write(struct.pack(f"<q{len(values)}f", count, *values))
    pickle.dump([], storages_file, protocol=2)
    pickle.dump(len(state), tensors_file, protocol=2)
    for key, tensor in enumerate(state.values()):
        pickle.dump((f"t{key}", str(key), torch.FloatTensor), tensors_file, protocol=2)
        sizes, strides = tensor.shape, tensor.stride()
        tensors_file.write(struct.pack("<i", len(sizes)) + bytes(4))
        tensors_file.write(struct.pack(f"<{len(sizes)}q{len(strides)}qq", *sizes, *strides, 0))

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            keys = {id(tensor): f"t{key}" for key, tensor in enumerate(state.values())}
            return keys.get(id(item))

    Pickler(main, protocol=2).dump(OrderedDict(state))
    with tarfile.open(path, "w") as archive:
        for name, file in (("storages", storages_file), ("tensors", tensors_file), ("pickle", main)):
            info = tarfile.TarInfo(name)
            info.size = len(file.getvalue())
            archive.addfile(info, io.BytesIO(file.getvalue()))

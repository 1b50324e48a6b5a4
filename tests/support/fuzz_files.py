"""Files from a stranger, made by a grammar and by mutation, through every door that reads weights, in child processes.

Run as ``PYTHONPATH=tests python -m support.fuzz_files 500000 --seed 1``, some 200 files a second; a line after each
child says how far it is. Each file is made from the seed and its number alone, so ``--only NUMBER`` makes one again and
shows what comes of it. A child that a file kills, keeps for too long or makes too large is replaced, and the file is
named. The only error that may come out of a door is a ZooError.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import mmap
import os
import pickle
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save

import zoo_core as zoo
from support.old_tar import old_tar
from zoo_core.errors import ZooError
from zoo_core.weights import read_state_dict
from zoo_core.weights.checkpoint.candidates import candidates
from zoo_core.weights.checkpoint.describe import describe
from zoo_core.weights.checkpoint.read import open_outline
from zoo_core.weights.formats.outline import outline_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "tiny/glyphnet"
LONGEST = 20
"""Seconds of CPU that a file may take at all doors together."""
ROOM = 64 << 20
"""Bytes that reading a file may take beyond twice its size and the model that it is for."""
BLOCK = 5_000
"""Files of one child."""
TOGETHER = 20
"""Files after which the highest memory of the child is looked at, which takes as long as reading one."""
_NUMBERS = (0, 1, 2, 127, 128, 255, 256, 65_535, 1 << 31, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, (1 << 64) - 1)
_NAMES = (
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor", "torch._utils _rebuild_parameter"),
    *("torch._utils _rebuild_qtensor", "torch._utils _rebuild_sparse_tensor", "torch._tensor _rebuild_from_type_v2"),
    *("collections OrderedDict", "collections defaultdict", "torch FloatStorage", "torch LongStorage", "torch Size"),
    *("torch.storage UntypedStorage", "torch float32", "os system", "builtins set", "builtins eval", "_codecs encode"),
    *("numpy._core.multiarray _reconstruct", "numpy ndarray", "numpy dtype", "torch.nn.parameter Parameter"),
    *("argparse Namespace", "torch device", "pathlib PosixPath", "builtins bytearray", "torch per_tensor_affine"),
)


@cache
def state() -> dict[str, Any]:
    """A state dict of the model that files are for."""
    return dict(zoo.get(NAME, weights=None, num_classes=3, seed=0).state_dict())


@cache
def small() -> dict[str, Any]:
    """A few tensors of all kinds."""
    whole = torch.arange(12.0).reshape(3, 4)
    return {
        "stem.0.weight": torch.zeros(16, 1, 3, 3),
        "fc.weight": torch.ones(3, 64),
        "fc.bias": torch.zeros(3),
        "shared": whole,
        "view": whole[1:, 2:].t(),
        "half": torch.zeros(2, dtype=torch.bfloat16),
        "count": torch.tensor(7),
        "none": torch.zeros(0, 3),
    }


def _saved(content: object, **how: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


def _tar() -> bytes:
    """A checkpoint as torch wrote it before 0.2."""
    with tempfile.NamedTemporaryFile() as file:
        old_tar(file.name, {"fc.weight": torch.ones(3, 64), "fc.bias": torch.zeros(3)})
        return Path(file.name).read_bytes()


@cache
def seeds() -> tuple[bytes, ...]:
    """Whole files of every format."""
    whole = small()
    arrays = io.BytesIO()
    np.savez_compressed(arrays, **{name: each.float().numpy() for name, each in whole.items()})
    wrapped = {"epoch": 3, "model": whole, "ema": {"shadow": dict(whole)}, "args": argparse.Namespace(lr=0.1)}
    plain = save({name: each.contiguous() for name, each in whole.items() if name not in ("view", "shared")})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch gives quantised tensors up
        odd = {"q": torch.quantize_per_tensor(torch.ones(4), 0.1, 2, torch.qint8), "s": torch.eye(3).to_sparse()}
    return (
        _saved(whole),
        _saved(wrapped),
        _saved(wrapped, pickle_protocol=4),
        _saved(state()),
        _saved(whole, _use_new_zipfile_serialization=False),
        _saved(wrapped, _use_new_zipfile_serialization=False),
        _saved(zoo.get(NAME, weights=None, num_classes=3, seed=0)),
        _saved(odd),
        plain,
        packed(_members(arrays.getvalue()), zipfile.ZIP_DEFLATED),
        _tar(),
        pickle.dumps({"fc.bias": np.zeros(3)}, protocol=4),
    )


def mutated(data: bytes, dice: random.Random) -> bytes:
    """The same with a few bytes changed, moved, put in or left out."""
    found = bytearray(data)
    for _ in range(1 + int(dice.expovariate(0.5))):
        at = dice.randrange(len(found) + 1)
        length = 1 + int(dice.expovariate(0.1))
        kind = dice.randrange(8)
        if kind == 0 and found:
            found[at % len(found)] = dice.randrange(256)
        elif kind == 1 and found:
            found[at % len(found)] ^= 1 << dice.randrange(8)
        elif kind == 2:
            del found[at : at + length]
        elif kind == 3:
            found[at:at] = dice.randbytes(length)
        elif kind == 4:
            found[at:at] = found[at : at + length]
        elif kind == 5:
            width = dice.choice((1, 2, 4, 8))
            number = (dice.choice(_NUMBERS) + dice.randrange(-2, 3)) % (1 << 8 * width)
            found[at : at + width] = number.to_bytes(width, "little")
        elif kind == 6:
            other = dice.randrange(len(found) + 1)
            found[at : at + length] = found[other : other + length]
        elif dice.random() < 0.2:
            del found[at:]
    return bytes(found)


def repacked(data: bytes, dice: random.Random) -> bytes:
    """An archive with mutated members that is packed as it should be, so that sums agree and more is reached."""
    members = _members(data)
    chosen = dice.choice([*members][:1] * 3 + [*members])
    members[chosen] = mutated(members[chosen], dice)
    if dice.random() < 0.1:
        del members[dice.choice([*members])]
    return packed(members, dice.choice((zipfile.ZIP_STORED,) * 3 + (zipfile.ZIP_DEFLATED,)))


def _members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def packed(members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of these members, the same each time."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=kind)
    return file.getvalue()


def program(dice: random.Random, most: int = 60) -> bytes:
    """A pickle of random opcodes, with arguments that often make sense."""
    parts = [b"\x80\x02"]
    simple = b"0(2)]}NN\x88\x89\x85\x86\x87tsuaeRRRbbbQQ\x81\x81\x92\x90\x91\x93\x94\x94\x8f1"
    for _ in range(dice.randrange(most)):
        kind = dice.randrange(12)
        number = dice.choice(_NUMBERS) if dice.random() < 0.3 else dice.randrange(20)
        if kind < 5:
            parts.append(bytes([dice.choice(simple)]))
        elif kind == 5:
            parts.append(b"c" + dice.choice(_NAMES).replace(" ", "\n").encode() + b"\n")
        elif kind == 6:
            text = dice.choice(("storage", "0", "cpu", "fc.bias", "stem.0.weight", "weight", "latin1", "é")).encode()
            parts.append(b"X" + struct.pack("<I", len(text)) + text)
        elif kind == 7:
            parts.append(b"K" + bytes([number % 256]))
        elif kind == 8:
            parts.append(b"\x8a" + b"\x08" + (number % (1 << 63)).to_bytes(8, "little"))
        elif kind == 9:
            parts.append(bytes([dice.choice(b"hq"), dice.randrange(8)]))
        elif kind == 10:
            parts.append(b"J" + (number % (1 << 32)).to_bytes(4, "little"))
        else:
            parts.append(_tensor(dice))
    return b"".join([*parts, b"."])


def document(dice: random.Random) -> bytes:
    """A pickle that is well formed: containers, calls and tensors within one another, with odd values at any place."""
    return b"\x80\x02" + _value(dice, 0) + b"."


def _value(dice: random.Random, depth: int) -> bytes:  # noqa: PLR0911 - one for each kind
    kind = dice.randrange(10 if depth < 5 else 4) if depth else 9
    inside = [_value(dice, depth + 1) for _ in range(dice.randrange(4) + 2 * (not depth))] if kind > 5 else []
    if kind == 0:
        return dice.choice(
            (b"N", b"\x88", b"K\x03", b"G" + dice.randbytes(8), _integer(dice.choice(_NUMBERS[:-1]) >> 1))
        )
    if kind == 1:
        return _text(dice.choice(("cpu", "ema", "a.b", "fc", "\ud800", "x" * 300, "")))
    if kind == 2:
        return b"c" + dice.choice(_NAMES).replace(" ", "\n").encode() + b"\n"
    if kind < 6:
        return _tensor(dice)
    if kind == 6:
        return b"".join((b"](", *inside, b"e")) if dice.random() < 0.5 else b"".join((b"(", *inside, b"t"))
    if kind == 7:
        called = b"c" + dice.choice(_NAMES).replace(" ", "\n").encode() + b"\n("
        return called + b"".join(inside) + b"tR" + (_value(dice, depth + 1) + b"b" if dice.random() < 0.5 else b"")
    own = [*state()]
    pairs = []
    for each in inside:
        pairs += [
            _text(dice.choice((dice.choice(_KEYS), dice.choice(own), dice.choice(_KEYS) + "." + dice.choice(own)))),
            each,
        ]
    start = b"ccollections\nOrderedDict\n)R(" if kind == 8 else b"}("
    return start + b"".join(pairs) + b"u"


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def _tensor(dice: random.Random) -> bytes:
    """The call that makes a tensor of a storage, with any numbers at its places."""
    few = [dice.choice((0, 1, 2, 3, 4, 8, 16, 1 << 20, 1 << 40)) for _ in range(6)]
    if dice.random() < 0.7:
        shape = dice.choice(((), (1,), (3,), (4, 2), (2, 8), (16,)))
        steps = [1] * len(shape)
        size = b"(" + b"".join(map(_integer, shape)) + b"t"
        stride = b"(" + b"".join(map(_integer, steps)) + b"t"
        return _rebuilt(size, stride, 16, 0)
    size = b"(" + b"".join(_integer(each) for each in few[: dice.randrange(4)]) + b"t"
    stride = b"(" + b"".join(_integer(each) for each in few[: dice.randrange(4)]) + b"t"
    return _rebuilt(size, stride, few[4], few[5])


def _rebuilt(size: bytes, stride: bytes, count: int, offset: int) -> bytes:
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu" + _integer(count) + b"tQ"
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _integer(offset) + size + stride + hooks + b"tR"


def _integer(number: int) -> bytes:
    return b"\x8a\x08" + number.to_bytes(8, "little")


_KEYS = (
    *("state_dict", "model", "module", "ema", "shadow_params", "optimizer", "callbacks", "teacher", "_modules"),
    *("_parameters", "_buffers", "fc.weight", "fc.bias", "fc.0.weight", "epoch", "current_model_state", "n_averaged"),
)


def made(number: int, seed: int) -> tuple[bytes, str]:
    """The file of that number, and how its name ends."""
    dice = random.Random(f"{seed} {number}")
    whole = dice.choice(seeds())
    kind = dice.randrange(10)
    if kind < 4 and whole.startswith(b"PK"):
        return repacked(whole, dice), ".pth"
    if kind < 7:
        return mutated(whole, dice), dice.choice((".pth", ".safetensors", ".ckpt"))
    if kind == 7:
        header = json.dumps(_header(dice)).encode()
        return len(header).to_bytes(8, "little") + header + bytes(dice.choice((0, 8, 64))), ".safetensors"
    content = (program if dice.random() < 0.3 else document)(dice)
    if kind == 8 and dice.random() < 0.3:
        return content, ".pkl"
    numbers = bytes(dice.choice((0, 4, 64, 64, 64, 64)))
    return packed({"net/data.pkl": content, "net/data/0": numbers}), ".pth"


def _header(dice: random.Random) -> dict[str, Any]:
    """The header of a safetensors file with anything in it."""
    shape = [dice.choice((0, 1, 2, 1 << 20, 1 << 62)) for _ in range(dice.randrange(3))]
    start = dice.choice((0, 0, 4, -1, 1 << 62))
    entry: Any = {"dtype": dice.choice(("F32", "F32", "BOOL", "F4", "X")), "shape": shape}
    entry["data_offsets"] = [start, dice.choice((0, 8, 64, 1 << 40))]
    meta: Any = dice.choice(({"format": "pt"}, {}, [], {"zoo.names": "[]"}))
    return {"fc.bias": entry, "__metadata__": meta} if dice.random() < 0.8 else {"fc.bias": dice.choice((1, {}, []))}


def doors(number: int) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """The doors that a file is tried at: reading always, the dearer ones in turns."""
    yield "read_state_dict", lambda path: [touched(tensor) for tensor in read_state_dict(path).values()]
    if number % 16 == 1:
        yield "load_partial", lambda path: zoo.load_partial(zoo.get(NAME, weights=None, num_classes=3, seed=0), path)
    if number % 32 == 2:
        yield "get", lambda path: zoo.get(NAME, weights=path)
    if number % 256 == 3:
        yield "inspect", lambda path: describe(open_outline(path))
    if number % 4 == 0:
        yield "outline", lambda path: candidates(outline_of(path))


def touched(tensor: torch.Tensor) -> None:
    """Read every number, so that one that is not there ends the process."""
    if tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta:
        tensor.clone(memory_format=torch.contiguous_format)


def tried(path: Path, number: int) -> Iterator[str]:
    """What goes wrong with a file at its doors, a line each."""
    for door, work in doors(number):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                work(path)
            except ZooError:
                continue
            except Exception as error:  # noqa: BLE001 - that is what is looked for
                where = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{Path(where.filename).name}:{where.lineno}"
                yield f"{number}: {door}: {type(error).__name__}: {error!s:.160} at {place}"


@dataclass
class Outcome:
    """What came of some files.

    Attributes:
        files: How many were tried.
        faults: What went wrong, a line each.
    """

    files: int = 0
    faults: list[str] = field(default_factory=list)


def run(numbers: range, seed: int, folder: Path) -> Outcome:
    """Try files in child processes, one after another; a new child follows one that a file has ended."""
    outcome = Outcome()
    seeds()
    at = numbers.start
    while at < numbers.stop:
        stop = min(at + BLOCK, numbers.stop)
        at = _child(range(at, stop), seed, folder, outcome)
        sys.stderr.write(f"{outcome.files} files, {len(outcome.faults)} faults\n")
    return outcome


def _child(numbers: range, seed: int, folder: Path, outcome: Outcome) -> int:
    """The number that comes next."""
    board = mmap.mmap(-1, 8)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        code = 1
        with contextlib.suppress(BaseException), os.fdopen(writer, "w") as said:
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            code = _work(numbers, seed, folder / f"{os.getpid()}", board, said)
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as said:
        outcome.faults += said.read().splitlines()
    _, status = os.waitpid(child, 0)
    last = int.from_bytes(board[:8], "little")
    if status == 0:
        outcome.files += len(numbers)
        return numbers.stop
    outcome.files += last + 1 - numbers.start
    outcome.faults.append(f"{last}: the process ended with {os.waitstatus_to_exitcode(status)}")
    return last + 1


def _work(numbers: range, seed: int, base: Path, board: mmap.mmap, said: Any) -> int:
    torch.set_num_threads(1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    longest = 0
    for number in numbers:
        board[:8] = number.to_bytes(8, "little")
        data, end = made(number, seed)
        path = base.with_suffix(end)
        path.write_bytes(data)
        signal.setitimer(signal.ITIMER_PROF, LONGEST)
        for fault in tried(path, number):
            said.write(f"{fault}\n")
            said.flush()
        signal.setitimer(signal.ITIMER_PROF, 0)
        path.unlink()
        longest = max(longest, len(data))
        if number % TOGETHER == 0 or number == numbers[-1]:
            now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
            if now - peak > ROOM + 2 * longest and number > numbers.start + 300:  # imports and models come first
                said.write(f"{number}: up to here {now - peak >> 20} MB were taken for {longest} bytes at most\n")
            peak, longest = max(peak, now), 0
    return 0


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def main() -> None:
    """Try so many files, and say how many were tried and what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int, help="make this file again, and show what comes of it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if options.only is not None:
            data, end = made(options.only, options.seed)
            path = Path(name, "file").with_suffix(end)
            path.write_bytes(data)
            _say(f"{len(data)} bytes: {data[:2000]!r}", *tried(path, options.only))
            return
        started = time.monotonic()
        outcome = run(range(options.first, options.first + options.count), options.seed, Path(name))
    seconds = time.monotonic() - started
    _say(f"{outcome.files} files in {seconds:.0f} s, {len(outcome.faults)} faults", *outcome.faults)
    sys.exit(bool(outcome.faults))


if __name__ == "__main__":
    main()

"""Checkpoints are read as data, without torch's unpickler: what is more than data stays inert."""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime as dt
import enum
import pathlib
import pickle
import struct
import warnings
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from zoo_core.errors import Unreadable
from zoo_core.weights.checkpoint import read
from zoo_core.weights.checkpoint.unsupported import unsupported_kind
from zoo_core.weights.formats.plain_pickle import Foreign, Name, NotPlain, Unpickler
from zoo_core.weights.formats.rebuild_tensors import DTYPES
from zoo_core.weights.formats.torch_zip import read_plain


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.pth"


def read_back(path):
    with zipfile.ZipFile(path) as archive:
        return read_plain(path, archive)[0]


def same(found, expected):
    """Whether two contents are equal down to the layout of each tensor and the type of each container."""
    if type(found) is not type(expected):
        return False
    if isinstance(found, torch.Tensor):
        alike = (found.dtype, found.shape, found.stride()) == (expected.dtype, expected.shape, expected.stride())
        return alike and torch.equal(found, expected)
    if isinstance(found, dict):
        return list(found) == list(expected) and all(same(found[key], expected[key]) for key in found)
    if isinstance(found, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    return found == expected


@st.composite
def tensors(draw):
    """Tensors of every dtype, some of them views of another, and of any layout."""
    dtype = draw(st.sampled_from([kind for name, kind in DTYPES.items() if not name.startswith("Q")]))
    shape = draw(st.lists(st.integers(0, 3), max_size=4))
    whole = torch.arange(1 + sum(shape), dtype=torch.float32).repeat(draw(st.integers(1, 3)))
    values = torch.zeros(shape) + whole[: shape[-1]] if shape else whole[0]
    tensor = values.to(dtype)
    order = draw(st.permutations(range(tensor.dim())))
    return tensor.permute(order)[draw(st.sampled_from([..., slice(1, None)])) if tensor.dim() else ...]


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(max_size=300), tensors()
)
contents = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=5) | st.integers(0, 9), inner, max_size=4),
        st.dictionaries(st.text(max_size=5), inner, max_size=4).map(collections.OrderedDict),
    ),
    max_leaves=12,
)


@given(content=contents)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_plain_data_comes_back_as_torch_reads_it(content, path):
    torch.save(content, path)
    assert same(read_back(path), torch.load(path, weights_only=True))


def test_the_state_dict_of_a_model_comes_back_with_its_metadata(path):
    state = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last).state_dict()
    torch.save(state, path)
    found = read_back(path)
    assert same(found, state)
    assert found._metadata == state._metadata


def test_tensors_that_share_their_memory_share_it_again(path):
    base = torch.arange(12.0)
    torch.save({"all": base, "odd": base[1::2], "tied": base}, path)
    found = read_back(path)
    found["all"][1] = 99.0
    assert found["odd"][0] == 99.0
    assert found["tied"][1] == 99.0


def test_writing_to_a_tensor_leaves_the_file_as_it_was(path):
    torch.save({"a": torch.zeros(4)}, path)
    before = path.read_bytes()
    read_back(path)["a"].fill_(7)
    assert path.read_bytes() == before


@pytest.mark.parametrize("folder", ["archive", "net", "a.b"])
def test_the_folder_in_the_archive_may_have_any_name(path, folder):
    torch.save({"a": torch.ones(2)}, path)
    packed(path, {f"{folder}/{name.partition('/')[2]}": data for name, data in members(path).items()})
    assert same(read_back(path), {"a": torch.ones(2)})


def test_no_unpickler_of_torch_is_asked(path, monkeypatch):
    torch.save({"state_dict": {"module.fc.bias": torch.zeros(2)}, "epoch": 3}, path)
    monkeypatch.setattr(torch, "load", None)
    assert same(read.read_state_dict(path), {"fc.bias": torch.zeros(2)})


class Colour(enum.Enum):
    RED = 1


MORE_THAN_DATA = {
    "a number of numpy": np.float64(3),
    "an array of objects of numpy": np.array([None, "a"], dtype=object),
    "a module": nn.Linear(1, 1),
    "a function": print,
    "a class": dict,
    "a namespace": argparse.Namespace(lr=0.1, path=pathlib.Path("runs")),
    "an enumeration": Colour.RED,
    "a date": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    "a device": torch.device("cpu"),
    "a counter": collections.Counter("ab"),
}


INERT = {"zoo_core.weights.formats.plain_pickle", "zoo_core.weights.formats.outline", "builtins"}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("content", MORE_THAN_DATA.values(), ids=list(MORE_THAN_DATA))
def test_what_only_code_could_build_stays_inert_beside_the_tensors(path, content, zipped, protocol):
    torch.save(
        {"args": content, "state_dict": {"a": torch.ones(2)}},
        path,
        _use_new_zipfile_serialization=zipped,
        pickle_protocol=protocol,
    )
    assert same(read.read_state_dict(path), {"a": torch.ones(2)})
    assert type(read.read_whole(path)[0]["args"]).__module__ in INERT


@pytest.mark.parametrize(
    "tensor",
    [
        nn.Parameter(torch.ones(2)),
        torch.ones(2, requires_grad=True),
        torch.ones(2).to(torch.float8_e4m3fn),
        torch.arange(3).to(torch.uint16),
        torch.ones(2, dtype=torch.complex64),
    ],
    ids=["parameter", "gradient", "eight bits", "unsigned", "complex"],
)
def test_every_kind_of_numbers_is_read(path, tensor):
    torch.save({"a": tensor}, path)
    found, expected = read_back(path)["a"], torch.load(path)["a"]
    assert found.dtype == expected.dtype
    assert torch.equal(found.view(torch.uint8), expected.detach().view(torch.uint8))


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.ones(2).to_sparse(), "sparse"),
        (torch.ones(2, device="meta"), "meta"),
    ],
    ids=["sparse", "meta"],
)
def test_a_tensor_that_is_no_plain_numbers_is_named(path, tensor, kind):
    torch.save({"fc.weight": tensor, "fc.bias": torch.ones(1)}, path)
    with pytest.raises(Unreadable, match=f"'fc.weight' in .* is a {kind}"):
        read.read_state_dict(path)


def test_a_shape_beyond_all_memory_is_refused_also_where_it_holds_no_number():
    beyond = torch.empty(0, 1 << 32).as_strided((0, 1 << 62, 4), (1, 1, 1))
    assert unsupported_kind(beyond) == "tensor of no numbers, and of a shape beyond all memory"
    assert not unsupported_kind(torch.empty(0, 1 << 32))


def test_quantised_tensors_come_back_whole_and_as_weights_are_named(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to give them up
        one = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
        many = torch.quantize_per_channel(torch.ones(2, 2), torch.ones(2), torch.zeros(2), 0, torch.quint8)
    torch.save({"one": one, "many": many}, path)
    found = read_back(path)
    assert torch.equal(found["one"].dequantize(), one.dequantize())
    assert torch.equal(found["many"].dequantize(), many.dequantize())
    with pytest.raises(Unreadable, match=r"'one' in .* is a quantised"):
        read.read_state_dict(path)


def test_the_state_of_a_whole_module_is_read_without_its_code(path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    net[0].register_buffer("scratch", torch.ones(1), persistent=False)
    torch.save({"model": net, "epoch": 3}, path)
    assert same(read.read_state_dict(path), {**net.state_dict()})


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(path, files, **how):
    with zipfile.ZipFile(path, "w", **how) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


@pytest.mark.parametrize(
    "change",
    [
        lambda files: files | {"net/byteorder": b"big"},
        lambda files: {name: data for name, data in files.items() if name != "net/data/0"},
        lambda files: files | {"net/data/0": files["net/data/0"][:-1]},
        lambda files: files | {"net/data/0": files["net/data/0"] + b"\0"},
        lambda files: {name: data for name, data in files.items() if name != "net/data.pkl"},
        lambda _: {},
    ],
    ids=["another byte order", "no numbers", "too few bytes", "too many bytes", "no pickle", "nothing"],
)
def test_an_archive_of_other_members_is_refused(path, change):
    torch.save({"a": torch.ones(2)}, path)
    packed(path, change(members(path)))
    with pytest.raises(NotPlain):
        read_back(path)


def test_a_compressed_archive_is_read(path):
    torch.save({"a": torch.ones(2)}, path)
    packed(path, members(path), compression=zipfile.ZIP_DEFLATED)
    assert same(read_back(path), {"a": torch.ones(2)})


@pytest.mark.parametrize("member", ["byteorder", "data.pkl", "data/0"])
def test_a_member_that_unpacks_to_far_more_than_its_size_is_refused_unread(path, member):
    torch.save({"a": torch.ones(2)}, path)
    packed(path, members(path) | {f"net/{member}": bytes(40 << 20)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(NotPlain):
        read_back(path)


def test_a_member_that_is_said_to_lie_beyond_the_end_is_refused(path):
    torch.save({"a": torch.ones(2)}, path)
    data = bytearray(path.read_bytes())
    name = data.index(b"net/data/0")  # the length of what else its local header says
    data[name - 2 : name] = b"\xff\xff"
    path.write_bytes(data)
    with pytest.raises(NotPlain):
        read_back(path)


class Storage:
    """Pickles as the persistent id of a storage."""

    def __init__(self, *said):
        self.said = said


class Pickler(pickle._Pickler):
    """Writes what ``torch.save`` would, and what it never would."""

    def persistent_id(self, obj):
        return obj.said if isinstance(obj, Storage) else None


class Tensor:
    """Pickles as a tensor of that storage."""

    def __init__(self, *given):
        self.given = given

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.given


FOUR = Storage("storage", torch.FloatStorage, "0", "cpu", 4)
NO_HOOKS = collections.OrderedDict()


def crafted(path, content):
    """An archive of that pickle and four numbers."""
    with (path.parent / "data.pkl").open("wb") as file:
        Pickler(file, protocol=2).dump(content)
    numbers = torch.arange(4.0).numpy().tobytes()
    packed(path, {"net/data.pkl": (path.parent / "data.pkl").read_bytes(), "net/data/0": numbers})
    return path


def test_what_is_crafted_well_is_read(path):
    found = read_back(crafted(path, Tensor(FOUR, 1, (3,), (1,), False, NO_HOOKS)))
    assert torch.equal(found, torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.parametrize(
    "content",
    [
        Tensor(FOUR, 2, (3,), (1,), False, NO_HOOKS),
        Tensor(FOUR, 0, (2, 2), (3, 2), False, NO_HOOKS),
        Tensor(FOUR, -1, (2,), (1,), False, NO_HOOKS),
        Tensor(FOUR, 3, (2,), (-1,), False, NO_HOOKS),
        Tensor(FOUR, 0, (-2,), (1,), False, NO_HOOKS),
        Tensor(FOUR, 0, (2,), (), False, NO_HOOKS),
        Tensor(FOUR, 0, (2**70,), (0,), False, NO_HOOKS),
        Tensor(FOUR, 0, (True,), (1,), False, NO_HOOKS),
        Tensor(FOUR, 0, [2], [1], False, NO_HOOKS),
        Tensor(FOUR, 0, (2,), (1,), False, {"a": 1}),
        Tensor(FOUR, 0, (2,), (1,), False, NO_HOOKS, {"conj": True}),
        Tensor("storage", 0, (2,), (1,), False, NO_HOOKS),
        Tensor(Storage("storage", torch.FloatStorage, "0", "cpu", 5), 0, (5,), (1,), False, NO_HOOKS),
        Tensor(Storage("storage", torch.FloatStorage, "0", "cpu", -4), 0, (1,), (1,), False, NO_HOOKS),
        Tensor(Storage("storage", torch.DoubleStorage, "0", "cpu", 4), 0, (4,), (1,), False, NO_HOOKS),
        Tensor(Storage("storage", "torch.FloatStorage", "0", "cpu", 4), 0, (4,), (1,), False, NO_HOOKS),
        Tensor(Storage("storage", torch.FloatStorage, "../data.pkl", "cpu", 4), 0, (4,), (1,), False, NO_HOOKS),
        Tensor(Storage("module", torch.FloatStorage, "0", "cpu", 4), 0, (4,), (1,), False, NO_HOOKS),
        Storage("storage"),
    ],
)
def test_a_tensor_that_is_not_in_its_storage_is_none(path, content):
    with pytest.raises(NotPlain):
        read_back(crafted(path, content))


DICT = b"ccollections\nOrderedDict\n"


@pytest.mark.parametrize(
    "body",
    [
        DICT + b"X\x01\0\0\0a\x85R.",
        DICT + b"X\x01\0\0\0aK\x01s.",
        b"]X\x01\0\0\0aK\x01s.",
        b"}K\x01a.",
        b"}}K\x01s.",
        b"})\x85\x85K\x01s.",
        b"K\x01Q.",
        b"(K\x01.",
        b"h\x07.",
        b"t.",
        b"\x85.",
        b".",
        b"",
        b"X\xff\xff\xff\x7fa.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"}(K\x01u.",
        b"(ios\nsystem\n.",
        b"\x97.",
        b")" + b"\x85" * 400_000 + b".",
        b"]" * 400_000 + b"a" * 399_999 + b".",
        b"]q\0h\0a.",
        b"\x8b\0\1\0\0" + b"1" * 256 + b".",
    ],
    ids=lambda body: repr(body[:30]),
)
def test_a_pickle_that_is_broken_or_beyond_a_limit_is_no_plain_data(path, body):
    packed(path, {"net/data.pkl": b"\x80\x02" + body})
    with pytest.raises(NotPlain):
        read_back(path)


@pytest.mark.parametrize(
    "body",
    [
        b"cos\nsystem\nX\x02\0\0\0ls\x85R.",
        b"cposix\nsystem\n)R.",
        b"cos\nsystem\n)\x81}X\x04\0\0\0move}sb.",
        b"cos\nsystem\n)R)R.",
        b"cos\nsystem\n.",
    ],
    ids=repr,
)
def test_a_call_is_a_placeholder_and_a_name_a_string(path, body):
    packed(path, {"net/data.pkl": b"\x80\x02" + body})
    assert type(read_back(path)) in (Foreign, Name)


@pytest.mark.parametrize("put", [b"\x94" * 200_000, b"".join(b"r" + n.to_bytes(4, "little") for n in range(200_000))])
def test_places_that_a_pickle_remembers_are_charged_for(put):
    with pytest.raises(NotPlain, match="more objects than a file of its size"):
        Unpickler(b"\x80\x04N" + put + b".").load()


def test_a_place_far_off_takes_no_memory():
    body = b"\x80\x02K\x01r" + struct.pack("<I", 2**32 - 1) + b"0"
    with pytest.raises(NotPlain):
        Unpickler(body).load()
    assert Unpickler(body[:-1] + b".").load() == 1


def test_lists_within_lists_many_times_over_are_read_once():
    nested = []
    for _ in range(150):
        nested = [nested, nested]
    assert Unpickler(pickle.dumps(nested, protocol=2)).load()[0][1] is not None


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_broken_file_is_never_more_than_not_plain(path, data):
    torch.save({"a": torch.ones(2), "b": [1, "c", 2.0]}, path)
    files = members(path)
    pickled = bytearray(files["net/data.pkl"])
    for _ in range(data.draw(st.integers(1, 3))):
        pickled[data.draw(st.integers(0, len(pickled) - 1))] = data.draw(st.integers(0, 255))
    packed(path, files | {"net/data.pkl": bytes(pickled[: data.draw(st.integers(1, len(pickled)))])})
    with contextlib.suppress(NotPlain):
        read_back(path)
    with contextlib.suppress(Unreadable):
        read.read_state_dict(path)


def test_views_that_are_conjugated_or_negated_have_their_values(path):
    numbers = torch.complex(torch.arange(4.0), torch.arange(1.0, 5.0))
    torch.save({"conj": numbers.conj(), "neg": numbers.clone().conj().imag}, path)
    expected = torch.load(path, weights_only=True)
    found = read_back(path)
    assert all(torch.equal(found[name], each) for name, each in expected.items())
    assert not found["conj"].is_conj()
    assert not found["neg"].is_neg()

"""Weights as arrays of numpy in pickles: of detectron2, of Paddle, of any ``pickle.dump``; read as data."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

import zoo_core as zoo
from zoo_core.errors import Unreadable
from zoo_core.weights.checkpoint.read import read_state_dict
from zoo_core.weights.formats.plain_pickle import NotPlain, Unpickler


@pytest.fixture(scope="module")
def net():
    return zoo.get("tiny/glyphnet", weights=None, num_classes=9, seed=0).eval()


@pytest.fixture(scope="module")
def arrays(net):
    return {name: tensor.numpy() for name, tensor in net.state_dict().items()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pkl"


def same(path, net):
    loaded, x = zoo.get("tiny/glyphnet", weights=path).eval(), torch.rand(2, 1, 32, 32)
    return torch.equal(loaded(x), net(x))


PROTOCOLS = pytest.mark.parametrize("protocol", [2, 3, 4, 5])


@PROTOCOLS
@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        lambda arrays: {"model": arrays, "__author__": "me", "matching_heuristics": True},
        lambda arrays: {**arrays, "StructuredToParameterName@@": {name: name for name in arrays}},
        lambda arrays: {"state_dict": arrays, "epoch": np.int64(3), "best": np.float64(0.5)},
    ],
    ids=["bare", "detectron2", "paddle", "with numbers of numpy"],
)
def test_arrays_in_a_pickle_are_tensors(wrap, protocol, arrays, net, path):
    path.write_bytes(pickle.dumps(wrap(arrays), protocol=protocol))
    assert same(path, net)


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 5}])
def test_arrays_in_a_file_of_torch_are_tensors(options, arrays, net, path):
    torch.save({"state_dict": arrays}, path, **options)
    assert same(path, net)


@PROTOCOLS
def test_tensors_in_a_plain_pickle_are_tensors(protocol, net, path):
    path.write_bytes(pickle.dumps(net.state_dict(), protocol=protocol))
    assert same(path, net)


@PROTOCOLS
@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(6, dtype="f4").reshape(2, 3)),
        np.arange(24, dtype="f4").reshape(2, 3, 4).transpose(2, 0, 1),
        np.arange(6, dtype="f4").reshape(2, 3)[:, ::2],
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.arange(6, dtype=">i2"),
        np.array([1 + 2j, 3], dtype=">c8"),
        np.array([True, False]),
        np.array(3.5, dtype="f8"),
        np.zeros((0, 3), dtype="f4"),
        np.arange(3, dtype="f2"),
        np.arange(3, dtype="u1"),
        np.array([[7]], dtype="u1"),
    ],
    ids=lambda array: f"{array.dtype.str}{list(array.shape)}",
)
def test_an_array_of_any_layout_is_what_numpy_reads(array, protocol, path):
    path.write_bytes(pickle.dumps({"a": array, "again": array}, protocol=protocol))
    result = read_state_dict(path)
    expected = torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))).reshape(array.shape))
    assert torch.equal(result["a"], expected)
    assert result["a"].dtype == expected.dtype
    assert torch.equal(result["again"], expected)
    result["a"].add_(1) if array.dtype != bool else None  # in memory of its own


@PROTOCOLS
@pytest.mark.parametrize("kind", ["object", "<U3", "M8[s]"])
def test_an_array_of_something_else_is_named(kind, protocol, arrays, path):
    path.write_bytes(pickle.dumps({**arrays, "fc.weight": np.zeros((2, 2)).astype(kind)}, protocol=protocol))
    with pytest.raises(Unreadable, match=r"'fc.weight'(.|\n)*numpy array of something else than numbers"):
        read_state_dict(path)


def test_numpy_is_not_imported(arrays, path):
    path.write_bytes(pickle.dumps(arrays, protocol=4))
    program = "import sys; sys.modules['numpy'] = None\n" + "\n".join(
        (
            "from zoo_core.weights.formats.numpy_arrays import numpy_calls",
            "from zoo_core.weights.formats.plain_pickle import Unpickler",
            f"data = open({str(path)!r}, 'rb').read()",
            "calls = numpy_calls(lambda numbers: numbers.shape, str)",
            "read = Unpickler(data, calls=calls, budget=4 * len(data)).load()",
            "assert read['fc.weight'] == (9, 64), read['fc.weight']",
        )
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_says_another_shape_than_its_numbers_is_broken(path):
    data = pickle.dumps({"a": np.zeros(6, dtype="f4")}, protocol=4).replace(b"K\x06\x85", b"K\x07\x85")
    path.write_bytes(data)
    with pytest.raises(Unreadable, match="more or fewer numbers"):
        read_state_dict(path)


def test_code_beside_arrays_is_not_run(arrays, path):
    class Evil:
        def __reduce__(self):
            return (path.with_suffix(".run").touch, ())

    path.write_bytes(pickle.dumps({**arrays, "extra": Evil()}, protocol=4))
    with pytest.raises(Unreadable, match="not run"):
        read_state_dict(path)
    assert not path.with_suffix(".run").exists()


def test_a_text_that_is_encoded_often_takes_no_memory():
    text = b"X" + (1 << 20).to_bytes(4, "little") + b"a" * (1 << 20)
    once = b"h\x00h\x01X\x06\x00\x00\x00latin1\x86R"
    program = b"\x80\x02c_codecs\nencode\nq\x00" + text + b"q\x01]" + b"(" + 1000 * once + b"e."
    with pytest.raises(NotPlain, match="more objects"):
        Unpickler(program, budget=len(program)).load()


@pytest.mark.parametrize("number", [0.5, np.float32(0.5), [0.5]], ids=repr)
def test_a_number_in_the_place_of_a_tensor_is_its_value(number, path):
    net = zoo.get("tiny/glyphnet", weights=None, num_classes=1, seed=0).eval()
    torch.save({**net.state_dict(), "fc.bias": number, "epoch": 3}, path)
    assert zoo.get("tiny/glyphnet", weights=path).fc.bias.tolist() == [0.5]
    receipt = zoo.load_partial(zoo.get("tiny/glyphnet", weights=None, num_classes=1), path)
    assert receipt.tensors["fc.bias"] == "loaded"


def test_counters_that_are_numbers_are_counted_on(net, path):
    state = {
        name: each.item() if name.endswith("num_batches_tracked") else each for name, each in net.state_dict().items()
    }
    torch.save({name: 7 if isinstance(each, int) else each for name, each in state.items()}, path)
    assert zoo.get("tiny/glyphnet", weights=path).stem[1].num_batches_tracked == 7


@pytest.mark.parametrize("number", [1.5, [0.5] * 3])
def test_numbers_that_are_too_few_for_a_tensor_are_an_error(number, net, path):
    torch.save({**net.state_dict(), "fc.bias": number}, path)
    with pytest.raises(zoo.ZooError, match=r"fc\.bias"):
        zoo.get("tiny/glyphnet", weights=path)


def test_parameters_without_buffers_are_paired_in_order(net, path):
    torch.save({f"w{at}": each.detach() for at, each in enumerate(net.parameters())}, path)
    model = zoo.get("tiny/glyphnet", weights=None, num_classes=9, seed=1)
    receipt = zoo.load_partial(model, path, match="order", skip=())
    assert set(receipt.names("loaded")) == dict(model.named_parameters()).keys()
    assert all(map(torch.equal, model.parameters(), net.parameters()))
    assert "buffer" in receipt.notes["stem.1.running_mean"]

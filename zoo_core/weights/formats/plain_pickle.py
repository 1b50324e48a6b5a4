"""The part of the pickle language that state dicts are written in, read as data.

Here is no way to import or to call anything, nor to set an attribute but the metadata of a state dict: the two names
that a pickle of tensors has to have called are known, and one that asks for another is refused. The opcodes are those
that ``torch.save`` writes for dicts, lists, tuples, texts, numbers and tensors; the standard library's ``pickletools``
says what each does.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_DICT: Final = "collections.OrderedDict"
_TENSOR: Final = "torch._utils._rebuild_tensor_v2"
_METADATA: Final = {"_metadata"}
"""The attributes of a state dict: the versions of the modules that it is of."""
_STOP: Final = 0x2E


class NotPlain(Exception):
    """Something else than tensors and plain data."""


class Name(str):
    """What a pickle wants to be imported, such as ``"torch.FloatStorage"``; nobody does."""

    __slots__ = ()


class Storage(NamedTuple):
    """Numbers in the file, of which tensors are views."""

    numbers: Any
    dtype: Any
    length: int


class _Asking(tuple[object, ...]):
    """A tuple with one of these in it: part of the description of a tensor, and no plain data."""

    __slots__ = ()


_NOT_DATA: Final = frozenset({Name, Storage, _Asking})


class Unpickler:
    """Reads one pickle.

    Args:
        data: Its bytes.
        storage: Given what a persistent id holds: a word, a :class:`Name`, a key, a place and a number.
        tensor: Given the arguments of ``torch._utils._rebuild_tensor_v2``, of which the first came from ``storage``.

    Example:
        >>> import pickle
        >>> Unpickler(pickle.dumps({"epoch": 3, "lr": [0.1, None]}, protocol=2), print, print).load()
        {'epoch': 3, 'lr': [0.1, None]}
        >>> Unpickler(pickle.dumps({"now": print}, protocol=2), print, print).load()
        Traceback (most recent call last):
        zoo_core.weights.formats.plain_pickle.NotPlain
    """

    def __init__(self, data: bytes, storage: Callable[..., Storage], tensor: Callable[..., object]) -> None:
        self._data, self._storage, self._tensor = data, storage, tensor
        self._at = 0
        self._memo: dict[int, Any] = {}
        self._stack: list[Any] = []
        self._marks: list[int] = []
        """How high the stack was at each mark."""

    def load(self) -> Any:  # noqa: ANN401 - whatever was written
        """The content.

        Raises:
            NotPlain: It has opcodes or calls that plain data has not.
            Exception: It makes no sense; any that Python raises for wrong types, places and texts.
        """
        data, steps = self._data, self._steps()
        while (opcode := data[self._at]) != _STOP:
            self._at += 1
            step = steps.get(opcode)
            if step is None:
                raise NotPlain
            step()
        (content,) = self._plain(self._stack)
        require(not self._marks)
        return content

    def _steps(self) -> Mapping[int, Callable[[], object]]:
        """What each opcode does."""
        stack, memo, push, number = self._stack, self._memo, self._stack.append, self._number
        return {
            0x80: lambda: self._take(1),  # PROTO
            0x71: lambda: memo.update({number(1): stack[-1]}),  # BINPUT
            0x72: lambda: memo.update({number(4): stack[-1]}),  # LONG_BINPUT
            0x68: lambda: push(memo[number(1)]),  # BINGET
            0x6A: lambda: push(memo[number(4)]),  # LONG_BINGET
            0x28: lambda: self._marks.append(len(stack)),  # MARK
            0x29: lambda: push(()),  # EMPTY_TUPLE
            0x5D: lambda: push([]),  # EMPTY_LIST
            0x7D: lambda: push({}),  # EMPTY_DICT
            0x4E: lambda: push(None),  # NONE
            0x88: lambda: stack.append(True),  # NEWTRUE
            0x89: lambda: stack.append(False),  # NEWFALSE
            0x4B: lambda: push(number(1)),  # BININT1
            0x4D: lambda: push(number(2)),  # BININT2
            0x4A: lambda: push(int.from_bytes(self._take(4), "little", signed=True)),  # BININT
            0x8A: lambda: push(int.from_bytes(self._take(number(1)), "little", signed=True)),  # LONG1
            0x47: lambda: push(struct.unpack(">d", self._take(8))[0]),  # BINFLOAT
            0x58: lambda: push(self._take(number(4)).decode("utf-8", "surrogatepass")),  # BINUNICODE
            0x63: lambda: push(Name(f"{self._line()}.{self._line()}")),  # GLOBAL
            0x85: lambda: self._tuple(self._top(1)),  # TUPLE1
            0x86: lambda: self._tuple(self._top(2)),  # TUPLE2
            0x87: lambda: self._tuple(self._top(3)),  # TUPLE3
            0x74: lambda: self._tuple(self._to_mark()),  # TUPLE
            0x73: lambda: self._insert(self._top(2)),  # SETITEM
            0x75: lambda: self._insert(self._to_mark()),  # SETITEMS
            0x61: lambda: self._append(self._top(1)),  # APPEND
            0x65: lambda: self._append(self._to_mark()),  # APPENDS
            0x52: self._reduce,  # REDUCE
            0x62: self._build,  # BUILD
            0x51: lambda: push(self._storage(*self._asking(stack.pop()))),  # BINPERSID
        }

    def _take(self, count: int) -> bytes:
        """The next bytes. Beyond the end there are none, and no next opcode either."""
        at = self._at
        self._at = at + count
        return self._data[at : self._at]

    def _number(self, count: int) -> int:
        return int.from_bytes(self._take(count), "little")

    def _line(self) -> str:
        end = self._data.index(b"\n", self._at)
        line = self._data[self._at : end].decode("ascii")
        self._at = end + 1
        return line

    def _to_mark(self) -> list[Any]:
        """What lies on the last mark, which is taken off the stack."""
        return self._top(len(self._stack) - self._marks.pop())

    def _top(self, count: int) -> list[Any]:
        """What lies on top, which is taken off."""
        start = len(self._stack) - count
        require(start >= 0)
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _tuple(self, items: list[Any]) -> None:
        self._stack.append(tuple(items) if _NOT_DATA.isdisjoint(map(type, items)) else _Asking(items))

    def _insert(self, pairs: list[Any]) -> None:
        require(type(self._stack[-1]) in (dict, OrderedDict))
        self._stack[-1].update(zip(pairs[::2], self._plain(pairs)[1::2], strict=True))

    def _append(self, items: list[Any]) -> None:
        require(type(self._stack[-1]) is list)
        self._stack[-1].extend(self._plain(items))

    @staticmethod
    def _plain(items: list[Any]) -> list[Any]:
        """The same, in which nothing is asked for."""
        require(_NOT_DATA.isdisjoint(map(type, items)))
        return items

    @staticmethod
    def _asking(items: object) -> _Asking:
        """The same, which tell of a tensor."""
        require(type(items) is _Asking)
        return cast("_Asking", items)

    def _reduce(self) -> None:
        called, given = self._top(2)
        require(type(called) is Name)
        if called == _DICT and given == ():
            self._stack.append(OrderedDict())
        else:
            require(called == _TENSOR)
            self._stack.append(self._tensor(*self._asking(given)))

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        require(type(target) is OrderedDict and type(state) is dict and state.keys() == _METADATA)
        vars(target).update(state)


def require(plain: bool) -> None:  # noqa: FBT001 - it is the subject of the sentence
    """Raise :class:`NotPlain` unless it is."""
    if not plain:
        raise NotPlain

"""The pickle language read as data, in protocols 2 to 5.

Here is no way to import or to call anything. What a pickle would have imported is its name, a :class:`Name`; what it
would have built by calling that is a :class:`Foreign` with what it would have been given. The functions that make
tensors are known by name and come from :mod:`zoo_core.weights.formats.rebuild_tensors`. The standard library's
``pickletools`` says what each opcode does.

Everything is limited before the work: keys are strings, numbers and short tuples of them, so that no hash recurses;
nesting is bounded; and the memory that the objects take is charged for while they are made.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

_STOP: Final = 0x2E
_PROTOCOLS: Final = range(6)
_DEEPEST: Final = 200
_LONGEST_NUMBER: Final = 255
"""Bytes of an integer; Python takes quadratic time to print more."""
_FREE: Final = 40 << 20
"""Bytes that the objects of any file may take."""
_COST: Final = 64
"""Bytes that an opcode takes at most, as a rule; dearer ones are charged for by themselves."""
_ATOMS: Final = (str, int, float, bool, bytes, type(None))
_METADATA: Final = {"_metadata"}
"""The attributes of a state dict: the versions of the modules that it is of."""


class NotPlain(Exception):
    """A pickle that is not plain data: broken, with opcodes that data does not need, or beyond a limit."""


class Name(str):
    """A name that a plain pickle wants to import, such as ``"torch.FloatStorage"``: text, and never imported."""

    __slots__ = ()


class Foreign:
    """What a pickle would have built by running code, kept inert as plain data: all that the code would be given.

    Attributes:
        name: Dotted path of the class or function.
        arguments: What it would have been called with.
        state: What would have been put into its attributes.
        items: What would have been put into it by key, as into a dict.
        elements: What would have been appended to it, as to a list.

    Example:
        >>> import argparse, pickle
        >>> read = Unpickler(pickle.dumps(argparse.Namespace(lr=0.1), protocol=2)).load()
        >>> read, read.state
        (<argparse.Namespace>, {'lr': 0.1})
    """

    __slots__ = ("arguments", "elements", "items", "name", "state")

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()) -> None:
        self.name, self.arguments = name, arguments
        self.state: Any = None
        self.items: dict[Any, Any] = {}
        self.elements: list[Any] = []

    def __repr__(self) -> str:
        return f"<{self.name:.80}>"

    def parts(self) -> Iterator[Any]:
        """All that it holds."""
        yield from (self.arguments, self.state, self.items, self.elements)


class Later(Foreign):
    """What a pickle makes of a call and of the state that comes after it, as an array is; inert until then.

    Attributes:
        finish: The state to what is made.
        made: What was made.
    """

    __slots__ = ("finish", "made")

    def __init__(self, name: str, finish: Callable[[object], object]) -> None:
        super().__init__(name)
        self.finish = finish
        self.made: object = None


_HASHED: Final = (*_ATOMS, Foreign)


class Unpickler:
    """Reads one pickle as plain data: nothing in it is imported or called.

    Args:
        data: The bytes that it is in.
        at: Where it begins.
        calls: Functions that may be called, by the names that a pickle has for them.
        constants: Values that a name stands for, such as dtypes.
        persistent: Given what a persistent id holds; None where there can be none.
        budget: Bytes that the objects may take, beyond what is free for any file.

    Example:
        >>> import pickle
        >>> Unpickler(pickle.dumps({"epoch": 3, "lr": [0.1, None]}, protocol=2)).load()
        {'epoch': 3, 'lr': [0.1, None]}
        >>> Unpickler(pickle.dumps({"now": print}, protocol=4)).load()
        {'now': 'builtins.print'}
    """

    def __init__(
        self,
        data: Any,
        at: int = 0,
        *,
        calls: Mapping[str, Callable[..., object]] | None = None,
        constants: Mapping[str, object] | None = None,
        persistent: Callable[[object], object] | None = None,
        budget: int = 0,
    ) -> None:
        self._data, self.at = data, at
        self._calls = {**_CALLS, **(calls or {})}
        self._constants, self._persistent = constants or {}, persistent
        self._left = _FREE + budget
        self._memo: dict[int, Any] = {}
        self._stack: list[Any] = []
        self._marks: list[int] = []
        """How high the stack was at each mark."""

    def load(self) -> Any:
        """The content; :attr:`at` is after it then.

        Raises:
            NotPlain: It is no data, or beyond a limit.
            Exception: It makes no sense; any that Python raises for wrong types, places and strings.
        """
        data, step_of = self._data, self._steps().get
        end = len(data)
        while (opcode := data[self.at] if self.at < end else None) != _STOP:
            self.at += 1
            self._left -= _COST
            step = step_of(opcode)
            if step is None or self._left < 0:
                raise NotPlain(_beyond(opcode) if step is None else _TOO_MANY)
            step()
        self.at += 1
        (content,) = self._stack
        require(not self._marks)
        require(_is_shallow(content), f"it is nested in itself, or more than {_DEEPEST} deep")
        return content

    def _steps(self) -> Mapping[int | None, Callable[[], object]]:
        """What each opcode does."""
        # One table however long, since each of its lines is read beside that of pickletools.opcodes.
        stack, memo, push = self._stack, self._memo, self._stack.append
        byte, number, take = self._byte, self._number, self._take
        return {
            0x80: self._protocol,  # PROTO
            0x95: lambda: take(8),  # FRAME
            0x71: lambda: self._remember(byte()),  # BINPUT
            0x72: lambda: self._remember(number(4)),  # LONG_BINPUT
            0x94: lambda: self._remember(len(memo)),  # MEMOIZE
            0x68: lambda: push(_latest(memo[byte()])),  # BINGET
            0x6A: lambda: push(_latest(memo[number(4)])),  # LONG_BINGET
            0x28: lambda: self._marks.append(len(stack)),  # MARK
            0x30: lambda: self._top(1),  # POP
            0x31: self._to_mark,  # POP_MARK
            0x32: lambda: push(stack[-1]),  # DUP
            0x29: lambda: push(()),  # EMPTY_TUPLE
            0x5D: lambda: push([]),  # EMPTY_LIST
            0x7D: lambda: push({}),  # EMPTY_DICT
            0x8F: lambda: push(set()),  # EMPTY_SET
            0x4E: lambda: push(None),  # NONE
            0x88: lambda: stack.append(True),  # NEWTRUE
            0x89: lambda: stack.append(False),  # NEWFALSE
            0x4B: lambda: push(byte()),  # BININT1
            0x4D: lambda: push(number(2)),  # BININT2
            0x4A: lambda: push(int.from_bytes(take(4), "little", signed=True)),  # BININT
            0x8A: lambda: self._long(byte()),  # LONG1
            0x8B: lambda: self._long(number(4)),  # LONG4
            0x47: lambda: push(struct.unpack(">d", take(8))[0]),  # BINFLOAT
            0x8C: lambda: push(self._text(byte())),  # SHORT_BINUNICODE
            0x58: lambda: push(self._text(number(4))),  # BINUNICODE
            0x8D: lambda: push(self._text(number(8))),  # BINUNICODE8
            0x55: lambda: push(take(byte()).decode("latin-1")),  # SHORT_BINSTRING, of Python 2
            0x54: lambda: push(take(number(4)).decode("latin-1")),  # BINSTRING, of Python 2
            0x43: lambda: push(take(byte())),  # SHORT_BINBYTES
            0x42: lambda: push(take(number(4))),  # BINBYTES
            0x8E: lambda: push(take(number(8))),  # BINBYTES8
            0x96: lambda: push(take(number(8))),  # BYTEARRAY8
            0x63: lambda: self._global(self._line(), self._line()),  # GLOBAL
            0x93: lambda: self._global(*self._top(2)),  # STACK_GLOBAL
            0x85: lambda: push(tuple(self._top(1))),  # TUPLE1
            0x86: lambda: push(tuple(self._top(2))),  # TUPLE2
            0x87: lambda: push(tuple(self._top(3))),  # TUPLE3
            0x74: lambda: push(tuple(self._to_mark())),  # TUPLE
            0x91: lambda: push(frozenset(map(_as_key, self._to_mark()))),  # FROZENSET
            0x73: lambda: self._insert(self._top(2)),  # SETITEM
            0x75: lambda: self._insert(self._to_mark()),  # SETITEMS
            0x61: lambda: self._append(self._top(1)),  # APPEND
            0x65: lambda: self._append(self._to_mark()),  # APPENDS
            0x90: self._add,  # ADDITEMS
            0x52: lambda: self._call(*self._top(2)),  # REDUCE
            0x81: lambda: self._call(*self._top(2)),  # NEWOBJ
            0x92: self._call_with_keywords,  # NEWOBJ_EX
            0x62: self._build,  # BUILD
            0x51: self._refer,  # BINPERSID
        }

    def _remember(self, place: int) -> None:
        self._left -= 3 * _COST  # of a place in a dict, and its number
        self._memo[place] = self._stack[-1]

    def _protocol(self) -> None:
        number = self._byte()
        require(number in _PROTOCOLS, f"it is a pickle of protocol {number}")

    def _take(self, count: int) -> bytes:
        """The next bytes. Beyond the end there are none, and no next opcode either."""
        at = self.at
        self.at = at + count
        self._left -= min(count, len(self._data))
        require(self._left >= 0, _TOO_MANY)
        result: bytes = self._data[at : self.at]
        return result

    def _byte(self) -> int:
        self.at += 1
        result: int = self._data[self.at - 1]
        return result

    def _number(self, count: int) -> int:
        at = self.at
        self.at = at + count
        return int.from_bytes(self._data[at : self.at], "little")

    def _long(self, count: int) -> None:
        require(count <= _LONGEST_NUMBER, "it holds an integer of many digits")
        self._stack.append(int.from_bytes(self._take(count), "little", signed=True))

    def _text(self, count: int) -> str:
        return self._take(count).decode("utf-8", "surrogatepass")

    def _line(self) -> str:
        end = self._data.find(b"\n", self.at, self.at + 1000)
        require(end >= 0)
        line: str = self._data[self.at : end].decode("utf-8")
        self.at = end + 1
        return line

    def _global(self, module: object, name: object) -> None:
        require(isinstance(module, str) and isinstance(name, str))
        path = f"{module}.{name}"
        self._stack.append(self._constants[path] if path in self._constants else Name(path))

    def _to_mark(self) -> list[Any]:
        """What is on the last mark, which is taken off the stack."""
        return self._top(len(self._stack) - self._marks.pop())

    def _top(self, count: int) -> list[Any]:
        """What is on top, which is taken off."""
        start = len(self._stack) - count
        require(start >= 0)
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _insert(self, pairs: list[Any]) -> None:
        target = self._stack[-1]
        target = target.items if type(target) is Foreign else target
        require(type(target) in (dict, OrderedDict))
        self._left -= _COST * len(pairs)
        target.update(zip(map(_as_key, pairs[::2]), pairs[1::2], strict=True))

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        target = target.elements if type(target) is Foreign else target
        require(type(target) is list)
        target.extend(items)

    def _add(self) -> None:
        items, target = self._to_mark(), self._stack[-1]
        require(type(target) is set)
        self._left -= _COST * len(items)
        target.update(map(_as_key, items))

    def _call(self, called: object, arguments: object) -> None:
        require(type(arguments) is tuple)
        self._left -= 4 * _COST
        self._charge(arguments)  # type: ignore[arg-type]  # a tuple, as just required
        name = called if type(called) is Name else called.name if type(called) is Foreign else type(called).__name__
        known = self._calls.get(name) if type(called) is Name else None
        self._stack.append(known(*arguments) if known else Foreign(name, arguments))  # type: ignore[misc,arg-type]  # a tuple, as just required

    def _charge(self, values: tuple[Any, ...]) -> None:
        """Charge for what is copied, which memory holds once however often a pickle says it."""
        for each in values:
            if isinstance(each, (str, bytes)):
                self._left -= len(each)
        require(self._left >= 0, _TOO_MANY)

    def _call_with_keywords(self) -> None:
        called, arguments, keywords = self._top(3)
        self._call(called, (*arguments, keywords))

    def _build(self) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if type(target) is Later:
            self._charge(state if type(state) is tuple else ())
            target.made = self._stack[-1] = target.finish(state)
        elif type(target) is Foreign:
            target.state = state
        elif type(target) is OrderedDict and type(state) is dict and state.keys() == _METADATA:
            vars(target).update(state)
        else:  # the attributes of a dict of some class, or of a tensor: nothing that is looked at
            require(type(target) not in (Name, str, tuple))

    def _refer(self) -> None:
        require(self._persistent is not None)
        self._stack.append(self._persistent(self._stack.pop()))  # type: ignore[misc]  # as just required


def _latest(value: Any) -> Any:
    """What the reader of a plain pickle has made of an object since that was put into the memo."""
    return value.made if type(value) is Later and value.made is not None else value


def require(plain: bool, reason: str = "") -> None:  # noqa: FBT001 - it is the subject of the sentence
    """Raise :class:`NotPlain` unless what was read from a pickle is as plain data should be."""
    if not plain:
        raise NotPlain(reason)


def _as_key(key: Any) -> Any:
    """The key that a plain pickle has for a dict or set, when its hash takes no time to speak of.

    Raises:
        NotPlain: It is neither a string nor a number, a placeholder or a short tuple of these.
    """
    if type(key) is str:  # nearly all are
        return key
    is_flat = type(key) is tuple and len(key) <= _DEEPEST and all(isinstance(each, _ATOMS) for each in key)
    require(isinstance(key, _HASHED) or is_flat, f"a key in it is a {type(key).__name__}")
    return key


def _ordered(*pairs: Any) -> OrderedDict[Any, Any]:
    """An OrderedDict, read as data from the pickle language's call for it, with nothing or one list of pairs."""
    require(len(pairs) <= 1 and all(type(each) in (list, dict) for each in pairs))
    items = [item for each in pairs for item in (each.items() if type(each) is dict else each)]
    require(all(type(item) in (list, tuple) and len(item) == 2 for item in items))  # noqa: PLR2004 - a pair
    return OrderedDict((_as_key(key), value) for key, value in items)


def _defaults(*_: object) -> dict[Any, Any]:
    """The dict that stands for a defaultdict in a plain pickle."""
    return {}


def _set(*items: Any) -> set[Any]:
    """The set that a plain pickle calls for, from nothing or one list."""
    require(all(type(each) is list for each in items))
    return {_as_key(each) for some in items for each in some}


def _encode(text: object, encoding: object = "latin1") -> object:
    """Bytes, read as data from the call by which the pickle language writes them in protocol 2."""
    require(isinstance(text, str) and encoding == "latin1")
    return str(text).encode("latin1")


def _no_bytes(*content: object) -> bytes:
    """Empty bytes in a plain pickle, as Python 3 writes them in protocol 2."""
    require(not content)
    return b""


_CALLS: Final[dict[str, Callable[..., object]]] = {
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": _defaults,
    "__builtin__.set": _set,
    "builtins.set": _set,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _no_bytes,
    "builtins.bytes": _no_bytes,
}
"""What makes plain data."""


_TOO_MANY: Final = "it holds more objects than a file of its size may"


def _beyond(opcode: int | None) -> str:
    """Why an opcode cannot be read: plain data does not need it, or the pickle ends there."""
    return (
        "it ends in the middle: the file was cut off"
        if opcode is None
        else f"it has the opcode {opcode:#04x}, which plain data does not need"
    )


def parts_of(value: object) -> Iterator[Any]:
    """What a container of a plain pickle holds directly; nothing for all else."""
    if isinstance(value, dict):
        yield from value.values()
        yield from (key for key in value if type(key) is Foreign)
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value
    elif type(value) is Foreign:
        yield from value.parts()


def _is_shallow(content: object) -> bool:
    """Whether a plain pickle nests nothing too deeply or in itself; without recursion, each object once."""
    depth: dict[int, int] = {}
    trail: list[tuple[object, Iterator[Any], int]] = [(content, parts_of(content), 0)]
    on_trail = {id(content)}
    while trail:
        value, rest, deep = trail[-1]
        child = next((each for each in rest if isinstance(each, dict | list | tuple | set | frozenset | Foreign)), None)
        if child is None:
            trail.pop()
            on_trail.discard(id(value))
            depth[id(value)] = deep
            if trail:
                owner, others, known = trail.pop()
                trail.append((owner, others, max(known, deep + 1)))
            continue
        if id(child) in on_trail or len(trail) > _DEEPEST or len(trail) + depth.get(id(child), 0) > _DEEPEST:
            return False
        if id(child) in depth:
            trail[-1] = (value, rest, max(deep, depth[id(child)] + 1))
        else:
            trail.append((child, parts_of(child), 0))
            on_trail.add(id(child))
    return True

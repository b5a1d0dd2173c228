"""The stack machine of pickles, with plain containers only.

Python's unpickler hashes whatever a pickle uses as a key, for which nested tuples need exponential time, and allocates
whatever a pickle asks for. Here every instruction takes a fixed time and makes at most one object, and their number is
limited.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# The training checkpoint of BEiT-large has about 70,000 instructions in 3 MB.
MAX_INSTRUCTIONS = 1_000_000
MAX_PICKLE_BYTES = 64 * 2**20


class UnsafePickle(Exception):
    """The pickle is malformed or names something that is not allowed; the text gives the reason."""


class Opaque:
    """Stand-in for an object whose value is not needed."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "(an object)"


class Namespace(dict):
    """Stand-in for `argparse.Namespace`: its attributes as a dict."""


class Module(Namespace):
    """Stand-in for a PyTorch module: its attributes, `_parameters` and `_modules` among them, as a dict."""


@dataclass(frozen=True)
class Function:
    """A function that a pickle can call, or a class of which it can make objects."""

    call: Callable[..., Any]


class Machine:
    """Executes a pickle: `find(module, name)` and `find_persistent(reference)` give the objects outside it.

    Dicts keep the keys that are texts. Any other key becomes an `Opaque`, because its hash may take endless time. Every
    set becomes an `Opaque` too.
    """

    def __init__(self, find: Callable[[str, str], Any], find_persistent: Callable[[Any], Any]) -> None:
        self._find, self._find_persistent = find, find_persistent
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks under each mark
        self._memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """Return the object that `data` makes. Raises `UnsafePickle`, or other exceptions for malformed data."""
        if len(data) > MAX_PICKLE_BYTES:
            raise UnsafePickle(f"its pickle has {len(data)} bytes, more than the limit of {MAX_PICKLE_BYTES}")
        for count, (opcode, argument, _position) in enumerate(pickletools.genops(data)):
            if count >= MAX_INSTRUCTIONS:
                raise UnsafePickle(f"its pickle has more than the limit of {MAX_INSTRUCTIONS} instructions")
            name = opcode.name
            if name in LITERALS:
                self._stack.append(argument)
            elif name in CONSTANTS:
                self._stack.append(CONSTANTS[name]())
            elif name in TUPLE_SIZES:
                self._stack.append(tuple([self._stack.pop() for _ in range(TUPLE_SIZES[name])][::-1]))
            elif name not in IGNORED:
                self._execute(name, argument)
        if len(self._stack) != 1 or self._below:
            raise UnsafePickle("its pickle is malformed: it does not end with one object")
        return self._stack[0]

    def _execute(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "MARK":
                self._below.append(stack)
                self._stack = []
            case "POP" if stack:
                stack.pop()
            case "POP" | "POP_MARK":
                self._to_mark()
            case "DUP":
                stack.append(stack[-1])
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[int(argument)])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[int(argument)] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "APPEND":
                self._extend([stack.pop()])
            case "APPENDS":
                self._extend(self._to_mark())
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._update([key, value])
            case "SETITEMS":
                self._update(self._to_mark())
            case "ADDITEMS":
                self._to_mark()
            case "LIST":
                items = self._to_mark()
                self._stack.append(items)
            case "TUPLE":
                items = self._to_mark()
                self._stack.append(tuple(items))
            case "DICT":
                items = self._to_mark()
                self._stack.append({})
                self._update(items)
            case "FROZENSET":
                self._to_mark()
                self._stack.append(Opaque())
            case "GLOBAL":
                stack.append(self._find(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(self._find(str(module), str(attribute)))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_call(function, arguments))
            case "NEWOBJ_EX":
                _keywords, arguments, function = stack.pop(), stack.pop(), stack.pop()
                stack.append(_call(function, arguments))
            case "INST":
                items = self._to_mark()
                self._stack.append(_call(self._find(*argument.split(" ", 1)), tuple(items)))
            case "OBJ":
                function, *items = self._to_mark()
                self._stack.append(_call(function, tuple(items)))
            case "BUILD":
                _set_state(state=stack.pop(), target=stack[-1])
            case "BINPERSID":
                stack.append(self._find_persistent(stack.pop()))
            case "PERSID":
                stack.append(self._find_persistent(argument))
            case _:
                raise UnsafePickle(f"its pickle has the instruction {name}, which no weights need")

    def _to_mark(self) -> list[Any]:
        """Return the items above the topmost mark, and remove them and the mark."""
        items, self._stack = self._stack, self._below.pop()
        return items

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(items)
        elif not isinstance(self._stack[-1], Opaque):
            raise UnsafePickle("its pickle is malformed: it appends to something other than a list")

    def _update(self, items: list[Any]) -> None:
        """Store keys and values, which alternate in `items`."""
        if isinstance(self._stack[-1], dict):
            keys = (key if isinstance(key, str) else Opaque() for key in items[::2])
            self._stack[-1].update(zip(keys, items[1::2], strict=True))
        elif not isinstance(self._stack[-1], Opaque):
            raise UnsafePickle("its pickle is malformed: it sets items of something other than a dict")


# Instructions whose argument is the object.
LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": Opaque,
}
TUPLE_SIZES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
IGNORED = ("PROTO", "FRAME", "STOP")


def _call(function: Any, arguments: Any) -> Any:
    if not isinstance(function, Function) or not isinstance(arguments, tuple):
        raise UnsafePickle("its pickle is malformed: it calls something other than a function")
    return function.call(*arguments)


def _set_state(state: Any, target: Any) -> None:
    """Set the attributes of `target`: those of a `Namespace`; of dicts and opaque objects they are dropped."""
    if isinstance(target, Namespace) and isinstance(state, dict):
        target.update(state)
    elif not isinstance(target, (dict, Opaque)):
        raise UnsafePickle("it tries to change a tensor or a function")

"""The pickle inside a PyTorch file, read so that a hostile file executes nothing.

A pickle names the functions and classes that rebuild its objects. Here a name is looked up in `ALLOWED` and nowhere
else, and what stands there are stand-ins of this file: tensors become descriptions (`LazyTensor`), ordered dicts and
argparse namespaces plain dicts, and the few harmless classes that training scripts leave in their files (numpy scalars,
paths, dtypes, ...) become `Opaque`, which remembers nothing. Any other name is refused.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


class UnsafePickle(Exception):
    """The pickle asks for something that is not allowed, or contradicts itself; the text says what."""


class _Unchangeable:
    """A pickle may set any attribute of what it made, unless that refuses."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise UnsafePickle("it tries to change a tensor or a function")


@dataclass(frozen=True)
class Storage(_Unchangeable):
    """One block of numbers: zip entry `data/<key>`, `numel` numbers of `dtype`."""

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True)
class LazyTensor(_Unchangeable):
    """A tensor not read yet. `offset` and `stride` count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Namespace(dict):
    """Stands for `argparse.Namespace`: its attributes as a dict."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.update(state)


class _Dict(dict):
    """Stands for `OrderedDict`; attributes that a pickle sets on it (torch's `_metadata`) are dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


class Opaque:
    """Stands for any object whose value nobody needs."""

    __slots__ = ()

    def __new__(cls, *_arguments: Any, **_keywords: Any) -> Opaque:
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def add(self, value: Any) -> None:
        pass


class _Function(_Unchangeable):
    """A callable that a pickle can call."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


@dataclass(frozen=True)
class _StorageType(_Unchangeable):
    dtype: str


# Weights have at most four dimensions, and no size of theirs comes near this.
MAX_DIMENSIONS = 8
MAX_NUMBER = 2**40


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_rest: Any) -> LazyTensor:
    """`torch._utils._rebuild_tensor_v2`; what follows the stride concerns gradients."""
    whole = isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride)
    if not isinstance(storage, Storage) or not whole or len(shape) > MAX_DIMENSIONS:
        raise UnsafePickle("a tensor is described wrongly")
    if not all(type(number) is int and 0 <= number < MAX_NUMBER for number in (offset, *shape, *stride)):
        raise UnsafePickle("a tensor is described wrongly")
    return LazyTensor(storage, offset, shape, stride)


def _rebuild_parameter(tensor: Any, *_rest: Any) -> Any:
    """`torch._utils._rebuild_parameter`: a parameter is its tensor."""
    return tensor


STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}

_TORCH_DTYPES = (
    *("float16", "float32", "float64", "bfloat16", "half", "float", "double", "bool"),
    *("uint8", "int8", "int16", "int32", "int64"),
)

_OPAQUE = {
    "argparse": ("Action",),
    "builtins": ("set", "frozenset", "bytearray", "complex", "slice", "range"),
    "__builtin__": ("set", "frozenset", "bytearray", "complex", "slice", "range", "xrange"),
    "_codecs": ("encode",),
    "collections": ("defaultdict", "Counter", "deque"),
    "datetime": ("datetime", "date", "timedelta"),
    "numpy": ("dtype", "ndarray", "float64", "float32", "int64", "int32", "bool_"),
    "numpy.core.multiarray": ("scalar", "_reconstruct"),
    "numpy._core.multiarray": ("scalar", "_reconstruct"),
    "pathlib": ("Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath", "PureWindowsPath"),
    "torch": ("Size", "device", "Generator", *_TORCH_DTYPES),
}

ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Dict,
    ("argparse", "Namespace"): Namespace,
    ("types", "SimpleNamespace"): Namespace,
    ("torch._utils", "_rebuild_tensor"): _Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): _Function(_rebuild_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): _Function(_rebuild_parameter),
    **{("torch", name): _StorageType(dtype) for name, dtype in STORAGE_DTYPES.items()},
    **{(module, name): Opaque for module, names in _OPAQUE.items() for name in names},
}


class _Unpickler(pickle.Unpickler):
    """Looks names up in `ALLOWED` alone."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise UnsafePickle(
                f"it asks for '{module}.{name}', which is neither a tensor nor a plain container: nothing was executed"
            )
        return ALLOWED[module, name]

    def persistent_load(self, reference: Any) -> Storage:
        if not isinstance(reference, tuple) or len(reference) != 5 or reference[0] != "storage":
            raise UnsafePickle("it refers to something that is not a storage")
        _, kind, key, _location, numel = reference
        if not isinstance(kind, _StorageType) or not isinstance(key, str) or type(numel) is not int or numel < 0:
            raise UnsafePickle("it refers to a storage of an unknown kind")
        return Storage(key, kind.dtype, numel)


def load_pickle(data: bytes) -> Any:
    """The object that `data` describes, made of plain containers, `LazyTensor`, `Namespace` and `Opaque`.

    Raises `UnsafePickle` for everything else that a pickle can hold and for data that are no pickle.
    """
    try:
        _refuse_large_memo(data)
        return _Unpickler(io.BytesIO(data)).load()
    except UnsafePickle:
        raise
    except Exception as error:  # whatever a wrong pickle makes the unpickler trip over
        raise UnsafePickle(f"its pickle is malformed: {error}") from error


def _refuse_large_memo(data: bytes) -> None:
    """A pickle's memo is as large as the largest index in it says: a few bytes could ask for gigabytes."""
    for opcode, argument, _position in pickletools.genops(data):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(data):
            raise UnsafePickle("its pickle is malformed: it asks for too much memory")


def element_type(dtype: str) -> np.dtype:
    """NumPy's type for a storage type, bfloat16 as its 16 bits."""
    return np.dtype(np.uint16 if dtype == "bfloat16" else dtype)

"""The pickle inside a PyTorch file, read without executing anything that the file names.

A pickle names the functions and classes that rebuild its objects. Here the names in `ALLOWED` map to stand-ins, and any
other name is refused. Tensors become descriptions (`LazyTensor`), ordered dicts and namespaces plain dicts, and the
harmless classes that training scripts save (NumPy scalars, paths, dtypes) become `Opaque` objects without content.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class UnsafePickle(Exception):
    """The pickle is malformed or names something that is not allowed; the text gives the reason."""


class _Unchangeable:
    """Base of the objects whose attributes a pickle must not set."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise UnsafePickle("it tries to change a tensor or a function")


@dataclass(frozen=True)
class Storage(_Unchangeable):
    """One block of numbers: zip entry `data/<key>` with `numel` numbers of `dtype`."""

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True)
class LazyTensor(_Unchangeable):
    """A tensor that is not read yet. `offset` and `stride` count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Namespace(dict):
    """Stand-in for `argparse.Namespace`: its attributes as a dict."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.update(state)


class _Dict(dict):
    """Stand-in for `OrderedDict`; attributes that a pickle sets (torch's `_metadata`) are dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


class Opaque:
    """Stand-in for an object whose value is not needed."""

    __slots__ = ()

    def __new__(cls, *_arguments: Any, **_keywords: Any) -> Opaque:
        return object.__new__(cls)

    def _ignore(self, *_arguments: Any) -> None:
        pass

    __setstate__ = __setitem__ = append = extend = add = _ignore


class _Function(_Unchangeable):
    """A function that a pickle can call but not change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


@dataclass(frozen=True)
class _StorageType(_Unchangeable):
    dtype: str


# Weights have at most four dimensions, and their sizes are far below this.
MAX_DIMENSIONS = 8
MAX_NUMBER = 2**40


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_rest: Any) -> LazyTensor:
    """Stand-in for `torch._utils._rebuild_tensor_v2`; the arguments after the stride concern gradients."""
    if isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(stride, tuple):
        numbers = (offset, *shape, *stride)
        if len(shape) == len(stride) <= MAX_DIMENSIONS and all(type(n) is int and 0 <= n < MAX_NUMBER for n in numbers):
            return LazyTensor(storage, offset, shape, stride)
    raise UnsafePickle("a tensor has a malformed description")


def _rebuild_parameter(tensor: Any, *_rest: Any) -> Any:
    """Stand-in for `torch._utils._rebuild_parameter`: return the parameter's tensor."""
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

_OPAQUE = {
    "argparse": "Action",
    "builtins": "set frozenset bytearray complex slice range",
    "__builtin__": "set frozenset bytearray complex slice range xrange",
    "_codecs": "encode",
    "collections": "defaultdict Counter deque",
    "datetime": "datetime date timedelta",
    "numpy": "dtype ndarray float64 float32 int64 int32 bool_",
    "numpy.core.multiarray": "scalar _reconstruct",
    "numpy._core.multiarray": "scalar _reconstruct",
    "pathlib": "Path PosixPath PurePath PurePosixPath WindowsPath PureWindowsPath",
    "torch": "Size device Generator bool uint8 int8 int16 int32 int64 "
    "half float double bfloat16 float16 float32 float64",
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
    **{(module, name): Opaque for module, names in _OPAQUE.items() for name in names.split()},
}


class _Unpickler(pickle.Unpickler):
    """Unpickler that resolves the names in `ALLOWED` only."""

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
    """Return the object that `data` describes, made of plain containers, `LazyTensor`, `Namespace` and `Opaque`.

    Raises `UnsafePickle` for anything else that a pickle can contain, and for malformed data.
    """
    try:
        _refuse_large_memo(data)
        return _Unpickler(io.BytesIO(data)).load()
    except UnsafePickle:
        raise
    except Exception as error:  # the unpickler raises many types for malformed data
        raise UnsafePickle(f"its pickle is malformed: {error}") from error


def _refuse_large_memo(data: bytes) -> None:
    """Refuse a memo index beyond the data: the unpickler allocates up to it, so a few bytes could ask for gigabytes."""
    for opcode, argument, _position in pickletools.genops(data):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(data):
            raise UnsafePickle("its pickle is malformed: it asks for too much memory")

"""The pickle inside a PyTorch file, read without executing anything that the file names.

A pickle names the functions and classes that rebuild its objects. Here the names in `ALLOWED` map to stand-ins, and any
other name is refused. Tensors become descriptions (`LazyTensor`), ordered dicts, namespaces and modules plain dicts,
and the harmless classes that training scripts save (NumPy scalars, paths, dtypes) become `Opaque` objects without
content.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from src.weights.arrays import MAX_DIMENSIONS
from src.weights.pickle_machine import Function, Machine, Module, Namespace, Opaque, UnsafePickle


@dataclass(frozen=True)
class Storage:
    """One block of numbers: zip entry `data/<key>` with `numel` numbers of `dtype`."""

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is not read yet. `offset` and `stride` count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _StorageType:
    dtype: str


MAX_NUMBER = 2**40  # sizes of weights are far below this


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


def _ordered_dict() -> dict[Any, Any]:
    """Stand-in for `OrderedDict`; attributes that a pickle sets (torch's `_metadata`) are dropped."""
    return {}


def _namespace() -> Namespace:
    return Namespace()


def _module(*_arguments: Any) -> Module:
    return Module()


def _opaque(*_arguments: Any) -> Opaque:
    return Opaque()


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

# The modules in DALL-E's published files, which are pickled networks.
_MODULES = {
    "dall_e.encoder": "Encoder EncoderBlock",
    "dall_e.decoder": "Decoder DecoderBlock",
    "dall_e.utils": "Conv2d",
    "torch.nn.modules.activation": "ReLU",
    "torch.nn.modules.container": "Sequential",
    "torch.nn.modules.linear": "Identity",
    "torch.nn.modules.pooling": "MaxPool2d",
    "torch.nn.modules.upsampling": "Upsample",
}

ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Function(_ordered_dict),
    ("argparse", "Namespace"): Function(_namespace),
    ("types", "SimpleNamespace"): Function(_namespace),
    ("torch._utils", "_rebuild_tensor"): Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): Function(_rebuild_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): Function(_rebuild_parameter),
    **{("torch", name): _StorageType(dtype) for name, dtype in STORAGE_DTYPES.items()},
    **{(module, name): Function(_module) for module, names in _MODULES.items() for name in names.split()},
    **{(module, name): Function(_opaque) for module, names in _OPAQUE.items() for name in names.split()},
}


def load_pickle(data: bytes) -> Any:
    """Return the object that `data` describes, made of plain containers, `LazyTensor`, `Namespace` and `Opaque`.

    Raises `UnsafePickle` for anything else that a pickle can contain, and for malformed data.
    """
    try:
        return Machine(_find, _find_storage).run(data)
    except UnsafePickle:
        raise
    except Exception as error:  # malformed data raises many types
        raise UnsafePickle(f"its pickle is malformed: {error}") from error


def _find(module: str, name: str) -> Any:
    if (module, name) not in ALLOWED:
        raise UnsafePickle(
            f"it asks for '{module[:100]}.{name[:100]}', which is neither a tensor nor a plain container: nothing was "
            "executed"
        )
    return ALLOWED[module, name]


def _find_storage(reference: Any) -> Storage:
    if not isinstance(reference, tuple) or len(reference) != 5 or reference[0] != "storage":
        raise UnsafePickle("it refers to something that is not a storage")
    _, kind, key, _location, numel = reference
    known = isinstance(kind, _StorageType) and isinstance(key, str) and type(numel) is int
    if not known or not 0 <= numel < MAX_NUMBER:
        raise UnsafePickle("it refers to a storage of an unknown kind")
    return Storage(key, kind.dtype, numel)

"""PyTorch's `.pth` and `.bin` files (zip format, since PyTorch 1.6), read without PyTorch.

The file is an uncompressed zip archive: `<top>/data.pkl` is the pickle of the objects, `<top>/data/<key>` holds one
storage, and `<top>/byteorder` its byte order.
"""

import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError
from src.weights.arrays import bfloat16_to_float32
from src.weights.torch_pickle import LazyTensor, UnsafePickle, load_pickle

ZIP_START = b"PK"
# torch.serialization.MAGIC_NUMBER as a pickled integer: the start of the format before PyTorch 1.6
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

ReadTensor = Callable[[LazyTensor, str], np.ndarray]


def looks_like_torch(start: bytes) -> bool:
    """Return whether the first bytes of a file are those of a zip archive or of the format before PyTorch 1.6."""
    return start.startswith((ZIP_START, LEGACY_START))


@contextmanager
def open_torch_file(path: Path) -> Iterator[tuple[Any, ReadTensor]]:
    """Yield the objects of the file, with a `LazyTensor` per tensor, and a function (tensor, name) -> array.

    bfloat16 is converted to float32. Raises `UserError` for a truncated or damaged file, for the format before PyTorch
    1.6, and for a pickle that refers to anything other than tensors and plain containers.
    """
    with open(path, "rb") as file:
        if file.read(len(LEGACY_START)) == LEGACY_START:
            raise UserError(
                f"{path} has the format of PyTorch before 1.6: save it again with a newer PyTorch, "
                "torch.save(torch.load(FILE, map_location='cpu'), NEW_FILE)"
            )
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:
        raise _damaged(path, str(error)) from error
    with archive:
        top = _top_folder(path, archive)
        try:
            content = load_pickle(_read_entry(path, archive, f"{top}/data.pkl"))
        except UnsafePickle as error:
            raise UserError(f"{path} is refused: {error}") from error
        byte_order = f"{top}/byteorder"
        swap = byte_order in archive.namelist() and _read_entry(path, archive, byte_order) == b"big"

        def read_tensor(tensor: LazyTensor, name: str) -> np.ndarray:
            data = _read_entry(path, archive, f"{top}/data/{tensor.storage.key}", f"parameter '{name}': ")
            try:
                return _to_array(tensor, data, swap)
            except ValueError as error:
                raise UserError(
                    f"{path} is damaged (parameter '{name}' of shape {tensor.shape} {error}): download it again"
                ) from error

        yield content, read_tensor


def _top_folder(path: Path, archive: zipfile.ZipFile) -> str:
    for name in archive.namelist():
        if name.endswith("/data.pkl") and name.count("/") == 1:
            return name.removesuffix("/data.pkl")
    raise UserError(f"{path} is a zip archive, but not a PyTorch file: give a file written by torch.save")


def _read_entry(path: Path, archive: zipfile.ZipFile, name: str, context: str = "") -> bytes:
    """Return the bytes of an entry; errors begin with `context`."""
    try:
        if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:  # a small file could unpack to any size
            raise zipfile.BadZipFile(f"'{name}' is compressed")
        return archive.read(name)  # compares the CRC-32 of the entry
    except MemoryError:
        raise
    except Exception as error:  # zipfile raises a dozen types for damaged archives
        raise _damaged(path, f"{context}{error}") from error


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is truncated or damaged ({reason}): download or copy it again")


def _to_array(tensor: LazyTensor, data: bytes, swap: bool) -> np.ndarray:
    """Return the numbers of `tensor` from the bytes of its storage; `ValueError` where the two contradict."""
    storage = tensor.storage
    dtype = np.dtype(np.uint16 if storage.dtype == "bfloat16" else storage.dtype)
    if len(data) != storage.numel * dtype.itemsize:
        raise ValueError(f"has a storage of {storage.numel} numbers, but {len(data)} bytes are stored")
    count = math.prod(tensor.shape)
    if count == 0:
        return np.zeros(tensor.shape, dtype)
    last = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride))
    # a tensor with more elements than its storage repeats numbers: no weight does, and its size would be unlimited
    if last >= storage.numel or count > storage.numel:
        raise ValueError(f"does not fit into its storage of {storage.numel} numbers")
    numbers = np.frombuffer(data, dtype)[tensor.offset :]
    steps = tuple(step * dtype.itemsize for step in tensor.stride)
    array = np.array(np.lib.stride_tricks.as_strided(numbers, tensor.shape, steps, writeable=False), order="C")
    if swap:
        array = array.byteswap()
    return bfloat16_to_float32(array) if storage.dtype == "bfloat16" else array

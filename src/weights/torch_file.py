"""PyTorch's `.pth` and `.bin` files (zip format, since PyTorch 1.6), read without PyTorch.

The file is an uncompressed zip archive: `<top>/data.pkl` is the pickle of the objects, `<top>/data/<key>` holds one
storage, and `<top>/byteorder` its byte order.
"""

import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError
from src.weights.arrays import bfloat16_to_float32
from src.weights.pickle_machine import UnsafePickle
from src.weights.torch_pickle import LazyTensor, load_pickle

ZIP_START = b"PK"
# torch.serialization.MAGIC_NUMBER as a pickled integer: the start of the format before PyTorch 1.6
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

ReadTensors = Callable[[Mapping[str, LazyTensor]], Iterator[tuple[str, np.ndarray]]]

# Tensors of a file may share a storage, as tied weights do, and bfloat16 becomes float32. Beyond a multiple of the
# file's size the tensors repeat numbers, and a small file could ask for any amount of memory.
MAX_GROWTH = 4


def looks_like_torch(start: bytes) -> bool:
    """Return whether the first bytes of a file are those of a zip archive or of the format before PyTorch 1.6."""
    return start.startswith((ZIP_START, LEGACY_START))


@contextmanager
def open_torch_file(path: Path) -> Iterator[tuple[Any, ReadTensors]]:
    """Yield the objects of the file, with a `LazyTensor` per tensor, and a function that reads tensors.

    The function takes tensors by name and yields names and arrays in the order of the storages, each of which is read
    once. bfloat16 is converted to float32. Raises `UserError` for a truncated or damaged file, for tensors far larger
    than the file, for the format before PyTorch 1.6, and for a pickle that refers to anything other than tensors and
    plain containers.
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
        _check_entries(path, archive)
        top = _top_folder(path, archive)
        try:
            content = load_pickle(_read_entry(path, archive, f"{top}/data.pkl"))
        except UnsafePickle as error:
            raise UserError(f"{path} is refused: {error}") from error
        byte_order = f"{top}/byteorder"
        swap = byte_order in archive.namelist() and _read_entry(path, archive, byte_order) == b"big"

        def read_tensors(tensors: Mapping[str, LazyTensor]) -> Iterator[tuple[str, np.ndarray]]:
            _check_growth(path, tensors.values())
            data, key = b"", None
            for name, tensor in sorted(tensors.items(), key=lambda item: item[1].storage.key):
                if tensor.storage.key != key:
                    key, data = tensor.storage.key, b""  # frees the storage before, for the next to take its place
                    data = _read_entry(path, archive, f"{top}/data/{key}", f"parameter '{name}': ")
                try:
                    yield name, _to_array(tensor, data, swap)
                except ValueError as error:
                    raise UserError(
                        f"{path} is damaged (parameter '{name}' of shape {tensor.shape} {error}): download it again"
                    ) from error

        yield content, read_tensors


def _check_entries(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse an archive with a repeated name, or with entries that overlap or are larger than the file."""
    names = [entry.filename for entry in archive.infolist()]
    if len(names) != len(set(names)):
        raise _damaged(path, "its archive has an entry twice")
    stated, actual = sum(max(e.file_size, e.compress_size) for e in archive.infolist()), path.stat().st_size
    if stated > actual:
        raise _damaged(path, f"the entries of its archive have {stated} bytes, but the file has {actual}")


def _check_growth(path: Path, tensors: Iterable[LazyTensor]) -> None:
    needed = sum(math.prod(t.shape) * max(np.dtype(_stored_dtype(t)).itemsize, 4) for t in tensors)
    size = path.stat().st_size
    if needed > MAX_GROWTH * size:
        raise UserError(
            f"{path} has tensors of {needed} bytes in a file of {size} (they repeat the same numbers): save the state "
            "dict of one network"
        )


def _stored_dtype(tensor: LazyTensor) -> str:
    return "uint16" if tensor.storage.dtype == "bfloat16" else tensor.storage.dtype


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
    storage, dtype = tensor.storage, np.dtype(_stored_dtype(tensor))
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

"""PyTorch's `.pth`/`.bin` files (the zip form, written since PyTorch 1.6), read and written without PyTorch.

Such a file is an uncompressed zip archive: `<top>/data.pkl` is a pickle of the objects, `<top>/data/<key>` holds the
numbers of one storage, `<top>/byteorder` says in which order their bytes stand.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from src.errors import UserError
from src.weights.arrays import bfloat16_to_float32
from src.weights.torch_pickle import LazyTensor, UnsafePickle, element_type, load_pickle

ZIP_START = b"PK"
# torch.save's own number (torch.serialization.MAGIC_NUMBER) as it stands in the form before 1.6: a pickled integer
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

ReadTensor = Callable[[LazyTensor, str], np.ndarray]


def looks_like_torch(start: bytes) -> bool:
    """Whether a file's first bytes are those of a zip archive or of the older form."""
    return start.startswith((ZIP_START, LEGACY_START))


@contextmanager
def open_torch_file(path: Path) -> Iterator[tuple[Any, ReadTensor]]:
    """The objects of the file, tensors as `LazyTensor`, and a function (tensor, its name) -> array that reads one.

    bfloat16 is read as float32. Raises `UserError` for a file that is cut short, damaged, of the older form, or whose
    pickle asks for anything but tensors and plain containers.
    """
    with open(path, "rb") as file:
        if file.read(len(LEGACY_START)) == LEGACY_START:
            raise UserError(
                f"{path} is of the form that PyTorch wrote before 1.6: save it again with a newer PyTorch, "
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
                raise UserError(f"{path} is damaged: parameter '{name}' of shape {tensor.shape} {error}") from error

        yield content, read_tensor


def write_torch_file(file: BinaryIO, arrays: Mapping[str, np.ndarray], wrapper: str | None) -> None:
    """Write `arrays` (float32 or int64) as `torch.save` writes a state dict, under the key `wrapper` if given.

    `torch.load(..., weights_only=True)` reads it.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _write_entry(archive, "archive/data.pkl", _state_dict_pickle(arrays, wrapper))
        _write_entry(archive, "archive/byteorder", b"little")
        for key, array in enumerate(arrays.values()):
            _write_entry(archive, f"archive/data/{key}", np.ascontiguousarray(array).tobytes())
        _write_entry(archive, "archive/version", b"3\n")


def _top_folder(path: Path, archive: zipfile.ZipFile) -> str:
    for name in archive.namelist():
        if name.endswith("/data.pkl") and name.count("/") == 1:
            return name.removesuffix("/data.pkl")
    raise UserError(f"{path} is a zip archive, but no PyTorch file: give the file that torch.save wrote")


def _read_entry(path: Path, archive: zipfile.ZipFile, name: str, what: str = "") -> bytes:
    """The bytes of an entry; where they cannot be had, the error begins with `what` they are."""
    try:
        if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:  # a small file could unpack to any size
            raise zipfile.BadZipFile(f"'{name}' is compressed")
        return archive.read(name)  # compares the entry's CRC-32
    except MemoryError:
        raise
    except Exception as error:  # a damaged archive makes zipfile raise any of a dozen kinds
        raise _damaged(path, f"{what}{error}") from error


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is cut short or damaged ({reason}): download or copy it again")


def _to_array(tensor: LazyTensor, data: bytes, swap: bool) -> np.ndarray:
    """The numbers of `tensor` from its storage's bytes; `ValueError` where the two do not fit each other."""
    dtype = element_type(tensor.storage.dtype)
    if len(data) != tensor.storage.numel * dtype.itemsize:
        raise ValueError(f"belongs to {tensor.storage.numel} numbers, of which {len(data)} bytes are stored")
    count = math.prod(tensor.shape)
    if count == 0:
        return np.zeros(tensor.shape, dtype)
    last = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride))
    # more elements than numbers would be a tensor that repeats its numbers: no weight does, and it could be of any size
    if last >= tensor.storage.numel or count > tensor.storage.numel:
        raise ValueError(f"does not fit into the {tensor.storage.numel} numbers that are stored")
    numbers = np.frombuffer(data, dtype)[tensor.offset :]
    steps = tuple(step * dtype.itemsize for step in tensor.stride)
    array = np.ascontiguousarray(np.lib.stride_tricks.as_strided(numbers, tensor.shape, steps, writeable=False))
    array = array.reshape(tensor.shape)
    if swap:
        array = array.byteswap()
    return bfloat16_to_float32(array) if tensor.storage.dtype == "bfloat16" else array


def _write_entry(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    # a fixed date, so that the same weights give the same file
    archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), data)


def _state_dict_pickle(arrays: Mapping[str, np.ndarray], wrapper: str | None) -> bytes:
    """The pickle, opcode by opcode (protocol 2): Python's pickler would have to import torch to name its functions."""
    storages = {np.dtype(np.float32): b"FloatStorage", np.dtype(np.int64): b"LongStorage"}
    body = b"ccollections\nOrderedDict\n)R("  # OrderedDict(), then a mark and the items
    for key, array in enumerate(arrays):
        value = arrays[array]
        stride = [math.prod(value.shape[axis + 1 :]) for axis in range(value.ndim)]
        storage = b"(" + _text("storage") + b"ctorch\n" + storages[value.dtype] + b"\n"
        storage += _text(str(key)) + _text("cpu") + _integer(value.size) + b"tQ"
        body += _text(array) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _integer(0)
        body += _integers(value.shape) + _integers(stride) + b"\x89ccollections\nOrderedDict\n)RtR"
    body += b"u"
    if wrapper is not None:
        body = b"}" + _text(wrapper) + body + b"s"
    return b"\x80\x02" + body + b"."


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def _integer(value: int) -> bytes:
    if value < 2**31:
        return b"J" + value.to_bytes(4, "little", signed=True)
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def _integers(values: tuple[int, ...] | list[int]) -> bytes:
    return b"(" + b"".join(_integer(value) for value in values) + b"t"

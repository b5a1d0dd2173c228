"""The safetensors format: 8 bytes of header length, a JSON header, raw little-endian arrays.

Read and written here and not by the safetensors package, because a wrong file has to be answered with the name of the
parameter that is wrong, and bfloat16 has to be read under NumPy alone.
Source: https://github.com/huggingface/safetensors, README, "Format".
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from src.errors import UserError
from src.weights.arrays import bfloat16_to_float32

# the limit of the safetensors package itself
MAX_HEADER_BYTES = 100_000_000

BFLOAT16 = "BF16"
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


def looks_like_safetensors(start: bytes) -> bool:
    """Whether a file's first bytes are a plausible header length and an opening brace."""
    return len(start) >= 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= MAX_HEADER_BYTES


def read_safetensors(path: Path) -> tuple[dict[str, str], Iterator[tuple[str, np.ndarray]]]:
    """The file's metadata, and its arrays one by one in the order of their bytes (bfloat16 as float32).

    Raises `UserError` for a file that is cut short or whose header contradicts itself; the arrays are read as the
    iterator goes on, so an error of reading may come then.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if not 2 <= header_bytes <= min(MAX_HEADER_BYTES, size - 8):
                raise _damaged(path, "the header is cut short")
            header = _parse_header(file.read(header_bytes), path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): copy it again, or check its permissions"
        ) from error
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(path, "its metadata are not texts")
    offset = 8 + header_bytes
    return metadata, _arrays(path, _layout(header, path, size - offset), offset)


def write_safetensors(file: BinaryIO, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write `arrays` (any type of `DTYPES`) and `metadata` into an open file, in the mapping's order."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # readers that map the file want the arrays aligned
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for array in arrays.values():
        file.write(np.ascontiguousarray(array).data)


def _parse_header(text: bytes, path: Path) -> dict[str, Any]:
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"the header is not valid JSON: {error}") from error
    if not isinstance(header, dict):
        raise _damaged(path, "the header is not a JSON object")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands twice")
    return result


def _layout(header: dict[str, Any], path: Path, data_bytes: int) -> list[tuple[str, str, tuple[int, ...], int]]:
    """Name, type, shape and number of bytes of each array, in the order of the bytes, which must have no gap."""
    layout = []
    try:
        entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    except (TypeError, KeyError, IndexError) as error:
        raise _damaged(path, "an entry of the header lacks its offsets") from error
    position = 0
    for name, entry in entries:
        dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry["data_offsets"]
        if not _is_sizes(shape) or not _is_sizes(offsets) or len(offsets) != 2:
            raise _damaged(path, f"parameter '{name}' has an impossible shape or place")
        if dtype != BFLOAT16 and (not isinstance(dtype, str) or dtype not in DTYPES):
            raise UserError(f"{path}: parameter '{name}' is of type {dtype}: convert it to F32, F16 or BF16 first")
        bytes_wanted = math.prod(shape) * (2 if dtype == BFLOAT16 else np.dtype(DTYPES[dtype]).itemsize)
        if offsets[0] != position or offsets[1] - offsets[0] != bytes_wanted:
            raise _damaged(
                path,
                f"parameter '{name}' of type {dtype} and shape {tuple(shape)} needs {bytes_wanted} bytes from "
                f"{position} on, the header says {offsets[0]} to {offsets[1]}",
            )
        position = offsets[1]
        if position > data_bytes:
            raise _damaged(path, f"it ends within parameter '{name}'")
        layout.append((name, dtype, tuple(shape), bytes_wanted))
    if position != data_bytes:
        raise _damaged(path, f"{data_bytes - position} bytes too many follow the last parameter")
    return layout


def _is_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**48 for value in values)


def _arrays(
    path: Path, layout: list[tuple[str, str, tuple[int, ...], int]], offset: int
) -> Iterator[tuple[str, np.ndarray]]:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            for name, dtype, shape, size in layout:
                data = file.read(size)
                if len(data) != size:
                    raise _damaged(path, f"it ends within parameter '{name}'")
                if dtype == BFLOAT16:
                    array = bfloat16_to_float32(np.frombuffer(data, np.uint16))
                else:
                    array = np.frombuffer(data, DTYPES[dtype])
                yield name, array.reshape(shape)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): copy it again, or check its permissions"
        ) from error


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} is damaged or not a safetensors file ({what}): download or copy it again")

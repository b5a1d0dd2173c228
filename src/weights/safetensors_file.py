"""Safetensors files, by the safetensors package.

The package parses and checks the header. The arrays are read here: the package's NumPy interface has no bfloat16, and
its memory map would keep the file in memory beside the arrays (twice the file's size).
"""

import json
import math
import operator
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from src.errors import UserError
from src.model.json_text import MAX_JSON_BYTES, parse_json
from src.weights.arrays import MAX_DIMENSIONS, bfloat16_to_float32, to_array

MAX_HEADER_BYTES = MAX_JSON_BYTES  # the limit of the safetensors package is 100 MB

BFLOAT16 = "BF16"
METADATA = "__metadata__"
# NumPy's name of each type, bfloat16 as its bits.
DTYPES = {"F64": "f8", "F32": "f4", "F16": "f2", BFLOAT16: "u2", "BOOL": "?"}
DTYPES |= {f"{kind.upper()}{8 * size}": f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)}


def looks_like_safetensors(start: bytes) -> bool:
    """Return whether the first bytes of a file are a plausible header length and an opening brace."""
    return len(start) >= 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= MAX_HEADER_BYTES


def read_safetensors(path: Path) -> tuple[dict[str, str], Iterator[tuple[str, np.ndarray]]]:
    """Return the metadata and an iterator over the arrays in file order, with bfloat16 converted to float32.

    Raises `UserError` for a damaged header, a repeated name, a truncated file, trailing bytes and, while iterating, for
    a number type that NumPy does not have.
    """
    offset, header = 0, dict[str, Any]()
    try:
        offset, header = _read_header(path)
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
    except OSError as error:
        raise _unreadable(path, error) from error
    except (SafetensorError, RecursionError, ValueError) as error:
        raise _damaged(path, _first_defect(header, path.stat().st_size - offset) or str(error)) from error
    header.pop(METADATA, None)
    return metadata, _read_arrays(path, offset, sorted(header.items(), key=lambda item: item[1]["data_offsets"]))


def write_safetensors(file: BinaryIO, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write `arrays` (any type of `DTYPES`) and `metadata` to an open file; equal contents give equal files.

    The package writes files itself through a name of its own, which would bypass our fsync: it serializes to memory.
    """
    data = save({name: np.asarray(array, order="C") for name, array in arrays.items()}, dict(metadata))
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header[METADATA] = dict(sorted(header[METADATA].items()))  # the package's order is random
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    file.write(data[:8] + text.ljust(end - 8))
    file.write(memoryview(data)[end:])


def _read_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Return the offset of the arrays and the header; `ValueError` as by `parse_json`."""
    with open(path, "rb") as file:
        length = min(int.from_bytes(file.read(8), "little"), MAX_HEADER_BYTES)
        return 8 + length, parse_json(file.read(length))


def _first_defect(header: Any, data_bytes: int) -> str | None:
    """Describe the first parameter that the file is too short for or whose size contradicts its shape, if any."""
    try:
        for name, entry in header.items():
            if name == METADATA:
                continue
            begin, end = entry["data_offsets"]
            if end > data_bytes:
                return f"it ends within parameter '{name}'"
            if len(entry["shape"]) > MAX_DIMENSIONS:
                return f"parameter '{name}' has more than {MAX_DIMENSIONS} dimensions"
            counts = [operator.index(count) for count in entry["shape"]]
            needed = math.prod(counts) * np.dtype(DTYPES[entry["dtype"]]).itemsize
            if end - begin != needed and min(counts, default=0) >= 0:
                return f"parameter '{name}' has {end - begin} bytes where its shape and type need {needed}"
    except (LookupError, AttributeError, TypeError, ValueError):
        pass  # a header of another form: the package says what is wrong
    return None


def _read_arrays(path: Path, offset: int, entries: list[tuple[str, Any]]) -> Iterator[tuple[str, np.ndarray]]:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            for name, entry in entries:
                dtype = entry["dtype"]
                if dtype not in DTYPES:
                    raise UserError(f"{path}: parameter '{name}' has type {dtype}; convert it to F32, F16 or BF16")
                begin, end = entry["data_offsets"]
                data = file.read(end - begin)
                if len(data) != end - begin:
                    raise _damaged(path, f"it ends within parameter '{name}'")
                try:
                    array = to_array(data, np.dtype(DTYPES[dtype]), entry["shape"])
                except ValueError as error:
                    raise _damaged(path, f"parameter '{name}' of shape {entry['shape'][:9]} {error}") from error
                yield name, bfloat16_to_float32(array) if dtype == BFLOAT16 else array
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be read ({error.strerror or error}): check its permissions or copy it again")


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is damaged or not a safetensors file ({reason}): download or copy it again")

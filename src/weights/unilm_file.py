"""Writer of `.pth` files for the authors' training code, whose only way to load weights is `torch.load`."""

import math
import re
import zipfile
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

from src.weights.names import INDEX_BUFFER, TABLE
from src.weights.sizes import grid_of_table

WRAPPER = "model"  # the key that the authors' scripts look up


def write_unilm_file(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """Write `arrays` (float32 or int64) as `torch.save({"model": state_dict})` does; equal arrays give equal files.

    `torch.load(..., weights_only=True)` reads the file.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _write_entry(archive, "data.pkl", _pickle(arrays))
        _write_entry(archive, "byteorder", b"little")
        for key, array in enumerate(arrays.values()):
            _write_entry(archive, f"data/{key}", array.tobytes())
        _write_entry(archive, "version", b"3\n")


def index_buffers(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the index buffer that the authors' networks store beside each relative position bias table."""
    # imported here because it imports MindSpore, which takes seconds
    from src.layers.relative_position_bias import relative_position_index

    grids = {name: grid_of_table(len(array)) for name, array in weights.items() if name.endswith(TABLE)}
    index = {grid: relative_position_index(grid, grid).astype(np.int64) for grid in set(grids.values())}
    return {re.sub(f"{TABLE}$", INDEX_BUFFER, name): index[grid] for name, grid in grids.items()}


def _write_entry(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    # a fixed date, so that equal weights give equal files
    archive.writestr(zipfile.ZipInfo(f"archive/{name}", date_time=(1980, 1, 1, 0, 0, 0)), data)


def _pickle(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the pickle (protocol 2), opcode by opcode: Python's pickler would have to import torch."""
    storages = {np.dtype(np.float32): b"FloatStorage", np.dtype(np.int64): b"LongStorage"}
    body = b"ccollections\nOrderedDict\n)R("  # OrderedDict(), then a mark and the items
    for key, (name, array) in enumerate(arrays.items()):
        stride = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
        storage = b"(" + _text("storage") + b"ctorch\n" + storages[array.dtype] + b"\n"
        storage += _text(str(key)) + _text("cpu") + _integer(array.size) + b"tQ"
        body += _text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _integer(0)
        body += _integers(array.shape) + _integers(stride) + b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}" + _text(WRAPPER) + body + b"us."


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def _integer(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little", signed=True)  # 2**31 numbers would be 25 times BEiT-base


def _integers(values: tuple[int, ...] | list[int]) -> bytes:
    return b"(" + b"".join(map(_integer, values)) + b"t"

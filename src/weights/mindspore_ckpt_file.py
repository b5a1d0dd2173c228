"""MindSpore's `.ckpt` format: a sequence of protobuf messages, one per array.

The message is `Checkpoint { repeated Value value = 1 }`, `Value { string tag = 1; TensorProto tensor = 2 }`,
`TensorProto { repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3 }` (checkpoint.proto).
This module reads and writes it array by array, because `mindspore.load_checkpoint` needs twice the file's size in
memory, is limited to protobuf's 2 GB, prints its own lines for a bad file, and accepts a file truncated between two
arrays. Each reads the files of the other.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from src.errors import UserError
from src.files.protobuf_file import BYTES, VARINT, MalformedMessage, read_varint
from src.weights.arrays import MAX_DIMENSIONS, bfloat16_to_float32, to_array

# MindSpore splits longer contents into several messages with the same tag, because protobuf has a limit.
MAX_CONTENT_BYTES = 512 * 1024 * 1024
MAX_PARTS = 64  # of one array; the largest of BEiT-large has one

# Trailer of `mindspore.save_checkpoint(..., crc_check=True)`: this word and a CRC-32 in 10 big-endian bytes.
CRC_WORD = b"crc_num"
CRC_TRAILER_BYTES = len(CRC_WORD) + 10

BFLOAT16 = "BFloat16"
TEXT = "str"
TYPES = [
    "Float64",
    "Float32",
    "Float16",
    "Int64",
    "Int32",
    "Int16",
    "Int8",
    "UInt64",
    "UInt32",
    "UInt16",
    "UInt8",
    "Bool",
]
DTYPES = {name: np.dtype(name.lower()) for name in TYPES}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

_VALUE_KEY = bytes([1 << 3 | BYTES])


def looks_like_ckpt(start: bytes) -> bool:
    """Return whether the first byte of a file opens a `Checkpoint.value`."""
    return start[:1] == _VALUE_KEY


def write_ckpt(file: BinaryIO, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write named arrays (any type of `DTYPES`, at least one element each) to an open file, in the given order."""
    for name, array in arrays:
        head = b"".join(_key(1, VARINT) + _varint(size) for size in array.shape)
        head += _chunk(2, NAMES[array.dtype].encode())
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        for start in range(0, len(content), MAX_CONTENT_BYTES):
            part = content[start : start + MAX_CONTENT_BYTES]
            tensor = head + _key(3, BYTES) + _varint(len(part))
            value = _chunk(1, name.encode()) + _key(2, BYTES) + _varint(len(tensor) + len(part)) + tensor
            file.write(_VALUE_KEY + _varint(len(value) + len(part)) + value)
            file.write(part)


def read_ckpt(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays in file order, with bfloat16 converted to float32; appended texts are skipped.

    Raises `UserError` for a file that is damaged or not a checkpoint. The caller has to detect a file that is truncated
    between two arrays: the format does not store their number.
    """
    try:
        with open(path, "rb") as file:
            yield from _read(file)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): check its permissions or copy it again"
        ) from error
    except MalformedMessage as error:
        raise UserError(
            f"{path} is damaged or not a MindSpore checkpoint ({error}): use an earlier one, or copy it again"
        ) from error


@dataclass
class _Tensor:
    """One `TensorProto`, or several with the same tag joined."""

    tag: str
    dims: list[int]
    tensor_type: str
    content: list[memoryview]

    def continues(self, other: _Tensor) -> bool:
        """Return whether this is the next part of `other`."""
        return (self.tag, self.dims, self.tensor_type) == (other.tag, other.dims, other.tensor_type)

    def array(self) -> np.ndarray:
        """Return the numbers; `MalformedMessage` if type, shape and length contradict."""
        if self.tensor_type != BFLOAT16 and self.tensor_type not in DTYPES:
            raise MalformedMessage(f"parameter '{self.tag}' has the unknown type '{self.tensor_type}'")
        dtype = np.dtype(np.uint16) if self.tensor_type == BFLOAT16 else DTYPES[self.tensor_type]
        shape = () if self.dims == [0] else tuple(self.dims)  # MindSpore reads [0] as a scalar
        try:
            array = to_array(b"".join(self.content), dtype, shape)
        except ValueError as error:
            raise MalformedMessage(
                f"parameter '{self.tag}' of type {self.tensor_type} and shape {shape} {error}"
            ) from error
        return bfloat16_to_float32(array) if self.tensor_type == BFLOAT16 else array


def _read(file: BinaryIO) -> Iterator[tuple[str, np.ndarray]]:
    waiting: _Tensor | None = None
    for tensor in _tensors(file):
        if tensor.tensor_type == TEXT:
            continue
        if waiting is not None and tensor.continues(waiting):
            waiting.content += tensor.content
            if len(waiting.content) > MAX_PARTS:
                raise MalformedMessage(f"parameter '{waiting.tag}' has more than {MAX_PARTS} parts")
            continue
        if waiting is not None:
            yield waiting.tag, waiting.array()
        waiting = tensor
    if waiting is not None:
        yield waiting.tag, waiting.array()


def _tensors(file: BinaryIO) -> Iterator[_Tensor]:
    """Yield the messages of the file, then compare the CRC of the trailer, if any."""
    end, crc = _end_and_crc(file)
    running = 0
    while file.tell() < end:
        head = file.read(min(11, end - file.tell()))
        if head[:1] != _VALUE_KEY:
            raise MalformedMessage("a message does not start at the end of the previous one")
        size, used = read_varint(memoryview(head), 1)
        if size > end - file.tell() + len(head) - used:
            raise MalformedMessage("it is truncated")
        file.seek(used - len(head), os.SEEK_CUR)
        body = file.read(size)
        if len(body) != size:
            raise MalformedMessage("it is truncated")
        if crc is not None:
            running = zlib.crc32(body, zlib.crc32(head[:used], running))
        yield _parse_value(memoryview(body))
    if crc is not None and running != crc:
        raise MalformedMessage("its checksum does not match")


def _end_and_crc(file: BinaryIO) -> tuple[int, int | None]:
    size = file.seek(0, os.SEEK_END)
    trailer = b""
    if size >= CRC_TRAILER_BYTES:
        file.seek(-CRC_TRAILER_BYTES, os.SEEK_END)
        trailer = file.read()
    file.seek(0)
    if trailer.startswith(CRC_WORD):
        return size - CRC_TRAILER_BYTES, int.from_bytes(trailer[len(CRC_WORD) :], "big")
    return size, None


def _parse_value(body: memoryview) -> _Tensor:
    tags, tensors = _parse_message(body, (BYTES, BYTES))
    if len(tags) != 1 or len(tensors) != 1:
        raise MalformedMessage("a message does not have one name and one array")
    dims, types, content = _parse_message(tensors[0], (VARINT, BYTES, BYTES))
    return _Tensor(_text(tags[0]), dims, _text(b"".join(types)), content)


def _parse_message(data: memoryview, wire_types: Sequence[int]) -> list[list[Any]]:
    """Return the values of each field of a message, whose fields 1, 2, ... have these wire types."""
    found: list[list[Any]] = [[] for _ in wire_types]
    position = 0
    while position < len(data):
        key, position = read_varint(data, position)
        number, wire_type = key >> 3, key & 7
        if not 1 <= number <= len(wire_types) or wire_type != wire_types[number - 1]:
            raise MalformedMessage("a message has an unknown field")
        value, position = read_varint(data, position)
        if wire_type == VARINT:
            found[number - 1].append(value)
            if len(found[number - 1]) > MAX_DIMENSIONS:
                raise MalformedMessage(f"an array has more than {MAX_DIMENSIONS} dimensions")
            continue
        if value > len(data) - position:
            raise MalformedMessage("a field is longer than its message")
        if found[number - 1]:
            raise MalformedMessage("a message has a field twice")
        found[number - 1].append(data[position : position + value])
        position += value
    return found


def _text(data: memoryview | bytes) -> str:
    try:
        return bytes(data).decode()
    except UnicodeDecodeError as error:
        raise MalformedMessage("a name is not UTF-8") from error


def _varint(value: int) -> bytes:
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


def _key(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _chunk(number: int, content: bytes) -> bytes:
    return _key(number, BYTES) + _varint(len(content)) + content

"""Examination of an ONNX file before ONNX Runtime opens it: its structure, and the files that it reads.

Only what an export of a network consists of is accepted: one graph of standard operators. Functions and nested graphs,
which can unfold to any size or never end, are refused. A tensor may be in a file beside the ONNX file; without this
check it could be any file that the user can read.
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from src.errors import UserError
from src.export.checksum import Metadata, read_metadata
from src.files.protobuf_file import VARINT, Field, MalformedMessage, ProtobufFile, read_varint
from src.files.regular_file import check_regular

MAX_ONNX_BYTES = 2**31  # the limit of protobuf

DOMAINS = ("", "ai.onnx", "com.microsoft")
OPENS_FILES = "EPContext"  # of com.microsoft

# Field numbers of onnx.proto.
GRAPH, TRAINING, FUNCTIONS = 7, 20, 25  # of ModelProto
NODE, INITIALIZER, SPARSE_INITIALIZER = 1, 5, 15  # of GraphProto
OPERATOR, ATTRIBUTE, DOMAIN = 4, 5, 7  # of NodeProto
TENSOR, TENSORS = 5, 10  # of AttributeProto
SUBGRAPH, SUBGRAPHS, SPARSE, SPARSES = 6, 11, 22, 23  # of AttributeProto
DIMS, TYPE, EXTERNAL, LOCATION = 1, 2, 13, 14  # of TensorProto

ITEM_BYTES = {
    1: 4,
    2: 1,
    3: 1,
    4: 2,
    5: 2,
    6: 4,
    7: 8,
    9: 1,
    10: 2,
    11: 8,
    12: 4,
    13: 8,
    16: 2,
}  # by TensorProto.DataType


@dataclass(frozen=True)
class OnnxFile:
    """An examined file: its metadata, and the files beside it that hold weights."""

    metadata: Metadata
    beside: tuple[Path, ...]


def examine(path: Path) -> OnnxFile:
    """Examine an ONNX file. Raises `UserError` for a file that no export writes or that reads other files."""
    check_regular(path, MAX_ONNX_BYTES)
    try:
        with open(path, "rb") as file:
            content = ProtobufFile(file)
            beside = {_external_file(content, tensor, path) for tensor in _tensors(content)}
            return OnnxFile(read_metadata(content), tuple(sorted(each for each in beside if each is not None)))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): check its permissions") from error
    except MalformedMessage as error:
        raise UserError(f"{path} cannot be loaded as an ONNX file ({error}); export the checkpoint again") from error


def _tensors(file: ProtobufFile) -> Iterator[Field]:
    """Yield every stored tensor of the model; `MalformedMessage` for a part that no export has."""
    for graph in file.fields(file.whole):
        _refuse(graph, (TRAINING, FUNCTIONS))
        if graph.number == GRAPH:
            for part in file.fields(graph):
                _refuse(part, (SPARSE_INITIALIZER,))
                if part.number == INITIALIZER:
                    yield part
                elif part.number == NODE:
                    yield from _tensors_of_node(file, part)


def _tensors_of_node(file: ProtobufFile, node: Field) -> Iterator[Field]:
    names = {OPERATOR: "", DOMAIN: ""}
    for field in file.fields(node):
        if field.number in names:
            names[field.number] = file.text(field)
        elif field.number == ATTRIBUTE:
            for value in file.fields(field):
                _refuse(value, (SUBGRAPH, SUBGRAPHS, SPARSE, SPARSES))
                if value.number in (TENSOR, TENSORS):
                    yield value
    if names[DOMAIN] not in DOMAINS or names[OPERATOR] == OPENS_FILES:
        operator = f"{names[DOMAIN]}.{names[OPERATOR]}"
        raise MalformedMessage(f"it has the operator {operator[:100]!r}, which no export has")


def _refuse(field: Field, numbers: tuple[int, ...]) -> None:
    if field.number in numbers:
        raise MalformedMessage("it has functions, nested graphs or sparse tensors, which no export has")


def _external_file(file: ProtobufFile, tensor: Field, path: Path) -> Path | None:
    """Return the file beside `path` that holds `tensor`, None for a tensor inside; `MalformedMessage` for any other."""
    shape: list[int] = []
    data_type = location = 0
    entries: dict[str, str] = {}
    for field in file.fields(tensor):
        if field.number == DIMS:
            shape += [field.value] if field.wire_type == VARINT else _packed(file.read(field))
        elif field.number == TYPE:
            data_type = field.value
        elif field.number == LOCATION:
            location = field.value
        elif field.number == EXTERNAL:
            key, value, _ = file.pair(field)
            if key in entries:
                raise MalformedMessage(f"a tensor has the {key[:100]!r} of its external data twice")
            entries[key] = value
    if not entries and not location:
        return None
    name = entries.get("location", "")
    beside = path.parent / name
    if not name or name in (".", "..") or re.search(r"[/\\\0]", name):
        raise MalformedMessage(f"a tensor is in {name[:100]!r}, which is not the name of a file beside it")
    size = _plain_size(path, beside)
    needed = math.prod(shape) * ITEM_BYTES.get(data_type, 0)
    offset, length = _number(entries, "offset", 0), _number(entries, "length", needed)
    if length != needed or offset + needed > size:
        raise MalformedMessage(
            f"a tensor of {needed} bytes has {length} bytes from {offset} on in {name[:100]!r}, which has {size}"
        )
    return beside


def _plain_size(path: Path, beside: Path) -> int:
    """Return the size of a file; `MalformedMessage` unless it and `path` are regular files and not links."""
    for each in (path, beside):
        try:
            status = each.lstat()
        except OSError as error:
            raise MalformedMessage(f"{each.name[:100]!r}: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            raise MalformedMessage(f"{each.name[:100]!r} is not a regular file, which a file with its weights must be")
    return status.st_size


def _number(entries: dict[str, str], key: str, default: int) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise MalformedMessage(f"the {key} of external data is {text[:100]!r}")
    return int(text)


def _packed(data: bytes) -> list[int]:
    numbers, position = [], 0
    while position < len(data):
        number, position = read_varint(data, position)
        numbers.append(number)
    return numbers

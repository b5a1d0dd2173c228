"""The checksum of an exported ONNX or MINDIR file, stored in its metadata.

The CRC-32 of the file, in which the eight digits of the checksum itself count as zeros, and of the files beside it that
hold its weights. Both formats store their metadata as pairs in field 14 of the outermost message.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src.errors import UserError
from src.export.metadata import CHECKSUM, UNSEALED, VERSION
from src.export.protobuf_file import BYTES, Field, MalformedMessage, ProtobufFile

METADATA_FIELD = 14
CHUNK_BYTES = 2**18  # stays in the cache of a processor core

logger = logging.getLogger("beit")


@dataclass(frozen=True)
class Metadata:
    """The metadata of an exported file: its pairs, and the field of the checksum if it has one."""

    pairs: dict[str, str]
    checksum: Field | None


def read_metadata(file: ProtobufFile) -> Metadata:
    """Return the metadata of an ONNX or MINDIR file. Raises `MalformedMessage` for a repeated key."""
    pairs: dict[str, str] = {}
    checksum = None
    for entry in file.fields(file.whole):
        if entry.number == METADATA_FIELD and entry.wire_type == BYTES:
            key, value, field = file.pair(entry)
            if key in pairs:
                raise MalformedMessage(f"its metadata have '{key}' twice")
            pairs[key] = value
            if key == CHECKSUM:
                checksum = field
    return Metadata(pairs, checksum)


def seal(path: Path, beside: Sequence[Path]) -> None:
    """Store the checksum in a new file, whose metadata have `UNSEALED` in its place; `beside` hold its weights."""
    with open(path, "r+b") as file:
        field = read_metadata(ProtobufFile(file)).checksum
        if field is None or field.end - field.begin != len(UNSEALED):
            raise RuntimeError(f"{path} was written without a place for its checksum")
        digits = content_checksum(path, field, beside)
        file.seek(field.begin)
        file.write(digits.encode())


def require_checksum(path: Path, metadata: Metadata, beside: Sequence[Path]) -> None:
    """Raise `UserError` if the content differs from its checksum; warn about a file that was exported without one."""
    if metadata.checksum is not None:
        stored = metadata.pairs[CHECKSUM]
        if content_checksum(path, metadata.checksum, beside) == stored:
            return
        raise UserError(f"{path} is damaged (its checksum is not {stored[:20]}): copy it again, or export it again")
    if metadata.pairs.get("version") == VERSION:
        raise UserError(f"{path} is damaged (its checksum is missing): copy it again, or export it again")
    logger.warning("%s is not verified: an earlier version exported it without a checksum; export it again", path)


def content_checksum(path: Path, blank: Field, beside: Sequence[Path]) -> str:
    """Return the CRC-32 of `path`, with zeros for the content of the field `blank`, and of the files `beside` it."""
    crc, position = 0, 0
    buffer = memoryview(bytearray(CHUNK_BYTES))
    try:
        for each in (path, *sorted(beside)):
            with open(each, "rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    if each == path:
                        begin, end = max(blank.begin - position, 0), min(blank.end - position, count)
                        if begin < end:
                            buffer[begin:end] = bytes(end - begin)
                        position += count
                    crc = zlib.crc32(buffer[:count], crc)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): export the checkpoint again") from error
    return f"{crc:08x}"

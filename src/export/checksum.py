"""The checksum of an exported ONNX or MINDIR file, stored in its metadata.

The CRC-32 of the file, in which the eight digits of the checksum itself count as zeros, and of the files beside it that
hold its weights. Both formats store their metadata as pairs in field 14 of the outermost message.
"""

from __future__ import annotations

import logging
import mmap
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.errors import UserError
from src.export.metadata import CHECKSUM, UNSEALED, VERSION
from src.files.protobuf_file import BYTES, Field, MalformedMessage, ProtobufFile

METADATA_FIELD = 14

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


def require_checksum(
    path: Path, metadata: Metadata, beside: Sequence[Path], on_start: Callable[[], None] = lambda: None
) -> None:
    """Raise `UserError` if the content differs from its checksum; warn about a file that was exported without one.

    `on_start` is called right before the long computation, during which other Python threads run.
    """
    if metadata.checksum is not None:
        stored = metadata.pairs[CHECKSUM]
        if content_checksum(path, metadata.checksum, beside, on_start) == stored:
            return
        raise UserError(f"{path} is damaged (its checksum is not {stored[:20]}): copy it again, or export it again")
    if metadata.pairs.get("version") == VERSION:
        raise UserError(f"{path} is damaged (its checksum is missing): copy it again, or export it again")
    logger.warning("%s is not verified: an earlier version exported it without a checksum; export it again", path)


def content_checksum(
    path: Path, blank: Field, beside: Sequence[Path], on_start: Callable[[], None] = lambda: None
) -> str:
    """Return the CRC-32 of `path`, with zeros for the content of the field `blank`, and of the files `beside` it."""
    crc = 0
    try:
        for each in (path, *sorted(beside)):
            # one mapped call instead of a loop over chunks: it runs beside ONNX Runtime, which holds Python's lock
            with open(each, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if each != path:
                    crc = zlib.crc32(content, crc)
                    continue
                with memoryview(content) as view, view[: blank.begin] as before, view[blank.end :] as after:
                    on_start()
                    crc = zlib.crc32(before, crc)
                    crc = zlib.crc32(bytes(blank.end - blank.begin), crc)
                    crc = zlib.crc32(after, crc)
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise UserError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error}): export the checkpoint again"
        ) from error
    return f"{crc:08x}"

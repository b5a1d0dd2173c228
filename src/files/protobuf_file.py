"""A protobuf message in a file, read field by field: large contents, such as weights, are skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
FIXED_BYTES = {FIXED64: 8, FIXED32: 4}

WINDOW_BYTES = 4096
LONGEST_KEY_AND_SIZE = 20  # two varints of at most 10 bytes
MAX_TEXT_BYTES = 16 * 2**20
# An export of BEiT-large has 15,000 fields. A million take two seconds.
MAX_FIELDS = 1_000_000


class MalformedMessage(Exception):
    """The bytes are not a protobuf message; the text gives the reason."""


class Field(NamedTuple):
    """One field: the value of a varint, else 0, and the positions in the file where its content begins and ends."""

    number: int
    wire_type: int
    value: int
    begin: int
    end: int


class ProtobufFile:
    """Reads an open file; all methods raise `MalformedMessage`."""

    def __init__(self, file: BinaryIO) -> None:
        self._descriptor = file.fileno()
        self.whole = Field(0, BYTES, 0, 0, os.fstat(self._descriptor).st_size)
        self._window, self._window_begin = b"", 0
        self._fields = 0

    def fields(self, message: Field) -> Iterator[Field]:
        """Yield the fields of `message`: `whole`, or a field whose content is a message."""
        if message.wire_type != BYTES:
            raise MalformedMessage("a message is not stored as one")
        position = message.begin
        while position < message.end:
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise MalformedMessage(f"it has more than the limit of {MAX_FIELDS} fields")
            head = self._peek(position, min(position + LONGEST_KEY_AND_SIZE, message.end))
            key, used = read_varint(head, 0)
            wire_type, value, begin = key & 7, 0, position + used
            if wire_type in (VARINT, BYTES):
                value, used = read_varint(head, used)
                begin = position + used
            end = begin + (value if wire_type == BYTES else FIXED_BYTES.get(wire_type, 0))
            if wire_type not in (VARINT, BYTES, *FIXED_BYTES) or end > message.end:
                raise MalformedMessage("it is truncated or a field is longer than its message")
            yield Field(key >> 3, wire_type, value if wire_type == VARINT else 0, begin, end)
            position = end

    def read(self, field: Field) -> bytes:
        """Return the content of a field, at most `MAX_TEXT_BYTES`."""
        if field.wire_type != BYTES or field.end - field.begin > MAX_TEXT_BYTES:
            raise MalformedMessage("a text is too long or is stored as a number")
        return self._peek(field.begin, field.end)

    def text(self, field: Field) -> str:
        """Return the text of a field."""
        try:
            return self.read(field).decode()
        except UnicodeDecodeError as error:
            raise MalformedMessage("a text is not UTF-8") from error

    def pair(self, entry: Field) -> tuple[str, str, Field]:
        """Return key, value and the field of the value of a key-value pair, whose fields are 1 and 2."""
        found = {field.number: field for field in self.fields(entry)}
        if not {1, 2} <= set(found):
            raise MalformedMessage("a pair has no key or no value")
        return self.text(found[1]), self.text(found[2]), found[2]

    def _peek(self, begin: int, end: int) -> bytes:
        start = begin - self._window_begin
        if start < 0 or end - self._window_begin > len(self._window):
            self._window = os.pread(self._descriptor, max(WINDOW_BYTES, end - begin), begin)
            self._window_begin, start = begin, 0
        return self._window[start : start + end - begin]


def read_varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """Return the protobuf integer at `position` and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise MalformedMessage("an integer is truncated")

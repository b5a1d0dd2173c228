"""The file of predictions, in the format that its ending asks for, written record by record."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from src.errors import UserError
from src.files.atomic_file import write_atomically
from src.prediction.journal import Record


@dataclass(frozen=True)
class Details:
    """What is told of an image beside its class number.

    `top` lists all classes of a record and not the first alone, `probabilities` are given with each, and labels where
    `class_names` is not empty. With none of these a JSON file is the plain one of the model zoo.
    """

    top: bool = False
    probabilities: bool = False
    class_names: tuple[str, ...] = ()

    def of_class(self, number: int, probability: float) -> dict[str, object]:
        """One class as the entries of a JSON object."""
        entries: dict[str, object] = {"class": number}
        if self.class_names:
            entries["label"] = self.class_names[number]
        if self.probabilities:
            entries["probability"] = probability
        return entries

    def columns(self) -> list[str]:
        """The names of what `of_class` gives."""
        return [
            "class",
            *(["label"] if self.class_names else []),
            *(["probability"] if self.probabilities else []),
        ]

    def of_record(self, record: Record) -> dict[str, object]:
        """The most probable class, and with `top` the list of all."""
        entries = self.of_class(*record.top[0])
        if self.top:
            entries["top"] = [self.of_class(*entry) for entry in record.top]
        return entries


def wanted_details(
    path: Path, topk: int | None, probabilities: bool, class_names: tuple[str, ...], names_given: bool
) -> Details:
    """The details that options ask for: `topk`, `probabilities`, and names that were given and not just stored.

    Where nothing is asked for, a JSON file stays the plain one; other formats have labels where they are known.
    """
    plain = path.suffix.lower() == ".json" and topk is None and not probabilities and not names_given
    return Details(topk is not None, probabilities, () if plain else class_names)


def prepare_output(option: str, path: Path, formats: Iterable[str]) -> None:
    """Make sure that `path`, which `option` gives, can be written, and make its folder, before any work is done.

    Raises `UserError` where that cannot be, where `path` is a folder itself, or where it ends on none of `formats`.
    """
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder: give the name of a file")
    if path.suffix.lower() not in formats:
        raise UserError(f"{option} {path} has another ending than {', '.join(formats)}: the ending is the format")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{option} {path} cannot be written ({error.strerror or error}): choose another place"
        ) from error


def write_predictions(path: Path, records: Iterable[Record], details: Details) -> None:
    """Write the readable ones of `records` to `path`; the file appears whole or not at all.

    Raises `UserError` where the system refuses to write.
    """
    readable = (record for record in records if record.reason is None)
    parts = FORMATS[path.suffix.lower()](readable, details)

    def write(file: BinaryIO) -> None:
        for part in parts:
            file.write(part)

    write_atomically(path, write)


def _json(records: Iterator[Record], details: Details) -> Iterator[bytes]:
    """A dictionary from path to class number, or to an object with details; a path a line, indented by one space."""
    before = b"{\n "
    for record in records:
        value = record.top[0][0] if details == Details() else details.of_record(record)
        yield before + _encoded({record.image: value})[1:-1]
        before = b",\n "
    yield b"{}\n" if before == b"{\n " else b"\n}\n"


def _json_lines(records: Iterator[Record], details: Details) -> Iterator[bytes]:
    """An object a line: the path under `image`, and what is told of it."""
    for record in records:
        yield _encoded({"image": record.image, **details.of_record(record)}) + b"\n"


def _csv(records: Iterator[Record], details: Details) -> Iterator[bytes]:
    """A row per image, or per class of an image where there are several of them, then with its `rank` from 1 on."""
    columns = ["image", *(["rank"] if details.top else []), *details.columns()]
    yield _row(columns)
    for record in records:
        for rank, entry in enumerate(record.top if details.top else record.top[:1], start=1):
            values = details.of_class(*entry).values()
            yield _row([record.image, *([rank] if details.top else []), *values])


FORMATS: dict[str, Callable[[Iterator[Record], Details], Iterator[bytes]]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".csv": _csv,
}


def _encoded(value: object) -> bytes:
    """JSON in UTF-8 with letters as they are; where a file's name is in no valid encoding, escaped."""
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()


def _row(values: Sequence[object]) -> bytes:
    """File names are bytes: one in no valid encoding is written as it is."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue().encode(errors="surrogateescape")

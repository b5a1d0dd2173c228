"""The file of predictions, in the format of its suffix, written record by record."""

import csv
import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from src.errors import UserError
from src.files.atomic_file import write_atomically
from src.files.regular_file import IrregularFile, require_regular
from src.prediction.journal import Record, encode

NAME_BYTES = 200  # of an output; temporary files add a few letters, and 255 is the limit of file systems
# A spreadsheet takes a cell that begins with one of these for a formula, which may run programs.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def prepare_output(option: str, path: Path, suffixes: Iterable[str]) -> None:
    """Make the folder of `path`, the value of `option`, before any work is done.

    Raises `UserError` if that fails, if `path` ends in none of `suffixes`, or if it is neither a regular file nor new.
    """
    if path.suffix.lower() not in suffixes and not os.path.isdir(path):
        raise UserError(f"{option} is {path}, whose suffix is not a format; end it in {' or '.join(suffixes)}")
    if len(os.fsencode(path.name)) > NAME_BYTES:
        raise UserError(f"{option} is {path}, whose name has more than {NAME_BYTES} bytes; shorten it")
    try:
        Path(os.path.realpath(path)).parent.mkdir(parents=True, exist_ok=True)
        require_regular(path, os.stat(path))
    except FileNotFoundError:
        pass
    except IrregularFile as error:
        raise UserError(f"{option} is {path}, which {error.reason}; give the name of a file") from None
    except OSError as error:
        raise UserError(f"{option} {path} cannot be written ({error.strerror or error}); change the folder") from error


def write_predictions(path: Path, records: Iterable[Record], *, probabilities: bool) -> None:
    """Write the readable images of `records` to `path` atomically. Raises `UserError` if the system refuses."""
    readable = (shown(record, probabilities) for record in records if "class" in record)
    write_atomically(path, lambda file: FORMATS[path.suffix.lower()](file, readable))


def shown(record: Record, probabilities: bool) -> Record:
    """Return the record, without the probabilities unless they are wanted."""
    if probabilities:
        return record
    found = {name: value for name, value in record.items() if name != "probability"}
    if "top" in found:
        found["top"] = [shown(entry, probabilities) for entry in found["top"]]
    return found


def _json(file: BinaryIO, records: Iterable[Record]) -> None:
    """A dictionary from path to class number, or to an object if there are details; one path per line."""
    before = b"{\n "
    for record in records:
        details = {name: value for name, value in record.items() if name != "image"}
        file.write(before + encode({record["image"]: details if len(details) > 1 else record["class"]})[1:-1])
        before = b",\n "
    file.write(b"{}\n" if before == b"{\n " else b"\n}\n")


def _json_lines(file: BinaryIO, records: Iterable[Record]) -> None:
    """One record per line."""
    file.writelines(encode(record) + b"\n" for record in records)


def _csv(file: BinaryIO, records: Iterable[Record]) -> None:
    """One row per image, or with top classes one row per class and its `rank` from 1 on."""
    header: list[str] = []
    for record in records:
        for rank, entry in enumerate(record.get("top", [record]), start=1):
            row = {"image": record["image"], **({"rank": rank} if "top" in record else {}), **entry}
            if not header:
                header = list(row)
                file.write(_csv_line(header))
            file.write(_csv_line(row.values()))
    if not header:
        file.write(_csv_line(["image", "class"]))


def _csv_line(values: Iterable[object]) -> bytes:
    """Return a line of a CSV file. Text that would be a formula in a spreadsheet gets an apostrophe before it."""
    cells = (f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value for value in values)
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)  # which puts a carriage return in a cell into quotes
    # a file name that is not valid UTF-8 keeps its bytes
    return (line.getvalue().removesuffix("\r\n") + "\n").encode("utf-8", "surrogateescape")


FORMATS: dict[str, Callable[[BinaryIO, Iterable[Record]], None]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".csv": _csv,
}

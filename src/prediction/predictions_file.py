"""The file of predictions, in the format of its suffix, written record by record."""

import codecs
import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from src.errors import UserError
from src.files.atomic_file import write_atomically
from src.prediction.journal import Record, encode


def prepare_output(option: str, path: Path, suffixes: Iterable[str]) -> None:
    """Make the folder of `path`, the value of `option`, before any work is done.

    Raises `UserError` if that fails, if `path` is a folder, or if it ends in none of `suffixes`.
    """
    if path.is_dir():
        raise UserError(f"{option} is {path}, which is a folder; give the name of a file")
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{option} is {path}, whose suffix is not a format; end it in {' or '.join(suffixes)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
    # a file name that is not valid UTF-8 keeps its bytes
    writer = csv.writer(codecs.getwriter("utf-8")(file, "surrogateescape"), lineterminator="\n")
    header: list[str] = []
    for record in records:
        for rank, entry in enumerate(record.get("top", [record]), start=1):
            row = {"image": record["image"], **({"rank": rank} if "top" in record else {}), **entry}
            if not header:
                header = list(row)
                writer.writerow(header)
            writer.writerow(row.values())
    if not header:
        writer.writerow(["image", "class"])


FORMATS: dict[str, Callable[[BinaryIO, Iterable[Record]], None]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".csv": _csv,
}

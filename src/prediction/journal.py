"""The journal of a run: its predictions so far, in JSON Lines beside the output file.

`OUTPUT.partial` begins with `{"run": {...}}`. Each line after it is the record of an image, in the order of the images:
`{"image": PATH, "class": N, "label": NAME, "probability": P, "top": [...]}`, where `label` and `top` are optional, or
`{"image": PATH, "unreadable": REASON}`. The lines of a .jsonl output are these records; in the journal they also have
the `size_and_time` of the image file. A killed run leaves its journal behind, and `--resume` continues after the last
complete line.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from src.errors import RunError, UserError
from src.files.regular_file import IrregularFile, open_regular

BEGIN = b'{"run": {'  # of every journal
SIZE_AND_TIME = "size_and_time"

_ENCODER = json.JSONEncoder(ensure_ascii=False)  # json.dumps would make one for each record

Record = dict[str, Any]
"""The result of one image, as in the journal."""


class Journal:
    """The journal of the run that writes `output`; a context manager, which keeps the file locked.

    `run` holds the options that the results depend on, as JSON values. Raises `UserError` if another process writes the
    journal, if a file of its name is not a journal, if an interrupted run left one and `resume` is off, or if the
    options differ from those of that run. The file is changed only if none of these is the case.
    """

    def __init__(self, output: Path, run: Mapping[str, object], *, resume: bool) -> None:
        self.path = output.with_name(f"{output.name}.partial")
        self._count = 0
        self.unreadable = 0  # number of records without a class
        try:
            self._file = open_regular(self.path, "a+b", follow=False)
        except IrregularFile as error:
            raise self._foreign(error.reason) from None
        except OSError as error:
            raise UserError(f"{self.path} cannot be written ({error.strerror or error}); change --output") from error
        try:
            self._lock()
            self._require_journal(resume=resume)
            self._recover(run)
        except BaseException as error:
            self._file.close()
            if isinstance(error, OSError):
                reason = error.strerror or error
                raise UserError(f"{self.path} cannot be written ({reason}); change --output") from error
            raise

    def __len__(self) -> int:
        return self._count

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._count:
            self.remove()
        self._file.close()

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)

    def remaining(self, images: Sequence[str]) -> Sequence[str]:
        """Return the `images` without a record.

        Raises `UserError` if the recorded ones are not the first of them, or if one of these files was changed.
        """
        for number, record in enumerate(self._stored()):
            image = images[number] if number < len(images) else "missing"
            if record["image"] != image:
                raise UserError(
                    f"image {number + 1} is {image} but was {record['image']} in the run of {self.path}; restore the "
                    f"images, or remove the file"
                )
            if SIZE_AND_TIME not in record:
                raise UserError(f"{self.path} was written by an earlier version; remove the file to start again")
            if record[SIZE_AND_TIME] != size_and_time(image):
                raise UserError(
                    f"{image} has changed since the run of {self.path}; restore it, or remove that file to start again"
                )
        return images[self._count :]

    def append(self, *records: Record) -> None:
        """Write records at once. Raises `RunError` if the system refuses, for example on a full disk."""
        try:
            self._write(*({**record, SIZE_AND_TIME: size_and_time(record["image"])} for record in records))
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written ({error.strerror or error}); free some space and continue with --resume"
            ) from error
        self._count += len(records)
        self.unreadable += sum("unreadable" in record for record in records)

    def records(self) -> Iterator[Record]:
        """Yield the records so far from the file, so that memory does not grow with their number."""
        for record in self._stored():
            record.pop(SIZE_AND_TIME, None)
            yield record

    def _stored(self) -> Iterator[Record]:
        with open_regular(self.path, follow=False) as file:
            yield from map(json.loads, islice(file, 1, 1 + self._count))

    def _write(self, *values: Mapping[str, object]) -> None:
        self._file.write(b"".join(encode(value) + b"\n" for value in values))
        self._file.flush()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{self.path} is being written by another run; wait for it, or change --output") from None
        except OSError:
            pass  # some network drives have no locks: there the user must not start two runs with one output

    def _require_journal(self, *, resume: bool) -> None:
        """Raise `UserError` unless the file is empty, or is a journal that may be resumed."""
        self._file.seek(0)
        begin = self._file.read(len(BEGIN))
        if begin != BEGIN[: len(begin)]:
            raise self._foreign("is not the journal of a run")
        if begin and not resume:
            raise UserError(
                f"{self.path} is the journal of an interrupted run; continue it with --resume, or remove the file"
            )

    def _foreign(self, reason: str) -> UserError:
        return UserError(f"{self.path} {reason}, but a run writes its journal there; move it away, or change --output")

    def _recover(self, run: Mapping[str, object]) -> None:
        """Count the complete records of an earlier run, and cut off the rest, which a power failure may leave."""
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file):
            value = _decode(line)
            if number == 0 and isinstance(value.get("run"), dict):
                self._require_same(value["run"], run)
            elif number == 0 or "image" not in value or not {"class", "unreadable"} & value.keys():
                break
            self._count, end = number, end + len(line)
            self.unreadable += "unreadable" in value
        self._file.truncate(end)
        self._file.seek(end)
        if not end:
            self._write({"run": run})

    def _require_same(self, earlier: Mapping[str, object], run: Mapping[str, object]) -> None:
        for name, value in json.loads(encode(run)).items():
            if (before := earlier.get(name)) != value:
                raise UserError(
                    f"{name} is {value} but {self.path} is of a run with {before}; set it to that, or remove the file"
                )


def size_and_time(path: str) -> list[int] | None:
    """Return the size and the modification time of a file, to notice that it was changed; None without a file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]


def file_identity(path: Path) -> list[object]:
    """Return the resolved path, size and modification time of a file, to notice that it was replaced."""
    found = size_and_time(str(path))
    return [str(path)] if found is None else [os.path.realpath(path), *found]  # reported where the file is opened


def encode(value: object) -> bytes:
    """Return JSON in UTF-8 with letters as they are; all ASCII for a file name that is not valid UTF-8."""
    try:
        return _ENCODER.encode(value).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()


def _decode(line: bytes) -> Record:
    """Return the JSON object of a complete line, or an empty one."""
    try:
        value = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}

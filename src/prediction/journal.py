"""What a run has predicted so far, in a file beside its output: a line per image, written as the results come.

The file is `OUTPUT.partial`, JSON Lines: first what the run is of, then an image a line in the order of the images,
`{"image": PATH, "top": [[CLASS, PROBABILITY], ...]}` or `{"image": PATH, "unreadable": REASON}`. A run that is killed
leaves it behind, and another can go on from its last whole line.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from src.errors import RunError, UserError

SUFFIX = ".partial"


@dataclass(frozen=True)
class Record:
    """What became of one image: its most probable classes with their probabilities, best first, or why there are none.

    Either `top` is empty or `reason` is `None`.
    """

    image: str
    top: tuple[tuple[int, float], ...] = ()
    reason: str | None = None


class Journal:
    """The journal of a run that writes `output`; a context manager, which keeps the file locked.

    Args:
        output: the file that is to be written in the end.
        run: what the results depend on, by the names of the options that say it; values of JSON.
        resume: whether to go on where an interrupted run of the same `run` ended.

    Raises `UserError` where an interrupted run's journal is in the way, where it is of another `run`, or where another
    process is writing it.
    """

    def __init__(self, output: Path, run: Mapping[str, object], *, resume: bool) -> None:
        self.path = output.with_name(output.name + SUFFIX)
        if self.path.exists() and not resume:
            raise UserError(
                f"{self.path} is what an interrupted run has predicted: continue it with --resume, or remove the file"
            )
        self._count = 0
        try:
            self._file = open(self.path, "a+b")  # noqa: SIM115 (closed by __exit__)
            self._lock()
            self._keep(self._whole_lines(run))
            if not self._count and not self._file.tell():
                self._write({"run": run})
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written ({error.strerror or error}): choose another place"
            ) from error

    def __len__(self) -> int:
        return self._count

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        if not self._count:
            self.remove()
        self._file.close()

    def remove(self) -> None:
        """Delete the file, once its content stands elsewhere."""
        self.path.unlink(missing_ok=True)

    def remaining(self, images: Iterable[str]) -> Iterator[str]:
        """`images` without those at the beginning that have a record. `UserError` where these are not the same."""
        iterator = iter(images)
        for number, (record, image) in enumerate(zip(self.records(), iterator), start=1):
            if record.image != image:
                raise UserError(
                    f"the images have changed since {self.path} was written: number {number} was {record.image} and is "
                    f"{image}; remove the file to start anew"
                )
        return iterator

    def append(self, record: Record) -> None:
        """Write a line. Raises `RunError` where the system refuses, on a full disk for example."""
        outcome = {"top": record.top} if record.reason is None else {"unreadable": record.reason}
        try:
            self._write({"image": record.image, **outcome})
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written ({error.strerror or error}): free some space and go on with --resume"
            ) from error
        self._count += 1

    def records(self) -> Iterator[Record]:
        """The records so far, from the first on."""
        with open(self.path, "rb") as file:
            for line in islice(file, 1, 1 + self._count):
                yield _as_record(json.loads(line))

    def _write(self, line: Mapping[str, object]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UserError(
                f"{self.path} is being written by another run: wait for it, or choose another output"
            ) from None
        except OSError:
            pass  # a network drive without locks: there it is up to the user not to start two runs of one output

    def _whole_lines(self, run: Mapping[str, object]) -> int:
        """Count the records that an earlier run wrote whole; gives where they end. `UserError` for another `run`."""
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file):
            try:
                values = json.loads(line) if line.endswith(b"\n") else {}
                if number == 0:
                    self._require_same(values["run"], run)
                else:
                    _as_record(values)
            except (ValueError, KeyError, TypeError):  # a power cut may leave anything
                break
            self._count = number
            end += len(line)
        return end

    def _keep(self, end: int) -> None:
        """Cut off what is not whole, so that the next line begins at `end`."""
        self._file.truncate(end)
        self._file.seek(end)

    def _require_same(self, earlier: Mapping[str, object], run: Mapping[str, object]) -> None:
        # as it comes back from JSON
        differing = [name for name, value in json.loads(json.dumps(run)).items() if earlier[name] != value]
        if differing:
            raise UserError(
                f"{self.path} is of a run with another {' and another '.join(differing)}: give the same again, or "
                f"remove the file to start anew"
            )


def file_identity(path: Path) -> list[object]:
    """What tells whether a file is still the same, as a value of JSON, without reading it."""
    try:
        status = path.stat()
    except OSError:  # whoever opens it says what is wrong
        return [str(path)]
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def _as_record(line: dict[str, Any]) -> Record:
    """Raises `KeyError`, `TypeError` or `ValueError` for what is none."""
    if "unreadable" in line:
        return Record(str(line["image"]), reason=str(line["unreadable"]))
    return Record(str(line["image"]), tuple((int(number), float(share)) for number, share in line["top"]))

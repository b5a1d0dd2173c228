"""The file of predictions: a JSON dictionary from an image's path to its class number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from src.errors import UserError
from src.weights.atomic_file import write_atomically


def prepare_folder(path: Path) -> None:
    """Make the folder that `path` is to be written to, before any work is done.

    Raises `UserError` where that cannot be or where `path` is a folder itself.
    """
    if path.is_dir():
        raise UserError(f"output {path} is a folder: give the name of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output {path} cannot be written ({error.strerror or error}): choose another place") from error


def write_predictions(path: Path, predictions: Mapping[str, int]) -> None:
    """Write `predictions` with one path per line, indented by one space; the file appears whole or not at all.

    Raises `UserError` where the system refuses to write.
    """
    write_atomically(path, lambda file: file.write(_as_json(predictions)))


def _as_json(predictions: Mapping[str, int]) -> bytes:
    """UTF-8 with letters as they are; where a file's name is in no valid encoding, escaped throughout."""
    try:
        return f"{json.dumps(predictions, indent=1, ensure_ascii=False)}\n".encode()
    except UnicodeEncodeError:
        return f"{json.dumps(predictions, indent=1)}\n".encode()

"""The project's own checkpoint files: weights, what network they are for, and the state of the training.

A checkpoint is a MindSpore `.ckpt` or a `.safetensors` file. Its arrays are the network's parameters under the
authors' names, the averaged weights as `ema.<name>` and the optimizer's state as `optimizer.<name>`, so plain
`mindspore.load_checkpoint` and `load_param_into_net` work on it. Three texts go with them: `model_info` (JSON of
`ModelInfo`), `training_state` (JSON) and `checksums` (JSON, a CRC-32 of every other entry). In a `.ckpt` file they are
uint8 arrays: MindSpore has an entry of type text too, but `mindspore.ckpt_to_safetensors` fails on it. In
`.safetensors` they are metadata.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from src.errors import UserError
from src.files.atomic_file import write_atomically
from src.model.model_info import ModelInfo
from src.weights.ckpt_file import looks_like_ckpt, read_ckpt, write_ckpt
from src.weights.safetensors_file import looks_like_safetensors, read_safetensors, write_safetensors

EMA_PREFIX = "ema."
OPTIMIZER_PREFIX = "optimizer."

MODEL_INFO = "model_info"
TRAINING_STATE = "training_state"
CHECKSUMS = "checksums"
TEXTS = (CHECKSUMS, MODEL_INFO, TRAINING_STATE)

SUFFIXES = (".ckpt", ".safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A network's weights and all that was saved with them.

    `weights` and `ema` map the authors' parameter names to arrays, `optimizer` the names that the trainer gave;
    `training` is whatever JSON the trainer stored (epoch, step, ...). `format` says whose file it was, and `guessed`
    holds the fields of `info` that the file did not state (never any in a file of this project).
    """

    weights: Mapping[str, np.ndarray]
    info: ModelInfo
    ema: Mapping[str, np.ndarray] | None = None
    optimizer: Mapping[str, np.ndarray] | None = None
    training: Mapping[str, Any] | None = None
    format: str = "mindspore"
    guessed: frozenset[str] = frozenset()


def save_checkpoint(path: Path | str, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` as `.ckpt` or `.safetensors`, whichever `path` ends on; read back before it gets its name.

    Raises `UserError` for another ending, a full disk or an unwritable folder; an older file then stays as it was.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: a checkpoint's name ends on {' or '.join(SUFFIXES)}")
    arrays = _arrays(checkpoint)
    texts = {MODEL_INFO: checkpoint.info.to_json()}
    if checkpoint.training is not None:
        texts[TRAINING_STATE] = json.dumps(checkpoint.training)
    checksums = {name: checksum(array) for name, array in arrays.items()}
    checksums |= {name: checksum(_as_bytes(text)) for name, text in texts.items()}
    texts = {CHECKSUMS: json.dumps(checksums), **texts}

    def write(file: BinaryIO) -> None:
        if path.suffix == ".ckpt":
            write_ckpt(file, ({name: _as_bytes(text) for name, text in texts.items()} | arrays).items())
        else:
            write_safetensors(file, arrays, {"format": "ms", **texts})

    def check(written: Path) -> None:
        _compare(checksums, {name: checksum(array) for name, array in _stored_entries(written)}, written)

    write_atomically(path, write, check)


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a file that `save_checkpoint` wrote.

    Raises `UserError` for a missing, foreign or damaged file: every byte that matters is under a checksum.
    """
    path = Path(path)
    return assemble(dict(read_entries(path)), path)


def assemble(entries: Mapping[str, np.ndarray], path: Path) -> Checkpoint:
    """Sort what `read_entries` gave into a `Checkpoint`.

    Raises `UserError` where the model information is missing, or the checksums that always go with it.
    """
    if MODEL_INFO not in entries:
        raise UserError(f"{path} says nothing of its network: make it a checkpoint of this project with convert.py")
    if CHECKSUMS not in entries:
        raise UserError(f"{path} is damaged (its checksums are missing): use an earlier one")
    try:
        info = ModelInfo.from_json(_as_text(entries[MODEL_INFO]))
        training = json.loads(_as_text(entries[TRAINING_STATE])) if TRAINING_STATE in entries else None
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} holds model information that this version cannot read ({error}): use the version that wrote it"
        ) from error
    parts: dict[str, dict[str, np.ndarray]] = {"": {}, EMA_PREFIX: {}, OPTIMIZER_PREFIX: {}}
    for name, array in entries.items():
        if name not in TEXTS:
            prefix = next((prefix for prefix in (EMA_PREFIX, OPTIMIZER_PREFIX) if name.startswith(prefix)), "")
            parts[prefix][name.removeprefix(prefix)] = array
    for name, array in (parts[""] | parts[EMA_PREFIX]).items():
        if not np.issubdtype(array.dtype, np.floating):
            raise UserError(
                f"{path} holds a parameter '{name}' of type {array.dtype}, it is damaged: use an earlier one"
            )
    return Checkpoint(parts[""], info, parts[EMA_PREFIX] or None, parts[OPTIMIZER_PREFIX] or None, training)


def read_entries(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays and texts (as uint8 arrays) of a `.ckpt` or `.safetensors` file, whoever wrote it, one by one.

    Raises `UserError` for an unreadable or damaged file, at the latest after the last entry.
    """
    found: dict[str, int] = {}
    expected: Any = None
    for name, array in _stored_entries(path):
        if name in found:
            raise UserError(f"{path} holds '{name}' twice, it is damaged: use an earlier one")
        found[name] = checksum(array)
        if name == CHECKSUMS:
            try:
                expected = json.loads(_as_text(array))
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path} is damaged (its checksums are unreadable): use an earlier one") from error
        yield name, array
    if CHECKSUMS in found:
        _compare(expected, found, path)


def checksum(array: np.ndarray) -> int:
    """CRC-32 of type, shape and content."""
    crc = zlib.crc32(f"{array.dtype.str} {array.shape}".encode())
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, crc)


def _arrays(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    arrays = dict(checkpoint.weights)
    arrays |= {EMA_PREFIX + name: array for name, array in (checkpoint.ema or {}).items()}
    return arrays | {OPTIMIZER_PREFIX + name: array for name, array in (checkpoint.optimizer or {}).items()}


def _stored_entries(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    start = read_start(path)
    if looks_like_ckpt(start):
        yield from read_ckpt(path)
        return
    if not looks_like_safetensors(start):
        raise UserError(f"{path} is neither a MindSpore checkpoint nor a safetensors file, or it is damaged")
    metadata, arrays = read_safetensors(path)
    yield from ((name, _as_bytes(metadata[name])) for name in TEXTS if name in metadata)
    yield from arrays


def read_start(path: Path) -> bytes:
    """The first bytes of a file, by which formats are told apart; `UserError` for a missing or an empty file."""
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): check the path") from error
    if not start:
        raise UserError(f"{path} is empty: download or copy it again")
    return start


def _compare(expected: Any, found: dict[str, int], path: Path) -> None:
    if not isinstance(expected, dict):
        raise UserError(f"{path} is damaged (its checksums are unreadable): use an earlier one")
    for name in expected:
        if name not in found:
            raise UserError(f"{path} is damaged ('{name}' is missing: it was cut short): use an earlier one")
    for name, crc in found.items():
        if name != CHECKSUMS and expected.get(name) != crc:
            raise UserError(f"{path} is damaged (the checksum of '{name}' does not match): use an earlier one")


def _as_bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def _as_text(array: np.ndarray) -> str:
    """`ValueError` where the bytes are not a text."""
    return array.astype(np.uint8).tobytes().decode()

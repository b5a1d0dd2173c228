"""The project's checkpoint files: weights, the description of their network, and the state of the training.

A checkpoint is a MindSpore `.ckpt` or a `.safetensors` file. Its arrays are the network's parameters under the authors'
names, the averaged weights as `ema.<name>` and the optimizer's state as `optimizer.<name>`, so that MindSpore's own
`load_checkpoint` and `load_param_into_net` work on it. Three texts come with them: `model_info` (JSON of its
`Description`), `training_state` (JSON) and `checksums` (JSON, a CRC-32 of every other entry). They are uint8 arrays in
a `.ckpt` file, because `mindspore.ckpt_to_safetensors` fails on MindSpore's text entries, and metadata in a
`.safetensors` file.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import numpy as np

from src.errors import UserError, doing
from src.files.atomic_file import write_atomically
from src.files.regular_file import check_regular
from src.model.json_text import parse_json
from src.model.model_info import ModelInfo
from src.model.tokenizer_info import Description, read_description
from src.weights.arrays import MAX_FILE_BYTES
from src.weights.mindspore_ckpt_file import looks_like_ckpt, read_ckpt, write_ckpt
from src.weights.safetensors_file import looks_like_safetensors, read_safetensors, write_safetensors

EMA_PREFIX = "ema."
OPTIMIZER_PREFIX = "optimizer."

MODEL_INFO = "model_info"
TRAINING_STATE = "training_state"
CHECKSUMS = "checksums"
TEXTS = (CHECKSUMS, MODEL_INFO, TRAINING_STATE)

SUFFIXES = (".ckpt", ".safetensors")

MAX_ENTRIES = 10_000  # BEiT-large with averaged weights and optimizer has 1,700


Info = TypeVar("Info", bound=Description, covariant=True)


@dataclass(frozen=True)
class AnyCheckpoint(Generic[Info]):
    """The weights of a network and the state saved with them.

    Attributes:
        weights, ema: arrays by the authors' parameter names.
        optimizer: arrays by the trainer's names.
        training: JSON values of the trainer (epoch, step, ...).
        format: origin of the file: `mindspore`, `unilm`, `timm` or `hf`.
        guessed: fields of `info` that the file does not store; empty for a file of this project.
    """

    weights: Mapping[str, np.ndarray]
    info: Info
    ema: Mapping[str, np.ndarray] | None = None
    optimizer: Mapping[str, np.ndarray] | None = None
    training: Mapping[str, Any] | None = None
    format: str = "mindspore"
    guessed: frozenset[str] = frozenset()


Checkpoint = AnyCheckpoint[ModelInfo]
"""The checkpoint of a BEiT network."""


def save_checkpoint(path: Path | str, checkpoint: AnyCheckpoint[Description]) -> None:
    """Write `checkpoint` as `.ckpt` or `.safetensors`, by the suffix of `path`, and read it back before renaming it.

    Raises `UserError` for another suffix, a full disk or an unwritable folder; an older file then stays unchanged.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: the name of a checkpoint ends in {' or '.join(SUFFIXES)}; rename the output")
    parts = {"": checkpoint.weights, EMA_PREFIX: checkpoint.ema, OPTIMIZER_PREFIX: checkpoint.optimizer}
    arrays = {prefix + name: array for prefix, part in parts.items() for name, array in (part or {}).items()}
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


def load_checkpoint(path: Path | str) -> AnyCheckpoint[Description]:
    """Read a file that `save_checkpoint` wrote.

    Raises `UserError` for a missing, foreign or damaged file: checksums cover all content.
    """
    path = Path(path)
    with doing(f"reading {path}"):
        return assemble(dict(read_entries(path)), path)


def assemble(entries: Mapping[str, np.ndarray], path: Path) -> AnyCheckpoint[Description]:
    """Build a checkpoint from the entries of `read_entries`.

    Raises `UserError` without model information or checksums, and for fields that this version does not know.
    """
    if MODEL_INFO not in entries:
        raise UserError(f"{path} does not describe its network: make it a checkpoint of this project with convert.py")
    if CHECKSUMS not in entries:
        raise _damaged(path, "its checksums are missing")
    try:
        info = read_description(_as_text(entries[MODEL_INFO]))
        training = parse_json(_as_text(entries[TRAINING_STATE]), allow_nan=True) if TRAINING_STATE in entries else None
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} has model information that this version cannot read ({error}): use the version that wrote it"
        ) from error
    parts: dict[str, dict[str, np.ndarray]] = {"": {}, EMA_PREFIX: {}, OPTIMIZER_PREFIX: {}}
    for name, array in entries.items():
        if name not in TEXTS:
            prefix = next((prefix for prefix in (EMA_PREFIX, OPTIMIZER_PREFIX) if name.startswith(prefix)), "")
            parts[prefix][name.removeprefix(prefix)] = array
    for name, array in (parts[""] | parts[EMA_PREFIX]).items():
        if not np.issubdtype(array.dtype, np.floating):
            raise _damaged(path, f"parameter '{name}' has type {array.dtype}")
    return AnyCheckpoint(parts[""], info, parts[EMA_PREFIX] or None, parts[OPTIMIZER_PREFIX] or None, training)


def read_entries(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays and texts (as uint8 arrays) of any `.ckpt` or `.safetensors` file.

    Raises `UserError` for an unreadable or damaged file, at the latest after the last entry.
    """
    found: dict[str, int] = {}
    expected: Any = None
    for name, array in _stored_entries(path):
        if name in found:
            raise _damaged(path, f"it has '{name}' twice")
        if len(found) >= MAX_ENTRIES:
            raise _damaged(path, f"it has more than the limit of {MAX_ENTRIES} entries")
        found[name] = checksum(array)
        if name == CHECKSUMS:
            try:
                expected = parse_json(_as_text(array))
            except ValueError as error:
                raise _damaged(path, "its checksums are unreadable") from error
        yield name, array
    if CHECKSUMS in found:
        _compare(expected, found, path)


def checksum(array: np.ndarray) -> int:
    """Return the CRC-32 of type, shape and content."""
    crc = zlib.crc32(f"{array.dtype.str} {array.shape}".encode())
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, crc)


def read_start(path: Path) -> bytes:
    """Return the first 64 bytes of a file, which identify its format.

    Raises `UserError` for a missing or empty file, for a pipe or device, and for a file beyond the limit of sizes.
    """
    check_regular(path, MAX_FILE_BYTES)
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): check the path") from error
    if not start:
        raise UserError(f"{path} is empty: download or copy it again")
    return start


def _stored_entries(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    start = read_start(path)
    if looks_like_ckpt(start):
        yield from read_ckpt(path)
        return
    if not looks_like_safetensors(start):
        raise UserError(
            f"{path} is neither a MindSpore checkpoint nor a safetensors file, or it is damaged: use another file"
        )
    metadata, arrays = read_safetensors(path)
    yield from ((name, _as_bytes(metadata[name])) for name in TEXTS if name in metadata)
    yield from arrays


def _compare(expected: Any, found: dict[str, int], path: Path) -> None:
    if not isinstance(expected, dict):
        raise _damaged(path, "its checksums are unreadable")
    for name in expected:
        if name not in found:
            raise _damaged(path, f"it is truncated, '{name}' is missing")
    for name, crc in found.items():
        if name != CHECKSUMS and expected.get(name) != crc:
            raise _damaged(path, f"the checksum of '{name}' does not match")


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is damaged ({reason}): use an earlier checkpoint")


def _as_bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def _as_text(array: np.ndarray) -> str:
    """Decode a text; `ValueError` for bytes that are not UTF-8."""
    return array.astype(np.uint8).tobytes().decode()

"""Writing weights as files of the authors, timm and transformers, each loadable there with `strict=True`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from src.errors import UserError
from src.files.atomic_file import write_atomically
from src.weights.names import (
    HF_FILES,
    HF_NETWORK,
    INDEX_BUFFER,
    TABLE,
    has_place_in_hugging_face,
    is_pretraining_only,
    to_hugging_face,
)
from src.weights.safetensors_file import read_safetensors, write_safetensors
from src.weights.sizes import grid_of_table
from src.weights.state_dict import find_state_dict
from src.weights.torch_file import open_torch_file, write_torch_file

# `hf` is the layout of transformers' networks since version 5, `hf4` the one before, which is also that of its files:
# `from_pretrained` of version 5 reads both, `load_state_dict` only its own.
SUFFIXES = {
    "unilm": (".pth",),
    "timm": (".safetensors", ".pth"),
    "hf": (".safetensors", ".bin"),
    "hf4": (".safetensors", ".bin"),
}


def write_foreign(path: Path, weights: Mapping[str, np.ndarray], target: str) -> list[str]:
    """Write float32 `weights` (under the authors' names) as a file of `target`, a key of `SUFFIXES`.

    Returns the parameters that `target` has no place for and that were left out: some of those that only pre-training
    uses. Raises `UserError` for an ending that `target` does not use, and where the file cannot be written.
    """
    if path.suffix not in SUFFIXES[target]:
        raise UserError(f"{path}: a file for {target} ends on {' or '.join(SUFFIXES[target])}")
    kept = {name: array for name, array in weights.items() if _has_place(name, target)}
    translated = _translate(kept, target)

    def write(file: BinaryIO) -> None:
        if path.suffix == ".safetensors":
            write_safetensors(file, translated, {"format": "pt"})  # transformers asks for this word
        else:
            write_torch_file(file, translated, wrapper="model" if target == "unilm" else None)

    def check(written: Path) -> None:
        for name, array in _read_back(written, path.suffix):
            if not np.array_equal(array, translated[name]):
                raise UserError(f"parameter '{name}' reads back differently")

    write_atomically(path, write, check)
    return [name for name in weights if name not in kept]


def _read_back(path: Path, suffix: str) -> Iterator[tuple[str, np.ndarray]]:
    if suffix == ".safetensors":
        yield from read_safetensors(path)[1]
        return
    with open_torch_file(path) as (content, read_tensor):
        for name, tensor in find_state_dict(content, ema=False, path=path).items():
            yield name, read_tensor(tensor, name)


def _has_place(name: str, target: str) -> bool:
    if target == "timm":
        return not is_pretraining_only(name)
    return target == "unilm" or has_place_in_hugging_face(name)


def _translate(weights: Mapping[str, np.ndarray], target: str) -> dict[str, np.ndarray]:
    if target in ("hf", "hf4"):
        return to_hugging_face(weights, HF_NETWORK if target == "hf" else HF_FILES)
    if target == "unilm":
        return {**weights, **_index_buffers(weights)}
    return dict(weights)


def _index_buffers(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The authors' networks store beside each bias table which of its rows every pair of tokens reads."""
    # MindSpore is imported with it, which is why that waits until somebody asks for the authors' format
    from src.layers.relative_position_bias import relative_position_index

    buffers: dict[str, np.ndarray] = {}
    index: dict[int, np.ndarray] = {}
    for name, array in weights.items():
        if name.endswith(TABLE):
            grid = grid_of_table(len(array))
            if grid not in index:
                index[grid] = relative_position_index(grid, grid).astype(np.int64)
            buffers[re.sub(f"{TABLE}$", INDEX_BUFFER, name)] = index[grid]
    return buffers

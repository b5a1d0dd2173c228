"""Weights as files for timm, transformers and the authors' code, each loadable there with `strict=True`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from src.errors import UserError
from src.files.atomic_file import write_atomically
from src.weights.names import HF_FILES, HF_NETWORK, in_hugging_face, is_pretraining_only, to_hugging_face
from src.weights.safetensors_file import read_safetensors, write_safetensors
from src.weights.state_dict import find_state_dict
from src.weights.torch_file import open_torch_file
from src.weights.unilm_file import index_buffers, write_unilm_file

# Suffix of each target's file. `hf` is the layout of transformers' networks since version 5 and `hf4` the one before,
# which transformers still writes: `from_pretrained` of version 5 reads both, `load_state_dict` only its own.
SUFFIXES = {"unilm": ".pth", "timm": ".safetensors", "hf": ".safetensors", "hf4": ".safetensors"}


def write_foreign(path: Path, weights: Mapping[str, np.ndarray], target: str) -> list[str]:
    """Write float32 `weights` (the authors' names) as a file for `target`, a key of `SUFFIXES`.

    Returns the parameters that `target` has no place for, which are left out: pre-training heads and blocks. Raises
    `UserError` for another suffix, and where the file cannot be written.
    """
    if path.suffix != SUFFIXES[target]:
        raise UserError(f"{path}: a file for {target} ends in {SUFFIXES[target]}; rename the output")
    kept = {name: array for name, array in weights.items() if _has_place(name, target)}
    arrays = _translate(kept, target)

    def write(file: BinaryIO) -> None:
        if target == "unilm":
            write_unilm_file(file, arrays)
        else:
            write_safetensors(file, arrays, {"format": "pt"})  # transformers requires this entry

    def check(written: Path) -> None:
        for name, array in _read_back(written, target):
            if not np.array_equal(array, arrays[name]):
                raise UserError(f"parameter '{name}' reads back differently")

    write_atomically(path, write, check)
    return [name for name in weights if name not in kept]


def _read_back(path: Path, target: str) -> Iterator[tuple[str, np.ndarray]]:
    if target != "unilm":
        yield from read_safetensors(path)[1]
        return
    with open_torch_file(path) as (content, read_tensors):
        yield from read_tensors(find_state_dict(content, ema=False, path=path))


def _has_place(name: str, target: str) -> bool:
    if target == "timm":
        return not is_pretraining_only(name)
    return target == "unilm" or in_hugging_face(name)


def _translate(weights: Mapping[str, np.ndarray], target: str) -> dict[str, np.ndarray]:
    if target == "timm":
        return dict(weights)
    if target == "unilm":
        return {**weights, **index_buffers(weights)}
    return to_hugging_face(weights, HF_NETWORK if target == "hf" else HF_FILES)

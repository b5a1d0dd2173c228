"""Files of image tokenizers: which kind one is, and its weights. Imports no MindSpore.

A kind is recognized by the names of its parameters. Nothing in a file is executed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError, doing
from src.weights.arrays import as_weights
from src.weights.checkpoint import TEXTS, read_entries, read_start
from src.weights.mindspore_ckpt_file import looks_like_ckpt
from src.weights.pickle_machine import Module
from src.weights.safetensors_file import looks_like_safetensors
from src.weights.state_dict import find_state_dict, module_tensors
from src.weights.torch_file import looks_like_torch, open_torch_file

DALLE, VQKD, DVAE = "DALL-E", "VQ-KD", "dVAE"

# A parameter that only this kind has.
MARKS = {DALLE: "blocks.output.conv.w", VQKD: "quantize.embedding.weight", DVAE: "codebook.weight"}
EXPECTED = "DALL-E's encoder.pkl, a VQ-KD of BEiT v2, or a dVAE"
# The authors' files of a VQ-KD hold more than the tokenizer needs.
VQKD_PARTS = ("encoder.", "encode_task_layer.", "quantize.embedding.weight")
WRAPPER = "weights"  # the key of the authors' files of a dVAE


@dataclass(frozen=True)
class TokenizerFile:
    """The `weights` of the tokenizer in the file `path`, float32 under the authors' names; `kind` is a key of MARKS."""

    path: Path
    kind: str
    weights: Mapping[str, np.ndarray]


def read_tokenizer_file(path: Path) -> TokenizerFile:
    """Read DALL-E's `encoder.pkl`, a VQ-KD of BEiT v2, or a dVAE of the authors or of train_tokenizer.py.

    Raises `UserError` for any other file.
    """
    with doing(f"reading {path}"):
        weights = _read(path)
        if MARKS[VQKD] in weights:
            weights = {name: array for name, array in weights.items() if name.startswith(VQKD_PARTS)}
        weights = as_weights(weights, path)
    kind = next((kind for kind, mark in MARKS.items() if mark in weights), None)
    if kind is None:
        found = "is a BEiT network" if "patch_embed.proj.weight" in weights else "does not hold a known tokenizer"
        raise UserError(f"{path} {found}: give {EXPECTED}")
    if kind == DALLE and _is_decoder(weights):
        raise UserError(f"{path} is DALL-E's decoder: give encoder.pkl")
    return TokenizerFile(path, kind, weights)


def read_dalle_decoder(path: Path) -> TokenizerFile:
    """Read DALL-E's `decoder.pkl`; raises `UserError` for any other file."""
    with doing(f"reading {path}"):
        weights = as_weights(_read(path), path)
    if MARKS[DALLE] not in weights or not _is_decoder(weights):
        raise UserError(f"{path} is not DALL-E's decoder: give the published file, or move it away")
    return TokenizerFile(path, DALLE, weights)


def _is_decoder(weights: Mapping[str, np.ndarray]) -> bool:
    first = weights.get("blocks.input.w")
    return first is not None and first.shape[1:2] != (3,)


def _read(path: Path) -> dict[str, np.ndarray]:
    start = read_start(path)
    if looks_like_torch(start):
        with open_torch_file(path) as (content, read_tensors):
            return dict(read_tensors(_tensors(content, path)))
    if looks_like_ckpt(start) or looks_like_safetensors(start):
        entries = read_entries(path)
        return {name: array for name, array in entries if name not in TEXTS and not name.startswith("optimizer.")}
    raise UserError(f"{path} does not hold weights: give {EXPECTED}")


def _tensors(content: Any, path: Path) -> dict[str, Any]:
    if isinstance(content, Module):
        return module_tensors(content, path)
    if isinstance(content, dict) and isinstance(content.get(WRAPPER), dict):
        content = content[WRAPPER]
    return find_state_dict(content, ema=False, path=path)

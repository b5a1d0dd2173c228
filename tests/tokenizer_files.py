"""Tokenizer files as they are published, with the weights of the recipe; written without PyTorch."""

from __future__ import annotations

import math
import zipfile
from ast import literal_eval
from pathlib import Path

import numpy as np

from src.weights.state_dict import module_tensors
from src.weights.torch_pickle import load_pickle
from src.weights.unilm_file import write_unilm_file
from tests.golden.tokenizer_recipe import weight

GOLDEN = Path(__file__).parent / "golden"


def write_dalle(path: Path) -> Path:
    """Write DALL-E's small encoder: the pickled module that torch.save wrote, and the storages that it refers to."""
    data = (GOLDEN / "dalle_encoder.pkl").read_bytes()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", data)
        for name, tensor in module_tensors(load_pickle(data), path).items():
            assert math.prod(tensor.shape) == tensor.storage.numel
            archive.writestr(f"archive/data/{tensor.storage.key}", weight(name, tensor.shape).tobytes())
    return path


def vqkd_weights(golden) -> dict[str, np.ndarray]:
    """The state dict of the authors' small VQ-KD, decoder included."""
    shapes = {str(name): literal_eval(str(shape)) for name, shape in zip(golden["vqkd/names"], golden["vqkd/shapes"])}
    weights = {name: weight(name, shape) for name, shape in shapes.items()}
    codes = weights["quantize.embedding.weight"]
    weights["quantize.embedding.weight"] = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    return weights


def write_state_dict(path: Path, weights: dict[str, np.ndarray]) -> Path:
    """Write `{"model": state_dict}`."""
    with path.open("wb") as file:
        write_unilm_file(file, weights)
    return path

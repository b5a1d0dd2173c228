"""Checkpoints of any format that BEiT is published in, read as this project's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError
from src.model.model_config import ModelConfig
from src.model.model_info import IMAGENET_DEFAULT_MEAN_STD, INPUT_FIELDS, ModelInfo
from src.weights.arrays import as_weights
from src.weights.checkpoint import MODEL_INFO, Checkpoint, assemble, read_entries, read_start
from src.weights.ckpt_file import looks_like_ckpt
from src.weights.model_hub import HF_LAYER_NORM_EPS, stated_beside
from src.weights.names import INDEX_BUFFER, recognize, to_authors
from src.weights.safetensors_file import looks_like_safetensors
from src.weights.sizes import find_arch, measure, model_config
from src.weights.state_dict import find_state_dict, script_arguments
from src.weights.torch_file import looks_like_torch, open_torch_file

# Fields of ModelInfo that weights do not show.
UNSEEN = (*INPUT_FIELDS, "approximate_gelu", "layer_norm_eps")

# Fields that weights show (the first one only with a position table).
SEEN = (
    *("image_size", "num_classes", "rel_pos_bias", "shared_rel_pos_bias"),
    *("abs_pos_emb", "layer_scale", "mean_pooling"),
)

# timm's published evaluation, and the value in the authors' own model configurations: the whole image from 384 on.
CROP_PCT_FROM_384 = 1.0

# What MindSpore's ModelCheckpoint callback writes beside the weights.
MINDSPORE_COUNTERS = ("epoch_num", "step_num")


def load_pretrained(path: Path | str, *, arch: str | None = None, ema: bool = False) -> Checkpoint:
    """Read a checkpoint of this project, the authors, timm or transformers; the format is recognized by its content.

    Args:
        arch: the architecture that the file must be of; without it, the one that its sizes fit.
        ema: take the averaged weights in place of the raw ones, and no optimizer or training state.

    Returns:
        The weights in float32 under the authors' names, without index buffers but with what only pre-training uses.
        For a foreign file `format` is `unilm`, `timm` or `hf` (or `mindspore` for a plain MindSpore file), and
        `guessed` names what the file did not state; the image size is that of the position tables.

    Raises `UserError`, one line naming the file and where possible the parameter, for everything that can be wrong.
    """
    path = Path(path)
    start = read_start(path)
    if looks_like_torch(start):
        return _from_torch(path, arch, ema)
    if looks_like_ckpt(start) or looks_like_safetensors(start):
        entries = dict(read_entries(path))
        if MODEL_INFO in entries:
            return _own(assemble(entries, path), path, arch, ema)
        if ema:
            raise UserError(f"{path} holds no averaged weights: leave out --ema")
        if looks_like_ckpt(start):
            entries = {name: array for name, array in entries.items() if name not in MINDSPORE_COUNTERS}
        source = recognize(entries, path)
        return _foreign(entries, source if looks_like_safetensors(start) else "mindspore", path, arch, {})
    raise UserError(f"{path} is no checkpoint: {_what_it_seems(start)}")


def _own(checkpoint: Checkpoint, path: Path, arch: str | None, ema: bool) -> Checkpoint:
    if arch is not None and arch != checkpoint.info.model.arch:
        raise UserError(f"{path} is a {checkpoint.info.model.arch}, not a {arch}: give its own arch")
    if ema and checkpoint.ema is None:
        raise UserError(f"{path} holds no averaged weights: leave out --ema")
    weights = as_weights(checkpoint.ema if ema and checkpoint.ema is not None else checkpoint.weights, path)
    sizes = measure(weights, path)
    stored, measured = checkpoint.info.model, model_config(sizes, checkpoint.info.model.arch)
    for field in SEEN if sizes.grid else SEEN[1:]:
        said, found = getattr(stored, field), getattr(measured, field)
        if said != found:
            raise UserError(
                f"{path} stores {field} {said}, but its weights have {found} (another program changed it): "
                "use the original file"
            )
    if ema:
        return Checkpoint(weights, checkpoint.info)
    return replace(checkpoint, weights=weights)


def _from_torch(path: Path, arch: str | None, ema: bool) -> Checkpoint:
    with open_torch_file(path) as (content, read_tensor):
        tensors = find_state_dict(content, ema, path)
        source = recognize(tensors, path)
        wanted = {name: tensor for name, tensor in tensors.items() if not name.endswith(INDEX_BUFFER)}
        arrays = {name: read_tensor(tensor, name) for name, tensor in wanted.items()}
    return _foreign(arrays, source, path, arch, _stated_by_script(script_arguments(content)))


def _foreign(
    arrays: Mapping[str, np.ndarray], source: str, path: Path, arch: str | None, stated: Mapping[str, Any]
) -> Checkpoint:
    weights = as_weights(to_authors(arrays, source, path), path)
    sizes = measure(weights, path)
    model = model_config(sizes, find_arch(sizes, arch, path))
    stated = {**stated_beside(path, model.image_size), **stated}
    if source != "hf":
        stated["layer_norm_eps"] = ModelConfig.layer_norm_eps  # the same in all networks of the authors and timm
    info = ModelInfo.from_dict(asdict(model) | _guess(path, source, model.image_size) | stated)
    if info.class_names and len(info.class_names) != sizes.num_classes:
        raise UserError(
            f"{path}: config.json beside it names {len(info.class_names)} classes, the head has {sizes.num_classes}: "
            "move the weights to a folder of their own"
        )
    return Checkpoint(weights, info, format=source, guessed=frozenset(UNSEEN) - frozenset(stated))


def _guess(path: Path, source: str, image_size: int) -> dict[str, Any]:
    """Guess the fields that the file does not store."""
    guess: dict[str, Any] = {"layer_norm_eps": HF_LAYER_NORM_EPS} if source == "hf" else {}
    if image_size >= 384:
        guess["crop_pct"] = CROP_PCT_FROM_384
    if any(word in path.name for word in ("beitv2", "pt1k")):
        # trained on ImageNet-1k alone, for which the authors use ImageNet's own mean and std
        guess["mean"], guess["std"] = IMAGENET_DEFAULT_MEAN_STD
    return guess


def _stated_by_script(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What the authors' script was told of the images."""
    stated: dict[str, Any] = {}
    imagenet = arguments.get("imagenet_default_mean_and_std")
    if imagenet is True:
        stated["mean"], stated["std"] = IMAGENET_DEFAULT_MEAN_STD
    elif imagenet is False:
        stated["mean"], stated["std"] = ModelInfo.mean, ModelInfo.std
    if isinstance(crop_pct := arguments.get("crop_pct"), float):
        stated["crop_pct"] = crop_pct
    return stated


def _what_it_seems(start: bytes) -> str:
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; fetch the file itself with 'git lfs pull'"
    if start.lstrip()[:1] == b"<":
        return "it seems to be a web page; download the file itself"
    return "it is neither a MindSpore, a safetensors nor a PyTorch file, or it is damaged"

"""Checkpoints of every format that BEiT is published in, read as checkpoints of this project."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError, doing
from src.model.model_config import ModelConfig
from src.model.model_info import IMAGENET_DEFAULT_MEAN_STD, INPUT_FIELDS, MODEL_FIELDS, ModelInfo
from src.model.tokenizer_info import Description
from src.model.variants import get_variant
from src.weights.arrays import as_weights
from src.weights.checkpoint import MODEL_INFO, AnyCheckpoint, Checkpoint, assemble, read_entries, read_start
from src.weights.mindspore_ckpt_file import looks_like_ckpt
from src.weights.model_hub import HF_LAYER_NORM_EPS, stated_beside
from src.weights.names import INDEX_BUFFER, recognize, to_authors
from src.weights.safetensors_file import looks_like_safetensors
from src.weights.sizes import find_model, measure
from src.weights.state_dict import find_state_dict, script_arguments
from src.weights.torch_file import looks_like_torch, open_torch_file

# Fields of ModelInfo that weights do not determine.
UNDETERMINED = (*INPUT_FIELDS, "approximate_gelu", "layer_norm_eps", "early_layers")
# Fields that earlier versions did not write beside the weights.
LATER_FIELDS = ("lm_head_outputs", "head_layers")

# In the published networks of BEiT v2, the `cls_pt_layers` see the patch tokens that are this many blocks old: those
# after block 9 of 12 in base, 21 of 24 in large.
LAST_LAYERS = 3

# timm's published evaluation and the authors' model configurations use the whole image from 384 pixels on.
CROP_PCT_FROM_384 = 1.0

MINDSPORE_COUNTERS = ("epoch_num", "step_num")  # of MindSpore's ModelCheckpoint callback


def load_pretrained(path: Path | str, *, arch: str | None = None, ema: bool = False) -> Checkpoint:
    """Read a checkpoint of this project, the authors, timm or transformers; its content determines the format.

    Args:
        arch: the required architecture; by default the one that fits the sizes of the weights.
        ema: return the averaged weights in place of the raw ones, without optimizer and training state.

    Returns:
        The weights in float32 under the authors' names, including parameters that only pre-training uses, without index
        buffers. `format` is `mindspore`, `unilm`, `timm` or `hf`. `guessed` names the fields of `info` that a foreign
        file does not store. The image size of a foreign file is that of its position tables.

    Raises `UserError` with the file and, where possible, the parameter for any unusable file.
    """
    path = Path(path)
    with doing(f"reading {path}"):
        return _load(path, arch, ema)


def _load(path: Path, arch: str | None, ema: bool) -> Checkpoint:
    start = read_start(path)
    if looks_like_torch(start):
        return _from_torch(path, arch, ema)
    if not looks_like_ckpt(start) and not looks_like_safetensors(start):
        raise UserError(f"{path} is not a checkpoint: {_likely_content(start)}")
    entries = dict(read_entries(path))
    if MODEL_INFO in entries:
        return _own(assemble(entries, path), path, arch, ema)
    if ema:
        raise _no_ema(path)
    if looks_like_ckpt(start):
        entries = {name: array for name, array in entries.items() if name not in MINDSPORE_COUNTERS}
    source = recognize(entries, path)
    return _foreign(entries, source if looks_like_safetensors(start) else "mindspore", path, arch, {})


def _own(checkpoint: AnyCheckpoint[Description], path: Path, arch: str | None, ema: bool) -> Checkpoint:
    info = checkpoint.info
    if not isinstance(info, ModelInfo):
        raise UserError(f"{path} is a tokenizer, not a BEiT: give it as --tokenizer of pretrain.py")
    stored = info.model
    if arch is not None and arch != stored.arch:
        raise UserError(f"{path} is a {stored.arch}, not a {arch}: give its arch")
    if ema and checkpoint.ema is None:
        raise _no_ema(path)
    weights = as_weights(checkpoint.ema if ema and checkpoint.ema is not None else checkpoint.weights, path)
    measured = measure(weights, path).model
    measured = replace(measured, image_size=measured.image_size or stored.image_size)
    not_written = {name: getattr(measured, name) for name in LATER_FIELDS if not getattr(stored, name)}
    stored = replace(stored, **not_written)
    for field in MODEL_FIELDS:
        if field not in ("arch", *UNDETERMINED) and getattr(stored, field) != getattr(measured, field):
            raise UserError(
                f"{path} stores {field} {getattr(stored, field)}, but its weights have {getattr(measured, field)} "
                "(another program changed it): use the original file"
            )
    info = replace(info, model=stored)
    if ema:
        return Checkpoint(weights, info)
    return Checkpoint(weights, info, checkpoint.ema, checkpoint.optimizer, checkpoint.training)


def _from_torch(path: Path, arch: str | None, ema: bool) -> Checkpoint:
    with open_torch_file(path) as (content, read_tensors):
        tensors = find_state_dict(content, ema, path)
        source = recognize(tensors, path)
        wanted = {name: tensor for name, tensor in tensors.items() if not name.endswith(INDEX_BUFFER)}
        read = dict(read_tensors(wanted))
        arrays = {name: read[name] for name in wanted}
    return _foreign(arrays, source, path, arch, _stated_by_script(script_arguments(content)))


def _foreign(
    arrays: Mapping[str, np.ndarray], source: str, path: Path, arch: str | None, stated: Mapping[str, Any]
) -> Checkpoint:
    weights = as_weights(to_authors(arrays, source, path), path)
    model = find_model(measure(weights, path), arch, path)
    undetermined = set(UNDETERMINED)
    if model.head_layers:
        model = replace(model, early_layers=max(get_variant(model.arch).depth - LAST_LAYERS, 1))
    else:
        undetermined.remove("early_layers")
    stated = {**stated_beside(path, model.image_size), **stated}
    if source != "hf":
        stated["layer_norm_eps"] = ModelConfig.layer_norm_eps  # the same in all networks of the authors and timm
    names = stated.get("class_names", ())
    if names and len(names) != model.num_classes:
        raise UserError(
            f"{path.with_name('config.json')} names {len(names)} classes, but the head of {path.name} has "
            f"{model.num_classes}: move the weights to another folder"
        )
    try:
        info = ModelInfo.from_dict(asdict(model) | _guess(path, source, model.image_size) | stated)
    except ValueError as error:
        raise UserError(
            f"{path}: its description, or the config.json beside it, cannot be used ({error}): correct it, or give "
            "another file"
        ) from error
    return Checkpoint(weights, info, format=source, guessed=frozenset(undetermined - set(stated)))


def _guess(path: Path, source: str, image_size: int) -> dict[str, Any]:
    """Guess the fields that the file does not store."""
    guess: dict[str, Any] = {"layer_norm_eps": HF_LAYER_NORM_EPS} if source == "hf" else {}
    if image_size >= 384:
        guess["crop_pct"] = CROP_PCT_FROM_384
    if any(word in path.name for word in ("beitv2", "pt1k")):
        # trained on ImageNet-1k alone, for which the authors use ImageNet's mean and std
        guess["mean"], guess["std"] = IMAGENET_DEFAULT_MEAN_STD
    return guess


def _stated_by_script(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the preparation of images from the command line of the authors' script."""
    stated: dict[str, Any] = {}
    imagenet = arguments.get("imagenet_default_mean_and_std")
    if imagenet is True:
        stated["mean"], stated["std"] = IMAGENET_DEFAULT_MEAN_STD
    elif imagenet is False:
        stated["mean"], stated["std"] = ModelInfo.mean, ModelInfo.std
    if isinstance(crop_pct := arguments.get("crop_pct"), float):
        stated["crop_pct"] = crop_pct
    return stated


def _no_ema(path: Path) -> UserError:
    return UserError(f"{path} has no averaged weights: leave out --ema")


def _likely_content(start: bytes) -> str:
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; fetch the file itself with 'git lfs pull'"
    if start.lstrip()[:1] == b"<":
        return "it looks like a web page; download the file itself"
    return "it is not a MindSpore, safetensors or PyTorch file, or it is damaged; download it again"

"""What stands beside a file from a model hub: `config.json` and `preprocessor_config.json` say how to prepare images.

timm's `config.json` holds `pretrained_cfg`; transformers' holds `id2label` and `hidden_act`, its
`preprocessor_config.json` mean and std.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from src.errors import UserError

# The names under which timm and transformers publish weights; beside any other name a config.json may be anybody's.
HUB_FILE_NAMES = ("model.safetensors", "pytorch_model.bin")


def stated_beside(path: Path) -> dict[str, Any]:
    """Fields of `ModelInfo` that the configuration files beside `path` state; none for a file of another name.

    Raises `UserError` for a configuration file that cannot be read.
    """
    if path.name not in HUB_FILE_NAMES:
        return {}
    config = _read(path.with_name("config.json"))
    stated: dict[str, Any] = {}
    timm = config.get("pretrained_cfg")
    if isinstance(timm, dict):
        stated |= _image_numbers(timm.get("mean"), timm.get("std"))
        if _is_number(timm.get("crop_pct")):
            stated["crop_pct"] = float(timm["crop_pct"])
        stated |= _class_names(timm.get("label_names"))
    if config.get("model_type") == "beit":
        prepared = _read(path.with_name("preprocessor_config.json"))
        stated |= _image_numbers(prepared.get("image_mean"), prepared.get("image_std"))
        stated["approximate_gelu"] = config.get("hidden_act", "gelu") != "gelu"
        labels = config.get("id2label")
        if isinstance(labels, dict):
            stated |= _class_names([labels.get(str(label)) for label in range(len(labels))])
    return stated


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}): mend it or move the weights to another folder") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a JSON object: mend it or move the weights to another folder")
    return config


def _image_numbers(mean: Any, std: Any) -> dict[str, Any]:
    if not all(isinstance(v, list) and len(v) == 3 and all(map(_is_number, v)) for v in (mean, std)):
        return {}
    return {"mean": tuple(map(float, mean)), "std": tuple(map(float, std))}


def _class_names(names: Any) -> dict[str, Any]:
    """The names, unless they are transformers' placeholders `LABEL_0`, `LABEL_1`, ..."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return {}
    if all(name == f"LABEL_{label}" for label, name in enumerate(names)):
        return {}
    return {"class_names": tuple(names)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

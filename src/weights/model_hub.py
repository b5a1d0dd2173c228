"""Configuration files beside weights from a model hub.

timm's `config.json` holds `pretrained_cfg`; transformers' holds `id2label`, `hidden_act` and `layer_norm_eps`, and its
`preprocessor_config.json` the preparation of images.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

from src.errors import UserError

# The names under which timm and transformers publish weights; beside any other name a config.json may be anybody's.
HUB_FILE_NAMES = ("model.safetensors", "pytorch_model.bin")

HF_LAYER_NORM_EPS = 1e-12  # default of transformers' BeitConfig
FILTER_NAMES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # by Pillow's number
CROP_MODES = ("center", "squash")

logger = logging.getLogger("beit")


def stated_beside(path: Path, image_size: int) -> dict[str, Any]:
    """Fields of `ModelInfo` from the configuration files beside `path`; none for a file of another name.

    Settings that this project cannot reproduce for images of `image_size` pixels are named in one warning line. Raises
    `UserError` for a configuration file that cannot be read.
    """
    if path.name not in HUB_FILE_NAMES:
        return {}
    config = _read(path.with_name("config.json"))
    stated: dict[str, Any] = {}
    timm = config.get("pretrained_cfg")
    if isinstance(timm, dict):
        stated |= _timm_fields(timm)
    if config.get("model_type") == "beit":
        stated["approximate_gelu"] = config.get("hidden_act", "gelu") != "gelu"
        stated["layer_norm_eps"] = float(config.get("layer_norm_eps", HF_LAYER_NORM_EPS))
        labels = config.get("id2label")
        if isinstance(labels, dict):
            stated |= _class_names([labels.get(str(label)) for label in range(len(labels))])
        processor = path.with_name("preprocessor_config.json")
        fields, ignored = _processor_fields(_read(processor), image_size)
        stated |= fields
        if ignored:
            logger.warning("%s: not supported and ignored: %s", processor, ", ".join(ignored))
    return stated


def _timm_fields(config: dict[str, Any]) -> dict[str, Any]:
    """Read timm's `pretrained_cfg`."""
    fields = _image_numbers(config.get("mean"), config.get("std")) | _class_names(config.get("label_names"))
    if _is_number(config.get("crop_pct")):
        fields["crop_pct"] = float(config["crop_pct"])
    if config.get("interpolation") in FILTER_NAMES.values():
        fields["interpolation"] = config["interpolation"]
    if config.get("crop_mode") in CROP_MODES:
        fields["crop_mode"] = config["crop_mode"]
    return fields


def _processor_fields(config: dict[str, Any], image_size: int) -> tuple[dict[str, Any], list[str]]:
    """Read transformers' `preprocessor_config.json`: the fields, and `NAME VALUE` of each setting without a field.

    transformers resizes both sides to `size`, then crops the center of `crop_size` pixels.
    """
    fields, ignored = _image_numbers(config.get("image_mean"), config.get("image_std")), []
    for name, usual in {"do_resize": True, "do_rescale": True, "do_normalize": True}.items():
        if config.get(name, usual) != usual:
            ignored.append(f"{name} {config[name]}")
    if "rescale_factor" in config and not _is_close(config["rescale_factor"], 1 / 255):
        ignored.append(f"rescale_factor {config['rescale_factor']}")
    if "resample" in config:
        if config["resample"] in FILTER_NAMES:
            fields["interpolation"] = FILTER_NAMES[config["resample"]]
        else:
            ignored.append(f"resample {config['resample']}")
    if "size" in config:
        size, mode = _side(config["size"])
        crop = _side(config.get("crop_size", config["size"]))[0] if config.get("do_center_crop", False) else size
        if size is None or crop != image_size or size < crop:
            ignored.append(f"size {config['size']} with crop_size {config.get('crop_size')} for {image_size} pixels")
        else:
            fields |= {"crop_mode": mode, "crop_pct": _crop_pct(crop, size)}
    return fields, ignored


def _side(size: Any) -> tuple[int | None, str]:
    """Side in pixels, and the crop mode, of a `size` of transformers: a number, height and width, or shortest edge."""
    if type(size) is int:
        return size, "squash"
    if isinstance(size, dict) and type(size.get("shortest_edge")) is int:
        return size["shortest_edge"], "center"
    if isinstance(size, dict) and type(size.get("height")) is int and size["height"] == size.get("width"):
        return size["height"], "squash"
    return None, "squash"


def _crop_pct(crop: int, size: int) -> float:
    """Return the ratio for which `floor(crop / ratio)` is `size`, also where `crop / size` is rounded up."""
    ratio = crop / size
    return ratio if math.floor(crop / ratio) == size else crop / (size + 0.5)


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
    """Return the names, unless they are transformers' placeholders `LABEL_0`, `LABEL_1`, ..."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return {}
    if all(name == f"LABEL_{label}" for label, name in enumerate(names)):
        return {}
    return {"class_names": tuple(names)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_close(value: Any, expected: float) -> bool:
    return _is_number(value) and math.isclose(value, expected, rel_tol=1e-6)

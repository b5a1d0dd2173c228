"""Configuration files beside weights from a model hub.

timm's `config.json` holds `pretrained_cfg`; transformers' holds `id2label`, `hidden_act` and `layer_norm_eps`, and its
`preprocessor_config.json` the preparation of images.
"""

import logging
import math
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.files.regular_file import check_regular
from src.model.json_text import MAX_JSON_BYTES, parse_json
from src.model.model_info import CROP_MODES, INTERPOLATIONS

# The names under which timm and transformers publish weights; beside any other name a config.json may be anybody's.
HUB_FILE_NAMES = ("model.safetensors", "pytorch_model.bin")

# Defaults of transformers 5: `BeitConfig` and `BeitImageProcessor`.
HF_LAYER_NORM_EPS = 1e-12
HF_PROCESSOR_DEFAULTS: dict[str, Any] = {
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 3,
    "do_center_crop": False,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
FILTER_NAMES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # by Pillow's number

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
        stated["layer_norm_eps"] = config.get("layer_norm_eps", HF_LAYER_NORM_EPS)
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
    if config.get("interpolation") in INTERPOLATIONS:
        fields["interpolation"] = config["interpolation"]
    if config.get("crop_mode") in CROP_MODES:
        fields["crop_mode"] = config["crop_mode"]
    return fields


def _processor_fields(config: dict[str, Any], image_size: int) -> tuple[dict[str, Any], list[str]]:
    """Read transformers' `preprocessor_config.json`: the fields, and `NAME VALUE` of each setting without a field.

    transformers resizes both sides to `size`, then crops the center of `crop_size` pixels. An empty `config` gives
    nothing; a missing setting has the default of transformers 5's `BeitImageProcessor`.
    """
    if not config:
        return {}, []
    settings = HF_PROCESSOR_DEFAULTS | config
    fields = _image_numbers(settings["image_mean"], settings["image_std"])
    ignored = [
        f"{name} {_shown(settings[name])}" for name in ("do_resize", "do_rescale", "do_normalize") if not settings[name]
    ]
    if not _is_close(settings["rescale_factor"], 1 / 255):
        ignored.append(f"rescale_factor {_shown(settings['rescale_factor'])}")
    if type(settings["resample"]) is int and settings["resample"] in FILTER_NAMES:
        fields["interpolation"] = FILTER_NAMES[settings["resample"]]
    else:
        ignored.append(f"resample {_shown(settings['resample'])}")
    size, mode = _side(settings["size"])
    crop = _side(settings["crop_size"])[0] if settings["do_center_crop"] else size
    # of an odd margin transformers cuts the smaller half first, timm and torchvision the even one
    same_center = size is not None and crop is not None and (size - crop) % 4 != 3
    if size is not None and crop == image_size and size >= crop and same_center:
        fields |= {"crop_mode": mode, "crop_pct": _crop_pct(crop, size)}
    else:
        wanted = f"size {_shown(settings['size'])}"
        if settings["do_center_crop"]:
            wanted += f" with crop_size {_shown(settings['crop_size'])}"
        ignored.append(f"{wanted} (the network takes {image_size} pixels)")
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
        if not path.exists():
            return {}
        check_regular(path, MAX_JSON_BYTES)
        config = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
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


def _shown(value: Any) -> str:
    """Return a value of any type and length as a short part of a line."""
    return repr(value)[:80]


def _is_close(value: Any, expected: float) -> bool:
    return _is_number(value) and math.isclose(value, expected, rel_tol=1e-6)

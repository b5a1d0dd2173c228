"""The information that a checkpoint or an exported file stores beside its weights."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from src.model.json_text import parse_json
from src.model.model_config import ModelConfig
from src.model.variants import VARIANTS

IMAGENET_INCEPTION_MEAN_STD = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET_DEFAULT_MEAN_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic")
CROP_MODES = ("center", "squash")

# Limits of what a file may ask for. Images of 2048 pixels have 16,385 tokens, whose attention takes 13 GB in BEiT-base;
# a crop_pct of 0.1 already enlarges every image to ten times the input size.
MAX_IMAGE_SIZE = 2048
MAX_CLASSES = 1_000_000
MIN_CROP_PCT = 0.1
MAX_NUMBER = 1e6  # of any other number; NaN is not below it either


@dataclass(frozen=True)
class ModelInfo:
    """A network, the names of its classes, and the preparation of its input.

    Attributes:
        class_names: empty if unknown.
        mean, std: of RGB values scaled to 0..1.
        crop_pct: side of the center crop over the side of the resized image.
        interpolation: filter of the resizing.
        crop_mode: `center` resizes the shorter side, `squash` resizes both sides and ignores the aspect ratio (as timm
            names them).
    """

    model: ModelConfig
    class_names: tuple[str, ...] = ()
    mean: tuple[float, float, float] = IMAGENET_INCEPTION_MEAN_STD[0]
    std: tuple[float, float, float] = IMAGENET_INCEPTION_MEAN_STD[1]
    crop_pct: float = 0.9
    interpolation: str = "bicubic"
    crop_mode: str = "center"

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, those of `model` among them, as values of JSON."""
        values = asdict(self)
        return {**values.pop("model"), **values}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> ModelInfo:
        """Invert `to_dict`; a field that an older version did not write gets its default.

        This is the only way from a file of any format to a `ModelInfo`. Raises `ValueError`, naming the fields, for
        unknown fields, for missing ones without a default, and for a value of a wrong type or outside its limits.
        """
        unknown = sorted(set(values) - set(ALL_FIELDS))
        if unknown:
            raise ValueError(f"unknown fields {', '.join(unknown)}")
        missing = [name for name in REQUIRED_FIELDS if name not in values]
        if missing:
            raise ValueError(f"missing fields {', '.join(missing)}")
        tuples: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        model = {name: tuples.pop(name) for name in MODEL_FIELDS if name in tuples}
        info = ModelInfo(ModelConfig(**model), **tuples)
        _check(info)
        return info

    def to_json(self) -> str:
        """Return one line of JSON with every field."""
        return json.dumps(self.to_dict())

    @staticmethod
    def from_json(text: str) -> ModelInfo:
        """Invert `to_json`; raises `ValueError` as `from_dict` does."""
        values = parse_json(text)
        if not isinstance(values, dict):
            raise ValueError("the model information is not a JSON object")
        return ModelInfo.from_dict(values)


MODEL_FIELDS = tuple(field.name for field in fields(ModelConfig))
INPUT_FIELDS = tuple(field.name for field in fields(ModelInfo) if field.name != "model")
ALL_FIELDS = MODEL_FIELDS + INPUT_FIELDS
REQUIRED_FIELDS = tuple(field.name for field in fields(ModelConfig) if field.default is MISSING)


def _check(info: ModelInfo) -> None:
    """Raise `ValueError` for the first field with a value that no network or image preparation can have."""
    model = info.model
    choices: tuple[tuple[str, object, Collection[str]], ...] = (
        ("arch", model.arch, VARIANTS),
        ("interpolation", info.interpolation, INTERPOLATIONS),
        ("crop_mode", info.crop_mode, CROP_MODES),
    )
    for name, value, known in choices:
        _require(isinstance(value, str) and value in known, name, value, f"one of {', '.join(known)}")
    patch = VARIANTS[model.arch].patch_size
    size = model.image_size
    fits = type(size) is int and patch <= size <= MAX_IMAGE_SIZE and size % patch == 0
    _require(fits, "image_size", size, f"a multiple of {patch} up to {MAX_IMAGE_SIZE}")
    count = model.num_classes
    _require(type(count) is int and 0 <= count <= MAX_CLASSES, "num_classes", count, f"0 to {MAX_CLASSES}")
    outputs = model.lm_head_outputs
    _require(type(outputs) is int and 0 <= outputs <= MAX_CLASSES, "lm_head_outputs", outputs, f"0 to {MAX_CLASSES}")
    depth = VARIANTS[model.arch].depth
    for name in ("early_layers", "head_layers"):
        layers = getattr(model, name)
        _require(type(layers) is int and 0 <= layers <= depth, name, layers, f"0 to the depth of the network, {depth}")
    for field in fields(ModelConfig):
        if field.type in (bool, "bool"):
            flag = getattr(model, field.name)
            _require(type(flag) is bool, field.name, flag, "true or false")
    epsilon = model.layer_norm_eps
    _require(_is_number(epsilon) and 0 < epsilon <= 1, "layer_norm_eps", epsilon, "above 0 and at most 1")
    names = info.class_names
    texts = isinstance(names, tuple) and all(isinstance(name, str) for name in names)
    _require(texts, "class_names", names, "a list of texts")
    _require(len(names) in (0, count), "the number of class_names", len(names), f"0 or num_classes, {count}")
    for name, values, lowest in (("mean", info.mean, -math.inf), ("std", info.std, 0)):
        numbers = isinstance(values, tuple) and len(values) == 3 and all(_is_number(v) and v > lowest for v in values)
        _require(numbers, name, values, f"three numbers{' above 0' if name == 'std' else ''}")
    crop = info.crop_pct
    _require(_is_number(crop) and MIN_CROP_PCT <= crop <= 1, "crop_pct", crop, f"{MIN_CROP_PCT} to 1")


def _require(condition: bool, name: str, value: object, wanted: str) -> None:
    if not condition:
        shown = repr(value)
        raise ValueError(f"{name} is {shown if len(shown) <= 80 else shown[:80] + '...'}, but must be {wanted}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < MAX_NUMBER

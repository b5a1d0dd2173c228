"""The information that a checkpoint or an exported file stores beside its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from src.model.model_config import ModelConfig

IMAGENET_INCEPTION_MEAN_STD = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET_DEFAULT_MEAN_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


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

        Raises `ValueError`, naming the fields, for unknown fields and for missing ones without a default.
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
        return ModelInfo(ModelConfig(**model), **tuples)

    def to_json(self) -> str:
        """Return one line of JSON with every field."""
        return json.dumps(self.to_dict())

    @staticmethod
    def from_json(text: str) -> ModelInfo:
        """Invert `to_json`; raises `ValueError` as `from_dict` does."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("the model information is not a JSON object")
        return ModelInfo.from_dict(values)


MODEL_FIELDS = tuple(field.name for field in fields(ModelConfig))
INPUT_FIELDS = tuple(field.name for field in fields(ModelInfo) if field.name != "model")
ALL_FIELDS = MODEL_FIELDS + INPUT_FIELDS
REQUIRED_FIELDS = tuple(field.name for field in fields(ModelConfig) if field.default is MISSING)

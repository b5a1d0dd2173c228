"""What a checkpoint says of itself, so that evaluation, prediction and export need no flag to be right."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

IMAGENET_INCEPTION_MEAN_STD = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET_DEFAULT_MEAN_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class ModelInfo:
    """Everything needed to rebuild a network and to prepare its input.

    `mean` and `std` are of RGB values scaled to 0..1; `crop_pct` is the side of the center crop over the side of the
    resized image; `class_names` may be empty where nobody named the classes. The flags from `rel_pos_bias` on say
    which parameters the network has.
    """

    arch: str
    image_size: int
    num_classes: int
    class_names: tuple[str, ...] = ()
    mean: tuple[float, float, float] = IMAGENET_INCEPTION_MEAN_STD[0]
    std: tuple[float, float, float] = IMAGENET_INCEPTION_MEAN_STD[1]
    crop_pct: float = 0.9
    interpolation: str = "bicubic"
    approximate_gelu: bool = False
    rel_pos_bias: bool = True
    shared_rel_pos_bias: bool = False
    abs_pos_emb: bool = False
    layer_scale: bool = True
    mean_pooling: bool = True

    def to_json(self) -> str:
        """One line of JSON with every field."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> ModelInfo:
        """The inverse of `to_json`. Raises `ValueError` for text that lacks a field or holds an unknown one."""
        values = json.loads(text)
        names = {field.name for field in fields(ModelInfo)}
        if not isinstance(values, dict) or set(values) != names:
            raise ValueError(f"model information must hold exactly the fields {', '.join(sorted(names))}")
        tuples = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return ModelInfo(**{**values, **tuples})

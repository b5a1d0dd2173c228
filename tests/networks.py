"""Networks of any size from flat options, as the recipes of the golden values list them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from src.encoder import fastest_layers
from src.layers.compiled import compiled_layers
from src.layers.cpu import CPU
from src.layers.layers import STOCK, Layers
from src.layers.precision import AMP_LEVELS
from src.mim import MaskedImageModeling
from src.model.model_config import ModelConfig, TrainingOptions
from src.model.model_info import ModelInfo
from src.model.variants import Variant, get_variant
from src.runtime.kernel_library import kernel_library
from src.vit import VisionTransformer, create_model

LIBRARY = kernel_library()
PORTABLE = {"stock": STOCK, "cpu": CPU}
# Without a C++ compiler, the tests run without the third implementation.
IMPLEMENTATIONS = PORTABLE | ({"compiled": compiled_layers(LIBRARY)} if LIBRARY else {})


def small_network(*, amp_level: str = "O0", layers: Layers | None = None, **options: Any) -> VisionTransformer:
    """A network of the sizes and options given under the names of `Variant`, `ModelConfig` and `TrainingOptions`.

    `layers` are by default the fastest.
    """
    return VisionTransformer(*_arguments({"num_classes": 1000, **options}, amp_level, layers))


def small_pretraining_network(
    *, amp_level: str = "O0", layers: Layers | None = None, **options: Any
) -> MaskedImageModeling:
    """The network for masked image modeling of the authors' defaults, with options as in `small_network`."""
    options = {"num_classes": 0, "rel_pos_bias": False, "shared_rel_pos_bias": True, **options}
    return MaskedImageModeling(*_arguments(options, amp_level, layers))


def _arguments(options: dict[str, Any], amp_level: str, layers: Layers | None) -> tuple[Any, ...]:
    options = {"arch": "none", **options}
    options["layer_scale"] = options.get("layer_scale_init_value", 0.1) > 0
    kinds = (Variant, ModelConfig, TrainingOptions)
    known = {field.name: kind for kind in kinds for field in fields(kind)}
    assert not set(options) - set(known), set(options) - set(known)
    chosen = ({field.name: options[field.name] for field in fields(kind) if field.name in options} for kind in kinds)
    precision = AMP_LEVELS[amp_level]
    return *(kind(**values) for kind, values in zip(kinds, chosen)), precision, layers or fastest_layers(precision)


def variant_network(
    arch: str, *, layers: Layers | None = None, amp_level: str = "O0", **options: Any
) -> VisionTransformer:
    """The network of a named architecture, with options as in `small_network`."""
    options = {"image_size": get_variant(arch).image_size, "num_classes": 1000, **options}
    model = {field.name: options.pop(field.name) for field in fields(ModelConfig) if field.name in options}
    return create_model(ModelConfig(arch, **model), TrainingOptions(**options), amp_level, layers)


def model_info(
    arch: str, image_size: int, num_classes: int, class_names: tuple[str, ...] = (), **options: Any
) -> ModelInfo:
    """A `ModelInfo` from the fields of its `ModelConfig` and its own."""
    values = {"arch": arch, "image_size": image_size, "num_classes": num_classes, "class_names": class_names, **options}
    return ModelInfo.from_dict(values)

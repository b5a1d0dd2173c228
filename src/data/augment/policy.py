"""Policy strings of augmentations in timm's grammar: `rand-m9-mstd0.5-inc1`, `augmix-m3-w3`, `original-mstd0.5`.

A string is the name of a policy and fields, separated by dashes; a field is a key and its value without a space. The
grammar and the tables are those of timm 1.0's `data/auto_augment.py`, but fields that timm ignores are errors here.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from src.errors import UserError


def _weights(text: str) -> dict[str, float]:
    """Read `name weight` pairs separated by commas."""
    return {name: float(weight) for name, weight in (pair.split() for pair in text.split(","))}


_SHARED = "AutoContrast Equalize Invert Rotate"
_WARPS = "ShearX ShearY TranslateXRel TranslateYRel"
_RAND_OPERATIONS = tuple(
    f"{_SHARED} Posterize Solarize SolarizeAdd Color Contrast Brightness Sharpness {_WARPS}".split()
)
_RAND_INCREASING_OPERATIONS = tuple(
    f"{_SHARED} PosterizeIncreasing SolarizeIncreasing SolarizeAdd ColorIncreasing ContrastIncreasing "
    f"BrightnessIncreasing SharpnessIncreasing {_WARPS}".split()
)
_AUGMIX_OPERATIONS = tuple(
    "AutoContrast ColorIncreasing ContrastIncreasing BrightnessIncreasing SharpnessIncreasing Equalize Rotate "
    f"PosterizeIncreasing SolarizeIncreasing {_WARPS}".split()
)
# operations with their weights, or without weights to draw them evenly
_RAND_SETS: dict[str, tuple[str, ...] | Mapping[str, float]] = {
    "weights": _weights(
        "Rotate 3, ShearX 2, ShearY 2, TranslateXRel 1, TranslateYRel 1, ColorIncreasing 0.25, "
        "SharpnessIncreasing 0.25, AutoContrast 0.25, SolarizeIncreasing 0.05, SolarizeAdd 0.05, "
        "ContrastIncreasing 0.05, BrightnessIncreasing 0.05, Equalize 0.05, PosterizeIncreasing 0.05, Invert 0.05"
    ),
    "3aw": _weights(
        "SolarizeIncreasing 6, Desaturate 6, GaussianBlur 6, Rotate 3, ShearX 2, ShearY 2, PosterizeIncreasing 1, "
        "AutoContrast 1, ColorIncreasing 1, SharpnessIncreasing 1, ContrastIncreasing 1, BrightnessIncreasing 1, "
        "Equalize 1, Invert 1"
    ),
    "3a": ("SolarizeIncreasing", "Desaturate", "GaussianBlur"),
}


@dataclass(frozen=True)
class RandAugment:
    """`num_layers` operations, each applied with probability `prob` (arXiv 1909.13719).

    Operations are drawn evenly with replacement, or by `weights` (of sum 1) without replacement. The level is normally
    distributed around `magnitude` (uniform in 0..`magnitude` if `magnitude_std` is infinite) and clipped to
    0..`magnitude_max`.
    """

    operations: tuple[str, ...]
    weights: tuple[float, ...] | None
    magnitude: float = 10
    num_layers: int = 2
    prob: float = 0.5
    magnitude_std: float = 0.0
    magnitude_max: float = 10


SubPolicy = tuple[tuple[str, float, float], ...]
"""Rows of (operation, probability, level)."""


@dataclass(frozen=True)
class AutoAugment:
    """One of the `sub_policies` for each image (arXiv 1805.09501)."""

    sub_policies: tuple[SubPolicy, ...]
    magnitude_std: float = 0.0

    @property
    def operations(self) -> set[str]:
        return {name for sub_policy in self.sub_policies for name, _, _ in sub_policy}


@dataclass(frozen=True)
class AugMix:
    """`width` chains of operations, mixed with each other and with the image (arXiv 1912.02781).

    A chain has `depth` operations (-1: 1 to 3). Mixing weights come from Dirichlet and Beta distributions of parameter
    `alpha`. `blended` mixes the chains one by one on 8-bit images, which is faster and nearly equal.
    """

    operations: tuple[str, ...] = _AUGMIX_OPERATIONS
    magnitude: float = 3
    width: int = 3
    depth: int = -1
    alpha: float = 1.0
    blended: bool = False
    magnitude_std: float = math.inf


Policy = RandAugment | AutoAugment | AugMix

# One sub-policy a row; the variants of a policy differ in {posterize}.
_V0 = """
    Equalize 0.8 1, ShearY 0.8 4
    Color 0.4 9, Equalize 0.6 3
    Color 0.4 1, Rotate 0.6 8
    Solarize 0.8 3, Equalize 0.4 7
    Solarize 0.4 2, Solarize 0.6 2
    Color 0.2 0, Equalize 0.8 8
    Equalize 0.4 8, SolarizeAdd 0.8 3
    ShearX 0.2 9, Rotate 0.6 8
    Color 0.6 1, Equalize 1.0 2
    Invert 0.4 9, Rotate 0.6 0
    Equalize 1.0 9, ShearY 0.6 3
    Color 0.4 7, Equalize 0.6 0
    {posterize} 0.4 6, AutoContrast 0.4 7
    Solarize 0.6 8, Color 0.6 9
    Solarize 0.2 4, Rotate 0.8 9
    Rotate 1.0 7, TranslateYRel 0.8 9
    ShearX 0.0 0, Solarize 0.8 4
    ShearY 0.8 0, Color 0.6 4
    Color 1.0 0, Rotate 0.6 2
    Equalize 0.8 4, Equalize 0.0 8
    Equalize 1.0 4, AutoContrast 0.6 2
    ShearY 0.4 7, SolarizeAdd 0.6 7
    {posterize} 0.8 2, Solarize 0.6 10
    Solarize 0.6 8, Equalize 0.6 1
    Color 0.8 6, Rotate 0.4 5
"""
_ORIGINAL = """
    {posterize} 0.4 8, Rotate 0.6 9
    Solarize 0.6 5, AutoContrast 0.6 5
    Equalize 0.8 8, Equalize 0.6 3
    {posterize} 0.6 7, {posterize} 0.6 6
    Equalize 0.4 7, Solarize 0.2 4
    Equalize 0.4 4, Rotate 0.8 8
    Solarize 0.6 3, Equalize 0.6 7
    {posterize} 0.8 5, Equalize 1.0 2
    Rotate 0.2 3, Solarize 0.6 8
    Equalize 0.6 8, {posterize} 0.4 6
    Rotate 0.8 8, Color 0.4 0
    Rotate 0.4 9, Equalize 0.6 2
    Equalize 0.0 7, Equalize 0.8 8
    Invert 0.6 4, Equalize 1.0 8
    Color 0.6 4, Contrast 1.0 8
    Rotate 0.8 8, Color 1.0 2
    Color 0.8 8, Solarize 0.8 7
    Sharpness 0.4 7, Invert 0.6 8
    ShearX 0.6 5, Equalize 1.0 9
    Color 0.4 0, Equalize 0.6 3
    Equalize 0.4 7, Solarize 0.2 4
    Solarize 0.6 5, AutoContrast 0.6 5
    Invert 0.6 4, Equalize 1.0 8
    Color 0.6 4, Contrast 1.0 8
    Equalize 0.8 8, Equalize 0.6 3
"""
_3A = """
    Solarize 1.0 5
    Desaturate 1.0 10
    GaussianBlurRand 1.0 10
"""


def _sub_policies(table: str, posterize: str = "") -> tuple[SubPolicy, ...]:
    rows = table.format(posterize=posterize).strip().splitlines()
    parts = [[operation.split() for operation in row.split(",")] for row in rows]
    return tuple(tuple((name, float(prob), float(level)) for name, prob, level in row) for row in parts)


_AUTO_AUGMENT = {
    "original": _sub_policies(_ORIGINAL, "PosterizeOriginal"),
    "originalr": _sub_policies(_ORIGINAL, "PosterizeIncreasing"),
    "v0": _sub_policies(_V0, "Posterize"),
    "v0r": _sub_policies(_V0, "PosterizeIncreasing"),
    "3a": _sub_policies(_3A),
}


def parse_policy(text: str) -> Policy:
    """Read a policy string. Raises `UserError` with the wrong field and the valid ones."""
    name, *fields = text.split("-")
    if name == "rand":
        return _rand_augment(**_values(text, fields, _RAND_FIELDS))
    if name == "augmix":
        return AugMix(**_values(text, fields, _AUGMIX_FIELDS))
    if name in _AUTO_AUGMENT:
        return AutoAugment(_AUTO_AUGMENT[name], **_values(text, fields, _AUTO_FIELDS))
    raise UserError(
        f"auto_augment is {text!r}, but {name!r} is not a policy; start with one of "
        f"{', '.join(('rand', 'augmix', *_AUTO_AUGMENT))}, or set it to none"
    )


def _rand_augment(
    increasing: bool = False,
    operations: tuple[str, ...] | Mapping[str, float] | None = None,
    magnitude_std: float = 0.0,
    **values: Any,
) -> RandAugment:
    chosen = operations or (_RAND_INCREASING_OPERATIONS if increasing else _RAND_OPERATIONS)
    weights = None
    if isinstance(chosen, Mapping):
        total = sum(chosen.values())
        weights = tuple(weight / total for weight in chosen.values())
    if magnitude_std > 100:  # timm's way to ask for uniform levels
        magnitude_std = math.inf
    policy = RandAugment(tuple(chosen), weights, magnitude_std=magnitude_std, **values)
    if weights and policy.num_layers > len(weights):
        raise UserError(
            f"auto_augment: n{policy.num_layers} draws more than the {len(weights)} operations of the weighted set, "
            f"which are drawn without replacement; lower n to at most {len(weights)}"
        )
    return policy


_Field = tuple[str, Callable[[str], Any], str]
"""The attribute of a field, the function that reads its value, and the allowed values in words."""


def _number(kind: type[int] | type[float], low: float, high: float = math.inf) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = kind(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return read


_FROM_0, _FROM_1, _STD = "an integer from 0 on", "an integer from 1 on", "a number from 0 on"
_FLAG = {"0": False, "1": True}
_RAND_FIELDS: Mapping[str, _Field] = {
    "m": ("magnitude", _number(int, 0), _FROM_0),
    "n": ("num_layers", _number(int, 1), _FROM_1),
    "p": ("prob", _number(float, 0, 1), "a number from 0 to 1"),
    "mstd": ("magnitude_std", _number(float, 0), f"{_STD}, above 100 for uniform levels"),
    "mmax": ("magnitude_max", _number(int, 1), _FROM_1),
    "inc": ("increasing", _FLAG.__getitem__, "0 or 1"),
    "t": ("operations", _RAND_SETS.__getitem__, "one of " + ", ".join(_RAND_SETS)),
}
_AUGMIX_FIELDS: Mapping[str, _Field] = {
    "m": ("magnitude", _number(int, 0), _FROM_0),
    "w": ("width", _number(int, 1), _FROM_1),
    "d": ("depth", _number(int, 1), _FROM_1),
    "a": ("alpha", _number(float, 1e-3), "a number from 0.001 on"),
    "b": ("blended", _FLAG.__getitem__, "0 or 1"),
    "mstd": ("magnitude_std", _number(float, 0), _STD),
}
_AUTO_FIELDS: Mapping[str, _Field] = {"mstd": ("magnitude_std", _number(float, 0), _STD)}


def _values(text: str, fields: list[str], known: Mapping[str, _Field]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in fields:
        # a `t` is followed by a name, every other key by a number
        key = "t" if field.startswith("t") else re.split(r"\d", field, maxsplit=1)[0]
        value = field[len(key) :]
        if key not in known:
            allowed = ", ".join(f"{name} ({expected})" for name, (_, _, expected) in known.items())
            raise UserError(f"auto_augment: unknown field {field!r} in {text!r}; the fields are {allowed}")
        attribute, read, expected = known[key]
        if attribute in values:
            raise UserError(f"auto_augment: field {key!r} occurs twice in {text!r}; give it once")
        try:
            values[attribute] = read(value)
        except (ValueError, KeyError):
            raise UserError(f"auto_augment: {key!r} in {text!r} is {value!r}; give {expected}") from None
    return values

"""The strings that name an augmentation policy, as in timm: `rand-m9-mstd0.5-inc1`, `augmix-m3-w3`, `original-mstd0.5`.

A string is a policy's name and then fields, separated by dashes; a field is a key followed by its value without a
space. The grammar and the tables are those of timm 1.0's `data/auto_augment.py`, but a field that timm would pass over
or take for a default is an error here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from src.errors import UserError


@dataclass(frozen=True)
class RandAugment:
    """`num_layers` operations drawn from `operations`, each applied with probability `prob` (arXiv 1909.13719).

    The level is drawn from a normal distribution around `magnitude` (uniformly from 0 to `magnitude` where
    `magnitude_std` is infinite) and cut to 0..`magnitude_max`. Operations are drawn with replacement, or by `weights`
    without it.
    """

    operations: tuple[str, ...]
    weights: tuple[float, ...] | None
    magnitude: float
    num_layers: int
    prob: float
    magnitude_std: float
    magnitude_max: float


@dataclass(frozen=True)
class AutoAugment:
    """One of the `sub_policies` per image; each is a row of (operation, probability, level) (arXiv 1805.09501)."""

    sub_policies: tuple[tuple[tuple[str, float, float], ...], ...]
    magnitude_std: float


@dataclass(frozen=True)
class AugMix:
    """`width` chains of operations, mixed with each other and with the image (arXiv 1912.02781).

    A chain has `depth` operations, or 1 to 3 of them where `depth` is -1. Mixing weights come from Dirichlet and Beta
    distributions of parameter `alpha`. `blended` mixes the chains one by one on 8-bit images: quicker, nearly equal.
    """

    operations: tuple[str, ...]
    magnitude: float
    width: int
    depth: int
    alpha: float
    blended: bool
    magnitude_std: float


Policy = RandAugment | AutoAugment | AugMix

_RAND_COMMON = ("AutoContrast", "Equalize", "Invert", "Rotate")
_RAND_WARPS = ("ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
_RAND_OPERATIONS = (
    *_RAND_COMMON,
    *("Posterize", "Solarize", "SolarizeAdd", "Color", "Contrast", "Brightness", "Sharpness"),
    *_RAND_WARPS,
)
_RAND_INCREASING_OPERATIONS = (
    *_RAND_COMMON,
    *("PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd", "ColorIncreasing", "ContrastIncreasing"),
    *("BrightnessIncreasing", "SharpnessIncreasing"),
    *_RAND_WARPS,
)
_RAND_3A_OPERATIONS = ("SolarizeIncreasing", "Desaturate", "GaussianBlur")
_RAND_WEIGHTS = {
    "Rotate": 3,
    "ShearX": 2,
    "ShearY": 2,
    "TranslateXRel": 1,
    "TranslateYRel": 1,
    "ColorIncreasing": 0.25,
    "SharpnessIncreasing": 0.25,
    "AutoContrast": 0.25,
    "SolarizeIncreasing": 0.05,
    "SolarizeAdd": 0.05,
    "ContrastIncreasing": 0.05,
    "BrightnessIncreasing": 0.05,
    "Equalize": 0.05,
    "PosterizeIncreasing": 0.05,
    "Invert": 0.05,
}
_RAND_3A_WEIGHTS = {
    "SolarizeIncreasing": 6,
    "Desaturate": 6,
    "GaussianBlur": 6,
    "Rotate": 3,
    "ShearX": 2,
    "ShearY": 2,
    "PosterizeIncreasing": 1,
    "AutoContrast": 1,
    "ColorIncreasing": 1,
    "SharpnessIncreasing": 1,
    "ContrastIncreasing": 1,
    "BrightnessIncreasing": 1,
    "Equalize": 1,
    "Invert": 1,
}
_RAND_SETS: dict[str, tuple[str, ...] | Mapping[str, float]] = {
    "weights": _RAND_WEIGHTS,
    "3aw": _RAND_3A_WEIGHTS,
    "3a": _RAND_3A_OPERATIONS,
}

_AUGMIX_OPERATIONS = (
    *("AutoContrast", "ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing"),
    *("Equalize", "Rotate", "PosterizeIncreasing", "SolarizeIncreasing"),
    *_RAND_WARPS,
)

# Each row is one sub-policy; {posterize} is where the variants of a policy differ.
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


def _sub_policies(table: str, posterize: str = "") -> tuple[tuple[tuple[str, float, float], ...], ...]:
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

POLICY_NAMES = ("rand", "augmix", *_AUTO_AUGMENT)


def parse_policy(text: str) -> Policy:
    """Read a policy string. Raises `UserError` naming the field that is wrong and the fields that there are."""
    name, *fields = text.split("-")
    if name == "rand":
        return _rand_augment(_values(text, fields, _RAND_FIELDS))
    if name == "augmix":
        return AugMix(_AUGMIX_OPERATIONS, **{**_AUGMIX_DEFAULTS, **_values(text, fields, _AUGMIX_FIELDS)})
    if name in _AUTO_AUGMENT:
        return AutoAugment(_AUTO_AUGMENT[name], **{"magnitude_std": 0.0, **_values(text, fields, _AUTO_FIELDS)})
    raise UserError(
        f"auto_augment: {text!r} starts with {name!r}, which is not a policy; it must start with one of "
        f"{', '.join(POLICY_NAMES)}, or be none"
    )


def _rand_augment(values: dict[str, Any]) -> RandAugment:
    """Fill in timm's defaults: magnitude 10, 2 layers, probability 0.5, no noise, levels up to 10."""
    increasing = values.pop("increasing", False)
    chosen = values.pop("operations", _RAND_INCREASING_OPERATIONS if increasing else _RAND_OPERATIONS)
    total = sum(chosen.values()) if isinstance(chosen, dict) else 0
    policy = RandAugment(
        operations=tuple(chosen),
        weights=tuple(weight / total for weight in chosen.values()) if isinstance(chosen, dict) else None,
        **{"magnitude": 10.0, "num_layers": 2, "prob": 0.5, "magnitude_std": 0.0, "magnitude_max": 10.0, **values},
    )
    if policy.weights is not None and policy.num_layers > len(policy.operations):
        raise UserError(
            f"auto_augment: n{policy.num_layers} draws more operations than the {len(policy.operations)} of the "
            "weighted set, which are drawn without replacement; lower n"
        )
    return policy


# --- fields: key -> (attribute, what reads the value, what is allowed) ---

_Field = tuple[str, Callable[[str], Any], str]


def _number(low: float = 0.0, high: float = math.inf) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return read


def _integer(low: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text)
        if value < low:
            raise ValueError
        return value

    return read


def _flag(text: str) -> bool:
    return {"0": False, "1": True}[text]


def _rand_std(text: str) -> float:
    """Above 100 the level is drawn uniformly from 0 to the magnitude instead."""
    value = _number()(text)
    return math.inf if value > 100 else value


_STD = "a number from 0 on"
_RAND_FIELDS: Mapping[str, _Field] = {
    "m": ("magnitude", _integer(0), "an integer from 0 on"),
    "n": ("num_layers", _integer(1), "an integer from 1 on"),
    "p": ("prob", _number(high=1.0), "a number from 0 to 1"),
    "mstd": ("magnitude_std", _rand_std, "a number from 0 on, above 100 for uniform levels"),
    "mmax": ("magnitude_max", _integer(1), "an integer from 1 on"),
    "inc": ("increasing", _flag, "0 or 1"),
    "t": ("operations", _RAND_SETS.__getitem__, "one of " + ", ".join(_RAND_SETS)),
}
_AUGMIX_FIELDS: Mapping[str, _Field] = {
    "m": ("magnitude", _integer(0), "an integer from 0 on"),
    "w": ("width", _integer(1), "an integer from 1 on"),
    "d": ("depth", _integer(1), "an integer from 1 on"),
    "a": ("alpha", _number(low=1e-3), "a number from 0.001 on"),
    "b": ("blended", _flag, "0 or 1"),
    "mstd": ("magnitude_std", _number(), _STD),
}
_AUTO_FIELDS: Mapping[str, _Field] = {"mstd": ("magnitude_std", _number(), _STD)}

# Severity 3, three chains of 1 to 3 operations, levels uniform from 0 to the magnitude.
_AUGMIX_DEFAULTS = {
    "magnitude": 3,
    "width": 3,
    "depth": -1,
    "alpha": 1.0,
    "blended": False,
    "magnitude_std": math.inf,
}


def _values(text: str, fields: list[str], known: Mapping[str, _Field]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in fields:
        key, value = _split(field)
        allowed = ", ".join(f"{name} ({what})" for name, (_, _, what) in known.items())
        if key not in known:
            raise UserError(f"auto_augment: unknown field {field!r} in {text!r}; the fields are {allowed}")
        attribute, read, what = known[key]
        if attribute in values:
            raise UserError(f"auto_augment: field {key!r} stands twice in {text!r}; give it once")
        try:
            values[attribute] = read(value)
        except (ValueError, KeyError):
            raise UserError(f"auto_augment: {key!r} in {text!r} must be {what}, not {value!r}") from None
    return values


def _split(field: str) -> tuple[str, str]:
    """`mstd0.5` is (`mstd`, `0.5`); a `t` is followed by a name instead of a number."""
    if field.startswith("t"):
        return "t", field[1:]
    key = re.split(r"\d", field, maxsplit=1)[0]
    return key, field[len(key) :]

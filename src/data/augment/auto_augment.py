"""AutoAugment, RandAugment, AugMix and 3-Augment on Pillow images, as in timm's `data/auto_augment.py`.

Chance is drawn from the generator that is passed in, in the order in which timm draws it (whether to apply, level,
sign, filter), so that with the same numbers drawn both give the same pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from src.data.augment.operations import AUGMIX_OPERATIONS, FULL_LEVEL, OPERATIONS, Color, Operation
from src.data.augment.policy import AugMix, AutoAugment, Policy, RandAugment, parse_policy
from src.errors import UserError

Augment = Callable[[Image.Image, np.random.Generator], Image.Image]


@dataclass(frozen=True)
class Warp:
    """How pixels are moved: one of the `filters`, drawn anew each time, and the color of the places left empty."""

    filters: tuple[Image.Resampling, ...]
    fill: Color


def fill_color(mean: Sequence[float]) -> Color:
    """The data's mean color (`mean` of RGB values in 0..1), so that normalization makes it about zero."""
    red, green, blue = (min(255, round(255 * value)) for value in mean)
    return red, green, blue


def auto_augment(text: str, filters: tuple[Image.Resampling, ...], mean: Sequence[float]) -> Augment:
    """The augmentation that a policy string names (`rand-m9-mstd0.5-inc1`; see `parse_policy`).

    `filters` are those among which each rotation, shearing and translation chooses. Raises `UserError` for a string
    that is not a policy, and for a filter that Pillow has for resizing only.
    """
    policy = parse_policy(text)
    unfit = set(filters) - {Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC}
    if unfit and any(_operation(policy, name).warp for name in _names(policy)):
        raise UserError(
            f"aa_interpolation: {unfit.pop().name.lower()} resizes images but cannot rotate or shear them, which "
            f"auto_augment={text} does; take nearest, bilinear, bicubic or random, or auto_augment none"
        )
    warp = Warp(filters, fill_color(mean))
    if isinstance(policy, RandAugment):
        return partial(_rand_augment, policy, warp)
    if isinstance(policy, AutoAugment):
        return partial(_auto_augment, policy, warp)
    return partial(_augmix, policy, warp)


def _names(policy: Policy) -> set[str]:
    if isinstance(policy, AutoAugment):
        return {name for sub_policy in policy.sub_policies for name, _, _ in sub_policy}
    return set(policy.operations)


def _operation(policy: Policy, name: str) -> Operation:
    return (AUGMIX_OPERATIONS if isinstance(policy, AugMix) else OPERATIONS)[name]


def _rand_augment(policy: RandAugment, warp: Warp, image: Image.Image, rng: np.random.Generator) -> Image.Image:
    for index in choose(rng, len(policy.operations), policy.num_layers, policy.weights):
        if policy.prob < 1.0 and rng.random() > policy.prob:
            continue
        level = draw_level(rng, policy.magnitude, policy.magnitude_std, policy.magnitude_max)
        image = _apply(image, OPERATIONS[policy.operations[index]], level, warp, rng)
    return image


def _auto_augment(policy: AutoAugment, warp: Warp, image: Image.Image, rng: np.random.Generator) -> Image.Image:
    for name, prob, magnitude in policy.sub_policies[_below(rng, len(policy.sub_policies))]:
        if prob < 1.0 and rng.random() > prob:
            continue
        level = draw_level(rng, magnitude, policy.magnitude_std, FULL_LEVEL)
        image = _apply(image, OPERATIONS[name], level, warp, rng)
    return image


def _augmix(policy: AugMix, warp: Warp, image: Image.Image, rng: np.random.Generator) -> Image.Image:
    weights = rng.dirichlet([policy.alpha] * policy.width).astype(np.float32)
    share = np.float32(rng.beta(policy.alpha, policy.alpha))
    mix = _mix_one_by_one if policy.blended else _mix_at_once
    return mix(image, policy, warp, rng, weights, share)


def _mix_at_once(
    image: Image.Image, policy: AugMix, warp: Warp, rng: np.random.Generator, weights: np.ndarray, share: np.float32
) -> Image.Image:
    mixed = np.zeros((image.height, image.width, 3), dtype=np.float32)
    for weight in weights:
        mixed += weight * np.asarray(_chain(image, policy, warp, rng), dtype=np.float32)
    mixed_image = Image.fromarray(np.clip(mixed, 0.0, 255.0).astype(np.uint8))
    return Image.blend(image, mixed_image, float(share))


def _mix_one_by_one(
    image: Image.Image, policy: AugMix, warp: Warp, rng: np.random.Generator, weights: np.ndarray, share: np.float32
) -> Image.Image:
    # Blending chain after chain scales down what is there already, so the shares are worked out from the last one.
    shares = []
    left = 1.0
    for weight in (weights * share)[::-1]:
        shares.append(weight / left)
        left *= 1.0 - shares[-1]
    mixed = image
    for part in np.array(shares[::-1], dtype=np.float32):
        mixed = Image.blend(mixed, _chain(image, policy, warp, rng), float(part))
    return mixed


def _chain(image: Image.Image, policy: AugMix, warp: Warp, rng: np.random.Generator) -> Image.Image:
    depth = policy.depth if policy.depth > 0 else 1 + _below(rng, 3)
    for index in choose(rng, len(policy.operations), depth, None):
        level = draw_level(rng, policy.magnitude, policy.magnitude_std, FULL_LEVEL)
        image = _apply(image, AUGMIX_OPERATIONS[policy.operations[index]], level, warp, rng)
    return image


def _apply(image: Image.Image, operation: Operation, level: float, warp: Warp, rng: np.random.Generator) -> Image.Image:
    sign = -1.0 if operation.signed and rng.random() > 0.5 else 1.0
    argument = operation.argument(level, sign)
    if operation.lowest is not None:
        argument = operation.lowest + (argument - operation.lowest) * rng.random()
    if operation.change is not None:
        return operation.change(image, argument)
    assert operation.warp is not None  # an operation has one of the two
    resample = warp.filters[_below(rng, len(warp.filters))] if len(warp.filters) > 1 else warp.filters[0]
    return operation.warp(image, argument, resample, warp.fill)


def draw_level(rng: np.random.Generator, magnitude: float, std: float, largest: float) -> float:
    """A level around `magnitude`, cut to 0..`largest`; an infinite `std` draws it uniformly from 0 to `magnitude`."""
    if math.isinf(std):
        magnitude = magnitude * rng.random()
    elif std > 0:
        magnitude = magnitude + std * rng.standard_normal()
    return max(0.0, min(magnitude, largest))


def choose(rng: np.random.Generator, size: int, count: int, weights: Sequence[float] | None) -> list[int]:
    """`count` of the numbers 0..size-1: equally likely with replacement, or by `weights` (of sum 1) without it."""
    if weights is None:
        return [_below(rng, size) for _ in range(count)]
    chosen: list[int] = []
    while len(chosen) < count:
        # drawing again where a number was had already leaves the others' chances in proportion
        index = min(int(np.searchsorted(np.cumsum(weights), rng.random(), side="right")), size - 1)
        if index not in chosen:
            chosen.append(index)
    return chosen


def _below(rng: np.random.Generator, size: int) -> int:
    """A number from 0 to size-1. Five times quicker than `rng.integers`, and even up to one part in 2**53 / size."""
    return int(rng.random() * size)

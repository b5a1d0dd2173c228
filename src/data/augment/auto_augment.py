"""AutoAugment, RandAugment, AugMix and 3-Augment on Pillow images, as in timm's `data/auto_augment.py`.

Random numbers are drawn from the generator argument in timm's order (whether to apply, level, sign, filter), so the
same numbers give the same pixels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from src.data.augment.operations import AUGMIX_OPERATIONS, FULL_LEVEL, OPERATIONS, Color, Operation
from src.data.augment.policy import AugMix, AutoAugment, RandAugment, parse_policy
from src.errors import UserError

Augment = Callable[[Image.Image, np.random.Generator], Image.Image]


@dataclass(frozen=True)
class Warping:
    """How operations move pixels: one of the `filters`, drawn for each use, and the color of the empty places."""

    filters: tuple[Image.Resampling, ...]
    fill: Color


def fill_color(mean: Sequence[float]) -> Color:
    """Return the mean color of the data (`mean` of RGB values in 0..1), which normalization makes about zero."""
    red, green, blue = (min(255, round(255 * value)) for value in mean)
    return red, green, blue


def auto_augment(text: str, filters: tuple[Image.Resampling, ...], mean: Sequence[float]) -> Augment:
    """Return the augmentation of a policy string such as `rand-m9-mstd0.5-inc1` (see `parse_policy`).

    Each rotation, shear and translation draws one of `filters`. Raises `UserError` for an invalid string, and for a
    filter that Pillow supports for resizing only.
    """
    policy = parse_policy(text)
    unfit = set(filters) - {Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC}
    if unfit and any(OPERATIONS[name].warp for name in policy.operations):
        raise UserError(
            f"aa_interpolation is {unfit.pop().name.lower()}, which cannot rotate or shear images as auto_augment={text} "
            "does; set it to nearest, bilinear, bicubic or random, or set auto_augment to none"
        )
    warping = Warping(filters, fill_color(mean))
    if isinstance(policy, RandAugment):
        return partial(_rand_augment, policy, warping)
    if isinstance(policy, AutoAugment):
        return partial(_auto_augment, policy, warping)
    return partial(_augmix, policy, warping)


def _rand_augment(policy: RandAugment, warping: Warping, image: Image.Image, rng: np.random.Generator) -> Image.Image:
    for index in choose(rng, len(policy.operations), policy.num_layers, policy.weights):
        if policy.prob < 1.0 and rng.random() > policy.prob:
            continue
        level = draw_level(rng, policy.magnitude, policy.magnitude_std, policy.magnitude_max)
        image = _apply(image, OPERATIONS[policy.operations[index]], level, warping, rng)
    return image


def _auto_augment(policy: AutoAugment, warping: Warping, image: Image.Image, rng: np.random.Generator) -> Image.Image:
    for name, prob, magnitude in policy.sub_policies[_below(rng, len(policy.sub_policies))]:
        if prob < 1.0 and rng.random() > prob:
            continue
        level = draw_level(rng, magnitude, policy.magnitude_std, FULL_LEVEL)
        image = _apply(image, OPERATIONS[name], level, warping, rng)
    return image


def _augmix(policy: AugMix, warping: Warping, image: Image.Image, rng: np.random.Generator) -> Image.Image:
    weights = rng.dirichlet([policy.alpha] * policy.width).astype(np.float32)
    share = np.float32(rng.beta(policy.alpha, policy.alpha))
    if policy.blended:
        # each blend scales down the chains before it, so the shares follow from the last chain backwards
        shares, left = [], 1.0
        for weight in (weights * share)[::-1]:
            shares.append(weight / left)
            left *= 1.0 - shares[-1]
        blended = image
        for part in np.array(shares[::-1], dtype=np.float32):
            blended = Image.blend(blended, _augmix_chain(policy, warping, image, rng), float(part))
        return blended
    mixed = np.zeros((image.height, image.width, 3), dtype=np.float32)
    for weight in weights:
        mixed += weight * np.asarray(_augmix_chain(policy, warping, image, rng), dtype=np.float32)
    return Image.blend(image, Image.fromarray(np.clip(mixed, 0.0, 255.0).astype(np.uint8)), float(share))


def _augmix_chain(policy: AugMix, warping: Warping, image: Image.Image, rng: np.random.Generator) -> Image.Image:
    depth = policy.depth if policy.depth > 0 else 1 + _below(rng, 3)
    for index in choose(rng, len(policy.operations), depth, None):
        level = draw_level(rng, policy.magnitude, policy.magnitude_std, FULL_LEVEL)
        image = _apply(image, AUGMIX_OPERATIONS[policy.operations[index]], level, warping, rng)
    return image


def _apply(
    image: Image.Image, operation: Operation, level: float, warping: Warping, rng: np.random.Generator
) -> Image.Image:
    sign = -1.0 if operation.signed and rng.random() > 0.5 else 1.0
    argument = operation.argument(level, sign)
    if operation.lowest is not None:
        argument = operation.lowest + (argument - operation.lowest) * rng.random()
    if operation.change is not None:
        return operation.change(image, argument)
    assert operation.warp is not None  # an operation has one of the two
    filters = warping.filters
    resample = filters[_below(rng, len(filters))] if len(filters) > 1 else filters[0]
    return operation.warp(image, argument, resample, warping.fill)


def draw_level(rng: np.random.Generator, magnitude: float, std: float, largest: float) -> float:
    """Draw a level around `magnitude`, clipped to 0..`largest`; an infinite `std` makes it uniform in 0..`magnitude`."""
    if math.isinf(std):
        magnitude = magnitude * rng.random()
    elif std > 0:
        magnitude = magnitude + std * rng.standard_normal()
    return max(0.0, min(magnitude, largest))


def choose(rng: np.random.Generator, size: int, count: int, weights: Sequence[float] | None) -> list[int]:
    """Draw `count` of 0..size-1: evenly with replacement, or by `weights` (of sum 1) without replacement."""
    if weights is None:
        return [_below(rng, size) for _ in range(count)]
    chosen: list[int] = []
    while len(chosen) < count:
        # repeating a draw that hit a chosen number keeps the ratios of the remaining weights
        index = min(int(np.searchsorted(np.cumsum(weights), rng.random(), side="right")), size - 1)
        if index not in chosen:
            chosen.append(index)
    return chosen


def _below(rng: np.random.Generator, size: int) -> int:
    """Draw from 0..size-1, five times faster than `rng.integers` and uniform to one part in 2**53 / size."""
    return int(rng.random() * size)

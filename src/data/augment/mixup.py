"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) of a batch, as in timm's `data/mixup.py`.

Every image is paired with its mirror image in the order of the batch: position j with B-1-j. `Mixup.draw` draws for
the global batch; `mix_images` then mixes the part of one device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mixing:
    """How each of B images is mixed with its partner.

    `lam`, float64 [B]: the share of the image itself; 1 leaves it unmixed. `cut`, bool [B]: replace the box by the
    partner's pixels instead of blending both images. `box`, int64 [B, 4]: (top, bottom, left, right) of that box.
    """

    lam: np.ndarray
    box: np.ndarray
    cut: np.ndarray

    def at(self, positions: np.ndarray) -> Mixing:
        """Return the mixing of the images at these positions."""
        return Mixing(self.lam[positions], self.box[positions], self.cut[positions])


@dataclass(frozen=True)
class Mixup:
    """The distribution of `Mixing`.

    An image is mixed with probability `prob`: cut with probability `switch_prob`, else blended; an alpha of 0 disables
    its method. Lambda is drawn from Beta(alpha, alpha), one draw for a `mode` of "batch", "pair" or single "elem".
    `correct_lam` sets lambda to the remaining area if a box crosses the edge. Mixing ends with epoch `off_epoch` (0:
    never).
    """

    mixup_alpha: float
    cutmix_alpha: float
    prob: float = 1.0
    switch_prob: float = 0.5
    mode: str = "batch"
    off_epoch: float = 0.0
    correct_lam: bool = True

    def active(self, epoch: int) -> bool:
        """Return whether images are mixed in this epoch."""
        return self.off_epoch == 0 or epoch < self.off_epoch

    def draw(self, rng: np.random.Generator, batch_size: int, height: int, width: int) -> Mixing:
        """Draw for a batch of an even number of images of this size."""
        if self.mode == "elem":
            return self._draw_each(rng, batch_size, height, width)
        if self.mode == "pair":
            half = np.arange(batch_size // 2)
            return self._draw_each(rng, len(half), height, width).at(np.concatenate([half, half[::-1]]))
        return self._draw_each(rng, 1, height, width).at(np.zeros(batch_size, dtype=np.int64))

    def _draw_each(self, rng: np.random.Generator, count: int, height: int, width: int) -> Mixing:
        share_cut = self.switch_prob if self.mixup_alpha > 0 and self.cutmix_alpha > 0 else float(self.cutmix_alpha > 0)
        mixed = rng.random(count) < self.prob
        cut = rng.random(count) < share_cut
        lam = np.ones(count)
        for chosen, alpha in ((mixed & cut, self.cutmix_alpha), (mixed & ~cut, self.mixup_alpha)):
            if alpha > 0:
                lam[chosen] = rng.beta(alpha, alpha, size=count)[chosen]
        center_y = (rng.random(count) * height).astype(np.int64)
        center_x = (rng.random(count) * width).astype(np.int64)
        cut &= mixed
        box = cut_box(lam, center_y, center_x, height, width) * cut[:, None]
        if self.correct_lam:
            lam = np.where(cut, uncut_share(box, height, width), lam)
        return Mixing(lam, box, cut)


def cut_box(lam: np.ndarray, center_y: np.ndarray, center_x: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return N boxes of the image's shape and 1 - `lam` of its area around the centers, clipped: see `Mixing.box`."""
    side = np.sqrt(1.0 - np.asarray(lam, dtype=np.float64))
    box_height, box_width = (height * side).astype(np.int64), (width * side).astype(np.int64)
    top, bottom = center_y - box_height // 2, center_y + (box_height + 1) // 2
    left, right = center_x - box_width // 2, center_x + (box_width + 1) // 2
    return np.clip(np.stack([top, bottom, left, right], axis=1), 0, [height, height, width, width])


def uncut_share(box: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the share of an image's area outside its box, float64 [N]."""
    return 1.0 - (box[:, 1] - box[:, 0]) * (box[:, 3] - box[:, 2]) / (height * width)


def mix_images(images: np.ndarray, mixing: Mixing) -> None:
    """Mix a batch, float32 [B, C, H, W] with even B, in place."""
    for first in range(len(images) // 2):
        second = len(images) - 1 - first
        unmixed = images[first].copy()
        _mix_in(images[first], images[second], mixing, first)
        _mix_in(images[second], unmixed, mixing, second)


def _mix_in(image: np.ndarray, partner: np.ndarray, mixing: Mixing, position: int) -> None:
    if mixing.cut[position]:
        top, bottom, left, right = mixing.box[position]
        image[:, top:bottom, left:right] = partner[:, top:bottom, left:right]
    elif mixing.lam[position] != 1.0:
        image *= np.float32(mixing.lam[position])
        image += partner * np.float32(1.0 - mixing.lam[position])


def mix_targets(labels: np.ndarray, lam: np.ndarray, num_classes: int, label_smoothing: float) -> np.ndarray:
    """Return the soft targets of a mixed batch (timm's `mixup_target`), float32 [B, num_classes].

    `labels` is int [B]. Every class gets `label_smoothing / num_classes`; of the rest the image's own class gets `lam`
    and its partner's class 1 - `lam`.
    """
    rows = np.arange(len(labels))
    lam = np.asarray(lam, dtype=np.float32)
    target = np.full((len(labels), num_classes), label_smoothing / num_classes, dtype=np.float32)
    rest = np.float32(1.0 - label_smoothing)
    target[rows, labels] += rest * lam
    target[rows, labels[::-1]] += rest * (np.float32(1.0) - lam)
    return target

"""Evaluation: loss and accuracy over every image of a set, once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from mindspore import Tensor

from src.data.imagenet import EvalBatch
from src.runtime.distributed import SumOverRanks


@dataclass(frozen=True)
class EvalResult:
    """Mean cross-entropy in nats and accuracies in percent over `images` images."""

    loss: float
    top1: float
    top5: float
    images: int

    def as_printed(self) -> dict[str, float]:
        """The dictionary that eval.py prints."""
        return {"Loss": round(self.loss, 6), "Top1-Acc": round(self.top1, 4), "Top5-Acc": round(self.top5, 4)}


@dataclass
class Counts:
    """Sums over images, so that any split of a set over batches and ranks adds up to the same counts."""

    images: int = 0
    top1: int = 0
    top5: int = 0
    loss: float = 0.0

    def add(self, logits: np.ndarray, label: np.ndarray) -> None:
        """Count a batch: `logits` float32 [B, C], `label` int [B].

        Equal logits rank by their index, as a stable sort has it; whatever compares with nothing (NaN) ranks first,
        so that a broken network is never right.
        """
        logits = logits.astype(np.float64)
        own = np.take_along_axis(logits, label[:, None], 1)
        after = (logits < own) | ((logits == own) & (np.arange(logits.shape[1]) > label[:, None]))
        rank = logits.shape[1] - 1 - after.sum(1)
        top = logits.max(1)
        log_sum = np.log(np.exp(logits - top[:, None]).sum(1)) + top
        self.images += len(label)
        self.top1 += int((rank < 1).sum())
        self.top5 += int((rank < 5).sum())
        self.loss += float((log_sum - own[:, 0]).sum())

    def result(self) -> EvalResult:
        """The means; raises `ValueError` where nothing was counted."""
        if not self.images:
            raise ValueError("no image was evaluated")
        percent = 100.0 / self.images
        return EvalResult(self.loss / self.images, self.top1 * percent, self.top5 * percent, self.images)


def evaluate(
    predict: Callable[[Tensor], Tensor],
    batches: Iterable[EvalBatch],
    total: Callable[[Counts], Counts] = lambda counts: counts,
) -> EvalResult:
    """Run `predict` (image float32 [B, 3, S, S] -> logits [B, C], in evaluation mode) over `batches`.

    `total` adds the counts of all ranks: see `RankSum`.
    """
    counts = Counts()
    for batch in batches:
        logits = predict(Tensor(batch.image)).asnumpy()
        counts.add(logits[: batch.valid], batch.label[: batch.valid])
    return total(counts).result()


class RankSum:
    """Adds `Counts` over all ranks, which have joined.

    Whole numbers travel as float32 digits to the base of 4096: sums of these are exact for up to 4096 ranks. The loss
    travels as a float32 and what that leaves of it.
    """

    BASE = 4096

    def __init__(self) -> None:
        self._sum = SumOverRanks()

    def total(self, counts: Counts) -> Counts:
        """The sum of every rank's `counts`."""
        return self.unpack(self._sum(Tensor(self.pack(counts))).asnumpy())

    @classmethod
    def pack(cls, counts: Counts) -> np.ndarray:
        """`counts` as float32 [8], sums of which are the packed sums."""
        integers = [counts.images, counts.top1, counts.top5]
        digits = [digit for n in integers for digit in (n % cls.BASE, n // cls.BASE)]
        coarse = np.float32(counts.loss)
        return np.array([*digits, coarse, counts.loss - float(coarse)], np.float32)

    @classmethod
    def unpack(cls, values: np.ndarray) -> Counts:
        """The inverse of `pack`, also of a sum."""
        images, top1, top5 = (int(low) + cls.BASE * int(high) for low, high in values[:6].reshape(3, 2))
        return Counts(images, top1, top5, float(values[6]) + float(values[7]))

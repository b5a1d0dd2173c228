"""Evaluation of a classifier: loss and accuracy over every image of a set, once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from itertools import islice

import numpy as np
from mindspore import Tensor, nn

from src.data.imagenet import EvalBatch, EvalLoader
from src.runtime.distributed import Ranks, gather


@dataclass(frozen=True)
class EvalResult:
    """Mean cross-entropy in nats and accuracies in percent over `images` images."""

    loss: float
    top1: float
    top5: float
    images: int

    def as_printed(self) -> dict[str, float]:
        """Return the dictionary that eval.py prints."""
        return {"Loss": round(self.loss, 6), "Top1-Acc": round(self.top1, 4), "Top5-Acc": round(self.top5, 4)}


@dataclass
class Counts:
    """Sums over images, so any division of a set into batches and ranks gives the same total."""

    images: int = 0
    top1: int = 0
    top5: int = 0
    loss: float = 0.0

    def add(self, logits: np.ndarray, label: np.ndarray) -> None:
        """Count a batch: `logits` float32 [B, C], `label` int [B].

        Equal logits rank by their index, as in a stable sort. NaN ranks first, so a broken network is never right.
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

    def over_ranks(self, ranks: Ranks) -> Counts:
        """Return the sum over all ranks, which call this at the same place."""
        images, top1, top5, loss = gather(ranks, np.array(astuple(self), np.float64)).sum(0)
        return Counts(int(images), int(top1), int(top5), float(loss))

    def result(self) -> EvalResult:
        """Return the means; raises `ValueError` without images."""
        if not self.images:
            raise ValueError("no image was evaluated")
        percent = 100.0 / self.images
        return EvalResult(self.loss / self.images, self.top1 * percent, self.top5 * percent, self.images)


def evaluate_network(
    network: nn.Cell,
    loader: EvalLoader,
    ranks: Ranks = Ranks(),
    batches: int | None = None,
) -> EvalResult:
    """Evaluate the network with its present weights over all ranks, or over the first `batches` of each rank."""
    training = network.training
    network.set_train(False)
    try:
        return evaluate(network, islice(loader, batches), ranks)
    finally:
        network.set_train(training)


def evaluate(
    predict: Callable[[Tensor], Tensor],
    batches: Iterable[EvalBatch],
    ranks: Ranks = Ranks(),
) -> EvalResult:
    """Run `predict` over this rank's `batches`, and return the result over the batches of all ranks.

    `predict` maps image float32 [B, 3, S, S] to logits [B, C] and is in evaluation mode.
    """
    counts = Counts()
    for batch in batches:
        logits = predict(Tensor(batch.image)).asnumpy()
        counts.add(logits[: batch.valid], batch.label[: batch.valid])
    return counts.over_ranks(ranks).result()

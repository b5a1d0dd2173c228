"""What a network said of every image of a folder, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from mindspore import Tensor

from src.data.imagenet import EvalLoader
from src.evaluation.classification import EvalResult, evaluate


@dataclass(frozen=True)
class Outcomes:
    """For N images of C classes: `label` and `predicted`, int [N], and the probability of the latter, float [N]."""

    label: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    num_classes: int

    def confusion(self) -> np.ndarray:
        """How many images of the row's class were taken for the column's, int64 [C, C]."""
        pairs = self.label.astype(np.int64) * self.num_classes + self.predicted
        return np.bincount(pairs, minlength=self.num_classes**2).reshape(self.num_classes, self.num_classes)

    def mistakes(self) -> np.ndarray:
        """The images that were taken for another class, the one that was surest first, int64 [mistakes]."""
        wrong = np.flatnonzero(self.label != self.predicted)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")]


@dataclass(frozen=True)
class ClassResult:
    """One class: `images` that are of it, `right` of these, `said` how often it was predicted at all.

    `instead` is the class that its images are most often mistaken for, `times` how often; None where they never are.
    """

    number: int
    images: int
    right: int
    said: int
    instead: int | None
    times: int

    @property
    def accuracy(self) -> float:
        """The share of its images that were recognized, in percent; NaN without images."""
        return 100.0 * self.right / self.images if self.images else float("nan")

    @property
    def precision(self) -> float:
        """The share of what was taken for it that is of it, in percent; NaN where nothing was."""
        return 100.0 * self.right / self.said if self.said else float("nan")


def class_results(confusion: np.ndarray) -> list[ClassResult]:
    """A result per class, in the order of the classes."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    results = []
    for number, row in enumerate(wrong):
        instead = int(row.argmax())
        results.append(
            ClassResult(
                number,
                images=int(confusion[number].sum()),
                right=int(confusion[number, number]),
                said=int(confusion[:, number].sum()),
                instead=instead if row[instead] else None,
                times=int(row[instead]),
            )
        )
    return results


def evaluate_with_outcomes(predict: Callable[[Tensor], Tensor], loader: EvalLoader) -> tuple[EvalResult, Outcomes]:
    """Evaluate over all images of `loader`, which must be of a single rank, and note what became of each."""
    if loader.ranks != 1:
        raise ValueError("the outcomes of all images are known to a single rank only")
    predicted: list[np.ndarray] = []
    confidence: list[np.ndarray] = []

    def watched(image: Tensor) -> Tensor:
        output = predict(image)
        logits = output.asnumpy().astype(np.float64)
        powers = np.exp(logits - logits.max(1, keepdims=True))
        predicted.append(logits.argmax(1))
        confidence.append(powers.max(1) / powers.sum(1))
        return output

    result = evaluate(watched, loader)
    labels = loader.folder.labels
    count = len(labels)  # the last batch is filled up
    said, sure = np.concatenate(predicted)[:count], np.concatenate(confidence)[:count]
    return result, Outcomes(labels, said, sure, num_classes=len(loader.folder.classes))

"""The prediction for every image of a folder, and the scores per class that follow from it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from mindspore import Tensor

from src.data.imagenet import EvalLoader
from src.evaluation.classification import EvalResult, evaluate


class ClassScores(NamedTuple):
    """Scores of C classes: arrays [C] in percent, NaN where not defined. The recall is the accuracy of the class."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


@dataclass(frozen=True)
class Outcomes:
    """For N images of C classes: `label` and `predicted`, int [N], and the probability of the latter, float [N]."""

    label: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    num_classes: int

    def confusion(self) -> np.ndarray:
        """Return the number of images by true class (row) and predicted class (column), int64 [C, C]."""
        from sklearn.metrics import confusion_matrix  # takes a second to import

        return confusion_matrix(self.label, self.predicted, labels=range(self.num_classes))

    def scores(self) -> ClassScores:
        """Return precision, recall and F1 of every class."""
        from sklearn.metrics import precision_recall_fscore_support

        *shares, _ = precision_recall_fscore_support(
            self.label, self.predicted, labels=range(self.num_classes), zero_division=np.nan
        )
        return ClassScores(*(100 * share for share in shares))

    def mistakes(self) -> np.ndarray:
        """Return the indices of the misclassified images, highest confidence first, int64 [mistakes]."""
        wrong = np.flatnonzero(self.label != self.predicted)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")]


def evaluate_with_outcomes(predict: Callable[[Tensor], Tensor], loader: EvalLoader) -> tuple[EvalResult, Outcomes]:
    """Evaluate all images of `loader`, which must belong to a single rank, and record the outcome of each."""
    if loader.ranks != 1:
        raise ValueError("the outcomes need a loader of a single rank")
    predicted: list[np.ndarray] = []
    confidence: list[np.ndarray] = []

    def recorded(image: Tensor) -> Tensor:
        output = predict(image)
        logits = output.asnumpy().astype(np.float64)
        powers = np.exp(logits - logits.max(1, keepdims=True))
        predicted.append(logits.argmax(1))
        confidence.append(powers.max(1) / powers.sum(1))
        return output

    result = evaluate(recorded, loader)
    labels, classes = loader.folder.labels, len(loader.folder.classes)
    images = slice(len(labels))  # the last batch is padded
    return result, Outcomes(labels, np.concatenate(predicted)[images], np.concatenate(confidence)[images], classes)

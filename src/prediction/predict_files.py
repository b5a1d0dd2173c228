"""Predicting many files: each result goes into a journal and onto the screen as it comes."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import numpy as np

from src.errors import RunError
from src.prediction.journal import Journal, Record
from src.prediction.predictions_file import Details
from src.prediction.predictor import Prediction, Predictor, Unreadable
from src.prediction.progress import Progress

DIGITS = 6  # of a probability: float32 logits decide no more


def predict_files(
    predictor: Predictor, files: Iterable[str], journal: Journal, progress: Progress, details: Details, top: int
) -> None:
    """Predict those of `files` that `journal` lacks and add them to it, with the `top` most probable classes of each.

    Raises `RunError` where the network gives no numbers and where the journal cannot be written.
    """
    for result in predictor.predict(journal.remaining(files)):
        record = _record_of(result, top)
        journal.append(record)
        progress.image_done(_line_of(record, details))


def name_unreadable(records: Iterable[Record]) -> int:
    """Print a line for each image that could not be read, with the reason, on standard error; gives their number."""
    unreadable = 0
    for record in records:
        if record.reason is not None:
            unreadable += 1
            print(f"{record.image} cannot be read: {record.reason}", file=sys.stderr)
    return unreadable


def _record_of(result: Prediction | Unreadable, top: int) -> Record:
    path = str(result.image)
    if isinstance(result, Unreadable):
        return Record(path, reason=result.reason)
    if not np.isfinite(result.logits).all():
        raise RunError(f"{path} gives logits that are not finite: the weights are damaged, or too large for float16")
    return Record(path, tuple((number, float(f"{share:.{DIGITS}g}")) for number, share in result.top(top)))


def _line_of(record: Record, details: Details) -> str | None:
    """`PATH (class: N)`, with label and probability where the file has them; none for an unreadable image."""
    if record.reason is not None:
        return None
    told = ", ".join(f"{name}: {value}" for name, value in details.of_class(*record.top[0]).items())
    return f"{record.image} ({told})"

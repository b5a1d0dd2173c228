"""Results of many predictions: each goes to the journal and to the terminal at once."""

import logging
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from src.errors import RunError, discard, without_control_characters
from src.prediction.journal import Journal, Record
from src.prediction.predictions_file import shown
from src.prediction.predictor import Prediction, Unreadable

logger = logging.getLogger("beit")

DIGITS = 6  # significant digits of a probability: float32 logits hold no more


@dataclass(frozen=True)
class Details:
    """What is reported beside the class: the `topk` classes, unless None, the `probabilities`, and the `labels`."""

    topk: int | None = None
    probabilities: bool = False
    labels: tuple[str, ...] = ()


def record_predictions(
    results: Iterable[Prediction | Unreadable],
    journal: Journal,
    total: int,
    details: Details,
    *,
    quiet: bool,
    batch_size: int = 1,
) -> None:
    """Append the `results` to the journal, which holds those of `total` images in the end.

    They are written `batch_size` at a time; the results of a batch exist at the same moment. Prints one line per image
    and, on a terminal, a bar with images/s and the remaining time, unless `quiet`. Raises `RunError` if the logits are
    not finite or the journal cannot be written.
    """
    hidden = quiet or not sys.stderr.isatty()
    with tqdm(total=total, initial=len(journal), unit=" images", leave=False, disable=hidden) as bar:
        records: list[Record] = []

        def write() -> None:
            nonlocal quiet, records
            written, records = records, []
            if not written:
                return
            journal.append(*written)
            lines = [line_of(shown(record, details.probabilities)) for record in written if "class" in record]
            if lines and not quiet:
                quiet = not _print(lines, bar)
            bar.update(len(written))

        try:
            for result in results:
                records.append(record_of(result, details))
                if len(records) == batch_size:
                    write()
        finally:  # the records before an image that ends the run
            write()


def _print(lines: list[str], bar: tqdm) -> bool:
    """Print lines above the bar; return whether that succeeded. The journal, not the terminal, is the result."""
    try:
        with bar.external_write_mode(sys.stdout):
            print("\n".join(map(without_control_characters, lines)), flush=True)
    except OSError as error:  # `infer.py | head`
        discard(sys.stdout)
        logger.warning("the lines cannot be printed (%s): the run goes on without", error.strerror)
        return False
    return True


def record_of(result: Prediction | Unreadable, details: Details) -> Record:
    """Return the journal record of a result. Raises `RunError` if the logits are not finite."""
    path = str(result.image)
    if isinstance(result, Unreadable):
        return {"image": path, "unreadable": result.reason}
    if not np.isfinite(result.logits).all():
        raise RunError(f"{path} gives logits that are not finite: the weights are damaged, or too large for float16")
    top = []
    for number, probability in result.top(details.topk or 1):
        label = {"label": details.labels[number]} if details.labels else {}
        top.append({"class": number, **label, "probability": float(f"{probability:.{DIGITS}g}")})
    return {"image": path, **top[0], **({} if details.topk is None else {"top": top})}


def line_of(record: Record) -> str:
    """Return `PATH (class: N)`, with the label and the probability if the record has them."""
    values = (f"{name}: {record[name]}" for name in ("class", "label", "probability") if name in record)
    return f"{record['image']} ({', '.join(values)})"


def print_unreadable(records: Iterable[Record]) -> int:
    """Print the path and the reason of each unreadable image to standard error, and return their number."""
    unreadable = [record for record in records if "unreadable" in record]
    for record in unreadable:
        line = f"{record['image']} cannot be read: {record['unreadable']}"
        print(without_control_characters(line), file=sys.stderr)
    return len(unreadable)

"""The report on a checkpoint: evaluate its network image by image, and write report.md and the files it refers to."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mindspore import nn

from src.config import Config, as_yaml
from src.data.image_folder import ImageFolder
from src.data.imagenet import EvalLoader
from src.data.packed_image import ImageFile
from src.evaluation.classification import EvalResult
from src.files.atomic_file import write_atomically
from src.files.png_file import save_png
from src.files.writable_folder import make_folder
from src.pictures.charts import confusion_chart
from src.pictures.tiles import COLUMNS, ROWS, file_tile, tile_sheet
from src.report.outcomes import ClassScores, Outcomes, evaluate_with_outcomes
from src.report.provenance import versions

LISTED = 10  # classes and confusions in report.md


@dataclass(frozen=True)
class Report:
    """The content of a report: the `result` and `outcomes` of the file `weights` on `images` with the options `config`.

    `versions` are those of the programs that produced it, by name.
    """

    weights: Path
    config: Config
    images: ImageFolder
    result: EvalResult
    outcomes: Outcomes
    versions: Mapping[str, str]


def report_on(network: nn.Cell, loader: EvalLoader, weights: Path, config: Config, folder: Path) -> EvalResult:
    """Evaluate `network`, which has the weights of the file `weights`, and write the report into `folder`.

    `loader` yields the whole validation folder to this single process. Raises `UserError` if `folder` cannot be
    written.
    """
    training = network.training
    network.set_train(False)
    try:
        result, outcomes = evaluate_with_outcomes(network, loader)
    finally:
        network.set_train(training)
    write_report(folder, Report(weights, config, loader.folder, result, outcomes, versions()))
    return result


def write_report(folder: Path, report: Report) -> None:
    """Make `folder` and write the files of the report. Raises `UserError` if the system refuses."""
    make_folder(folder)
    names, confusion, scores = report.images.classes, report.outcomes.confusion(), report.outcomes.scores()
    mistakes = [_mistake(report, index) for index in report.outcomes.mistakes()]
    tiles = [
        file_tile(file, (f"predicted {confidence:.1%} {predicted}", f"is {label}", Path(str(file)).name))
        for file, label, predicted, confidence in mistakes[: COLUMNS * ROWS]
    ]
    rows = ((str(file), label, predicted, f"{confidence:.4f}") for file, label, predicted, confidence in mistakes)
    _write(folder / "mistakes.csv", _csv([("image", "class", "predicted", "probability"), *rows]))
    save_png(tile_sheet([tile for tile in tiles if tile is not None], COLUMNS, lines=3), folder / "mistakes.png")
    classes = [_class_row(number, names, scores, confusion) for number in range(len(names))]
    _write(folder / "per_class.csv", _csv([list(classes[0]), *(list(row.values()) for row in classes)]))
    _write(folder / "confusion.csv", _csv([("", *names), *((names[n], *row) for n, row in enumerate(confusion))]))
    save_png(confusion_chart(confusion, names), folder / "confusion.png")
    _write(folder / "config.yaml", as_yaml(report.config))
    _write(folder / "versions.txt", "".join(f"{name}: {value}\n" for name, value in report.versions.items()))
    _write(folder / "report.md", _summary(report, scores, confusion))


def _mistake(report: Report, index: int) -> tuple[ImageFile, str, str, float]:
    """Return image file, true class, predicted class and confidence of an image."""
    outcomes, names = report.outcomes, report.images.classes
    label, predicted = names[outcomes.label[index]], names[outcomes.predicted[index]]
    return report.images.paths[index], label, predicted, float(outcomes.confidence[index])


def _class_row(number: int, names: Sequence[str], scores: ClassScores, confusion: np.ndarray) -> dict[str, object]:
    """Return the row of a class in per_class.csv by its columns."""
    precision, recall, f1 = ("" if np.isnan(share[number]) else f"{share[number]:.2f}" for share in scores)
    mistaken_for, times = _mistaken_for(confusion, number, names)
    return {
        "class": number,
        "name": names[number],
        "images": confusion[number].sum(),
        "right": confusion[number, number],
        "accuracy": recall,
        "predicted": confusion[:, number].sum(),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "mistaken_for": mistaken_for,
        "times": times,
    }


def _mistaken_for(confusion: np.ndarray, number: int, names: Sequence[str]) -> tuple[str, int]:
    """Return the class that images of class `number` are most often mistaken for, if any, and how often."""
    wrong = confusion[number].copy()
    wrong[number] = 0
    return (names[wrong.argmax()], int(wrong.max())) if wrong.any() else ("", 0)


def _summary(report: Report, scores: ClassScores, confusion: np.ndarray) -> str:
    result, names = report.result, report.images.classes
    lines = [
        f"# {report.config.arch}, run {report.config.model_postfix}",
        "",
        f"Top-1 {result.top1:.2f} %, top-5 {result.top5:.2f} %, loss {result.loss:.4f}, mean class accuracy "
        f"{np.nanmean(scores.recall):.2f} %, on {result.images} images of `{report.images.root}`, with the weights "
        f"`{report.weights}`.",
        "",
        "## Classes with the lowest accuracy",
        "",
        "| class | images | accuracy | F1 | most often mistaken for |",
        "| --- | --- | --- | --- | --- |",
    ]
    escaped = "\\|"
    worst = [n for n in np.argsort(scores.recall, kind="stable") if confusion[n].any()][:LISTED]
    for n in worst:
        instead, times = _mistaken_for(confusion, n, names)
        counted = (f"{confusion[n].sum()}", f"{scores.recall[n]:.2f} %", f"{scores.f1[n]:.2f} %")
        cells = (names[n], *counted, f"{instead} ({times})" if times else "-")
        lines.append(f"| {' | '.join(cell.replace('|', escaped) for cell in cells)} |")
    lines += [
        "",
        "## Most frequent confusions",
        "",
        *_confusions(confusion, names),
        "",
        "## Files",
        "",
        "- `per_class.csv`: accuracy, precision, recall and F1 of every class, in percent",
        "- `confusion.csv`, `confusion.png`: the number of images by true class (rows) and predicted class (columns)",
        "- `mistakes.csv`, `mistakes.png`: the misclassified images, highest confidence first",
        "- `config.yaml`: the options of the run, for `--config_path`",
        "- `versions.txt`: the versions below",
        "",
        "## Versions",
        "",
        *(f"- {name}: {value}" for name, value in report.versions.items()),
    ]
    return "\n".join(lines) + "\n"


def _confusions(confusion: np.ndarray, names: Sequence[str]) -> list[str]:
    """Return the most frequent pairs of true and predicted class as a list; of equal ones the first."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:LISTED]
    pairs = [divmod(int(place), len(names)) for place in order]
    return [f"- {names[a]} predicted as {names[b]}: {wrong[a, b]}" for a, b in pairs if wrong[a, b]] or ["None."]


def _csv(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    # a file name that is not valid UTF-8 keeps its bytes
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))

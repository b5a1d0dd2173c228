"""The files of a report, each from what it is about."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from src.config import Config, as_yaml
from src.data.imagenet import ImageFolder
from src.errors import UserError
from src.files.atomic_file import write_atomically
from src.files.png_file import save_png
from src.pictures.confusion_matrix import confusion_picture
from src.pictures.tiles import Tile, tile_sheet
from src.prediction.contact_sheet import COLUMNS, ROWS, thumbnail
from src.report.outcomes import ClassResult, Outcomes, class_results
from src.trainer.evaluate import EvalResult

NAMED = 10  # so many classes and confusions are named in report.md


def write_report(
    folder: Path,
    *,
    title: str,
    weights: Path,
    config: Config,
    images: ImageFolder,
    result: EvalResult,
    outcomes: Outcomes,
    versions: Mapping[str, str],
) -> None:
    """Write report.md and what it refers to into `folder`, which is made.

    Args:
        title: what the report is of.
        weights: the checkpoint that was evaluated, with the options `config`, on `images`.
        result, outcomes: what came out.
        versions: what it was computed with, by name.

    Raises `UserError` where the system refuses to write.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}): choose another folder") from None
    names, confusion = images.classes, outcomes.confusion()
    results = class_results(confusion)
    _write(folder / "per_class.csv", _csv(_class_rows(results, names)))
    _write(folder / "confusion.csv", _csv([["", *names], *([names[n], *row] for n, row in enumerate(confusion))]))
    _write(folder / "mistakes.csv", _csv(_mistake_rows(outcomes, images)))
    save_png(confusion_picture(confusion, names), folder / "confusion.png")
    save_png(tile_sheet(_mistake_tiles(outcomes, images), COLUMNS, lines=3), folder / "mistakes.png")
    _write(folder / "config.yaml", as_yaml(config))
    _write(folder / "versions.txt", "".join(f"{name}: {value}\n" for name, value in versions.items()))
    _write(folder / "report.md", _summary(title, weights, images, result, results, confusion, versions))


def _class_rows(results: Iterable[ClassResult], names: Sequence[str]) -> Iterable[Sequence[object]]:
    yield ("class", "name", "images", "right", "accuracy", "predicted", "precision", "mistaken_for", "times")
    for r in results:
        instead = "" if r.instead is None else names[r.instead]
        accuracy, precision = (f"{value:.2f}" if value == value else "" for value in (r.accuracy, r.precision))
        yield (r.number, names[r.number], r.images, r.right, accuracy, r.said, precision, instead, r.times)


def _mistake_rows(outcomes: Outcomes, images: ImageFolder) -> Iterable[Sequence[object]]:
    yield ("image", "class", "predicted", "probability")
    for index in outcomes.mistakes():
        label, said = images.classes[outcomes.label[index]], images.classes[outcomes.predicted[index]]
        yield (images.paths[index], label, said, f"{outcomes.confidence[index]:.4f}")


def _mistake_tiles(outcomes: Outcomes, images: ImageFolder) -> list[Tile]:
    """The images of the surest mistakes, as far as they fit and can be read."""
    tiles: list[Tile] = []
    for index in outcomes.mistakes()[: COLUMNS * ROWS]:
        path = Path(images.paths[index])
        label, said = images.classes[outcomes.label[index]], images.classes[outcomes.predicted[index]]
        if (picture := thumbnail(path)) is not None:
            tiles.append(Tile(picture, (f"said {outcomes.confidence[index]:.1%} {said}", f"is {label}", path.name)))
    return tiles


def _summary(
    title: str,
    weights: Path,
    images: ImageFolder,
    result: EvalResult,
    results: Sequence[ClassResult],
    confusion: np.ndarray,
    versions: Mapping[str, str],
) -> str:
    names = images.classes
    with_images = [r for r in results if r.images]
    worst = sorted(with_images, key=lambda r: r.accuracy)[:NAMED]
    mean = sum(r.accuracy for r in with_images) / len(with_images)
    lines = [
        f"# {title}",
        "",
        f"Top-1 {result.top1:.2f} %, top-5 {result.top5:.2f} %, loss {result.loss:.4f}, mean accuracy of the classes "
        f"{mean:.2f} %, on {result.images} images of `{images.root}`, with the weights `{weights}`.",
        "",
        "## Classes that are recognized least",
        "",
        "| class | images | recognized | mostly mistaken for |",
        "| --- | --- | --- | --- |",
        *(f"| {_cell(names[r.number])} | {r.images} | {r.accuracy:.2f} % | {_mistaken(r, names)} |" for r in worst),
        "",
        "## Most frequent mistakes",
        "",
        *_confusions(confusion, names),
        "",
        "## Files",
        "",
        "- `per_class.csv`: accuracy and precision of every class",
        "- `confusion.csv`, `confusion.png`: how many images of each class were taken for which",
        "- `mistakes.csv`, `mistakes.png`: what was mistaken, what the network was surest of first",
        "- `config.yaml`: the options as they ran; `--config_path` takes it",
        "- `versions.txt`: what it was computed with",
        "",
        "## Made with",
        "",
        *(f"- {name}: {value}" for name, value in versions.items()),
    ]
    return "\n".join(lines) + "\n"


def _mistaken(result: ClassResult, names: Sequence[str]) -> str:
    return "nothing" if result.instead is None else f"{_cell(names[result.instead])} ({result.times})"


def _confusions(confusion: np.ndarray, names: Sequence[str]) -> list[str]:
    """The pairs of classes that are confused most often, as a list; of equal ones the first."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:NAMED]
    pairs = [divmod(int(place), len(names)) for place in order]
    found = [f"- {names[a]} for {names[b]}: {wrong[a, b]}" for a, b in pairs if wrong[a, b]]
    return found or ["None."]


def _cell(text: str) -> str:
    """A name in a Markdown table."""
    return text.replace("|", "\\|")


def _csv(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    # names of files are bytes: one in no valid encoding comes out as it is
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))

"""Compare the final values of both sides: do the means differ by less than the seeds?"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

OURS, THEIRS = "MindSpore", "PyTorch"

# (side, seed) -> one row per epoch
Curves = dict[tuple[str, int], list[dict[str, float]]]

METRICS = {
    "top1": "top-1, %",
    "ema_top1": "top-1 of the average, %",
    "loss": "validation loss",
    "train_loss": "training loss",
}
FIELDS = ("epoch", "learning_rate", "train_loss", "loss", "top1", "ema_loss", "ema_top1")


@dataclass(frozen=True)
class Comparison:
    """A metric after the last epoch: one value per seed and side."""

    metric: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def difference(self) -> float:
        """Difference of the means."""
        return abs(statistics.fmean(self.ours) - statistics.fmean(self.theirs))

    @property
    def seeds(self) -> float:
        """Spread over the seeds (largest minus smallest), averaged over the two sides."""
        return (spread(self.ours) + spread(self.theirs)) / 2

    @property
    def equal(self) -> bool:
        """Whether the means differ by less than the seeds."""
        return self.difference < self.seeds


def spread(values: Sequence[float]) -> float:
    """Return largest minus smallest value."""
    return max(values) - min(values)


def compare(curves: Curves) -> list[Comparison]:
    """Compare each metric in the last row of every curve."""
    seeds = sorted({seed for _, seed in curves})
    return [
        Comparison(metric, *(tuple(curves[side, seed][-1][metric] for seed in seeds) for side in (OURS, THEIRS)))
        for metric in METRICS
    ]


def table(comparisons: Sequence[Comparison]) -> str:
    """Return the comparisons as Markdown."""
    lines = [
        "| after the last epoch | side | each seed | mean | largest - smallest |",
        "| --- | --- | --- | --- | --- |",
    ]
    verdicts = []
    for comparison in comparisons:
        title, digits = METRICS[comparison.metric], 2 if "top1" in comparison.metric else 4
        for side, values in ((OURS, comparison.ours), (THEIRS, comparison.theirs)):
            each = ", ".join(f"{value:.{digits}f}" for value in values)
            mean = statistics.fmean(values)
            lines.append(f"| {title} | {side} | {each} | {mean:.{digits}f} | {spread(values):.{digits}f} |")
        apart = f"the means differ by {comparison.difference:.{digits}f}, the seeds by {comparison.seeds:.{digits}f}"
        verdicts.append(f"- {title}: {apart}: {'equal' if comparison.equal else 'DIFFERENT'}")
    return "\n".join([*lines, "", *verdicts])


def write_curves(path: Path, curves: Curves) -> None:
    """Write all curves to one CSV file."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("side", "seed", *FIELDS))
        for (side, seed), rows in curves.items():
            writer.writerows([side, seed, *(f"{row[name]:.6g}" for name in FIELDS)] for row in rows)

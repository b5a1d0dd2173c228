"""The table and the chart of the comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from setting import ARMS, SCRATCH, SHARES

from src.pictures.charts import COLORS, new_figure

BAR = 0.26  # width; a group of three is narrower than the distance 1 between groups
Key = tuple[str, float]  # arm and share of the labels


def top1_of(chosen: Mapping[Key, Sequence[Mapping[str, float]]]) -> dict[Key, list[float]]:
    """Return the accuracies on the test split, one a seed."""
    return {key: [result["test"] for result in found] for key, found in chosen.items()}


def table(chosen: Mapping[Key, Sequence[Mapping[str, float]]], rates: Mapping[Key, float]) -> str:
    """Return a Markdown table of top-1 on the test split over the seeds, and the lead over random weights."""
    rows = ["| labels | start | learning rate | top-1, % | min to max | lead | s a run |", "| --- " * 7 + "|"]
    tests = top1_of(chosen)
    for share in SHARES:
        for arm in ARMS:
            found = tests[arm, share]
            lead = mean(found) - mean(tests[SCRATCH, share])
            lead_text = "" if arm == SCRATCH else f"{lead:+.1f}"
            seconds = mean([result["seconds"] for result in chosen[arm, share]])
            cells = (
                f"{share:.0%}",
                arm,
                f"{rates[arm, share]:g}",
                f"{mean(found):.1f}",
                f"{min(found):.1f} to {max(found):.1f}",
                lead_text,
                f"{seconds:.0f}",
            )
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def draw(path: Path, tests: Mapping[Key, Sequence[float]]) -> None:
    """Draw a bar of the mean for each arm and share, with a line from the lowest to the highest seed."""
    figure = new_figure(800, 380)
    axes = figure.subplots()
    for number, (arm, color) in enumerate(zip(ARMS, COLORS)):
        for group, share in enumerate(SHARES):
            found, place = tests[arm, share], group + (number - 1) * BAR
            axes.bar(place, mean(found), BAR * 0.95, color=color, label=arm if group == 0 else None)
            axes.plot([place, place], [min(found), max(found)], color="black")
            axes.text(place, max(found) + 0.5, f"{mean(found):.1f}", ha="center", va="bottom", fontsize=9)
    axes.set_xticks(range(len(SHARES)), [f"{share:.0%} of the labels" for share in SHARES])
    axes.set_ylim(0, 105)
    axes.set_ylabel("top-1 on the test images, %")
    axes.set_title("Pre-training against random weights, equal compute", loc="left")
    axes.legend(loc="lower right")
    figure.savefig(path)


def mean(values: Sequence[float]) -> float:
    """Return the mean."""
    return sum(values) / len(values)

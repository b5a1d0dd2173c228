"""A chart of the curves of both sides."""

from __future__ import annotations

from pathlib import Path

from compare import METRICS, OURS, THEIRS, Curves

from src.pictures.charts import COLORS, new_figure

SIDES = {OURS: COLORS[1], THEIRS: COLORS[0]}
PANELS = ("top1", "ema_top1", "loss", "train_loss")


def draw_curves(path: Path, curves: Curves) -> None:
    """Draw a panel per metric over the epochs, with a line per run and a color per side."""
    figure = new_figure(1120, 760)
    for axes, metric in zip(figure.subplots(2, 2).flat, PANELS):
        for (side, _), rows in curves.items():
            axes.plot([row["epoch"] for row in rows], [row[metric] for row in rows], color=SIDES[side])
        axes.set_title(METRICS[metric], loc="left")
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        for side, color in SIDES.items():
            axes.plot([], [], color=color, label=side)
        axes.legend()
    figure.savefig(path)

"""A run's curves as a picture beside metrics.csv, drawn anew after every epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from src.files.png_file import save_png
from src.pictures.line_charts import Chart, Line, line_charts
from src.trainer.loop import Callback, RunState

NAMES = ("training", "validation", "validation, EMA", "learning rate")  # a color for each, the same in all charts


class CurvesPicture(Callback):
    """Loss, top-1 and learning rate over all epochs of the run, in the PNG file `path`."""

    def __init__(self, path: Path, charts: Mapping[str, Mapping[str, str]]) -> None:
        self._path, self._charts = path, charts

    def on_train_begin(self, state: RunState) -> None:
        """Draw the epochs of a run that is taken up, which a kill may have kept from it."""
        self._draw(state.history, state.epochs)

    def on_epoch_end(self, state: RunState) -> None:
        """Draw all epochs so far."""
        self._draw(state.history, state.epochs)

    def _draw(self, history: Sequence[Mapping[str, float]], epochs: int) -> None:
        if not history:
            return
        charts = charts_of(history, self._charts)
        picture = line_charts(charts, "epoch", first=1, last=epochs)
        save_png(picture, self._path)


def charts_of(
    history: Sequence[Mapping[str, float]], columns_of_charts: Mapping[str, Mapping[str, str]]
) -> list[Chart]:
    """The three charts of a run's records; a line for what at least one of them has."""
    charts = []
    for title, columns in columns_of_charts.items():
        lines = []
        for name, column in columns.items():
            points = [(record["epoch"], record[column]) for record in history if column in record]
            if points:
                lines.append(Line(name, points, NAMES.index(name)))
        charts.append(Chart(title, lines))
    return charts

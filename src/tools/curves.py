"""The curves of a run, drawn beside metrics.csv after every epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from src.files.png_file import save_png
from src.pictures.charts import Lines, line_charts
from src.trainer.loop import Callback, RunState

Charts = Mapping[str, Mapping[str, str]]
"""The columns of metrics.csv in each chart: chart title -> name of the line -> column."""


class CurvesPicture(Callback):
    """Draw `charts` over all epochs of the run into the PNG file `path`."""

    def __init__(self, path: Path, charts: Charts) -> None:
        self._path, self._charts = path, charts

    def on_train_begin(self, state: RunState) -> None:
        """Draw the epochs of a resumed run, which may have been killed before it drew them."""
        self._draw(state)

    def on_epoch_end(self, state: RunState) -> None:
        """Draw all epochs so far."""
        self._draw(state)

    def _draw(self, state: RunState) -> None:
        if charts := charts_of(state.history, self._charts):
            save_png(line_charts(charts, "epoch", first=1, last=state.epochs), self._path)


def charts_of(history: Sequence[Mapping[str, float]], charts: Charts) -> dict[str, Lines]:
    """Return the lines of each chart; columns that no record has and charts without lines are left out."""
    found: dict[str, Lines] = {}
    for title, columns in charts.items():
        lines = {
            name: [(record["epoch"], record[column]) for record in history if column in record]
            for name, column in columns.items()
        }
        if any(lines.values()):
            found[title] = {name: points for name, points in lines.items() if points}
    return found

"""Watching a run: the live bar, the picture of its curves, the TensorBoard file."""

from __future__ import annotations

import io
import math
import re
import struct
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from src.pictures.line_charts import (
    BOTTOM,
    COLORS,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Line,
    line_charts,
    make_axis,
)
from src.tools.callback import ProgressBar, Scalars
from src.tools.curves import CurvesPicture, charts_of
from src.tools.fine_tuning import CHARTS, TOP1
from src.tools.tensorboard_file import TensorBoardFile
from tests.test_loop import TOKENS, new_state, run, run_without_evaluation


@pytest.mark.parametrize(
    ("values", "ends", "step"),
    [
        ([0.4, 2.6], (0.0, 3.0), 0.5),
        ([0, 100], (0, 100), 20),
        ([0, 1e-3], (0, 1e-3), 2e-4),
        ([math.nan, 7.0], (2.0, 12.0), 2.0),  # one value: half of it below and above
        ([], (0, 1), 0.2),
    ],
)
def test_an_axis_ends_at_round_marks(values, ends, step):
    axis = make_axis(values)
    assert (axis.low, axis.high) == pytest.approx(ends)
    assert axis.step == pytest.approx(step)
    assert axis.ticks == pytest.approx(np.arange(len(axis.ticks)) * step + ends[0])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-1e12, 1e12).filter(lambda x: x == 0 or abs(x) > 1e-12), min_size=1, max_size=5))
def test_every_value_lies_on_its_axis(values):
    axis = make_axis(values)
    room = 1e-6 * (axis.high - axis.low)
    assert axis.low - room <= min(values) <= max(values) <= axis.high + room
    assert 2 <= len(axis.ticks) <= 13


def is_drawn(picture: Image.Image, x: float, y: float) -> bool:
    """Whether a point of a chart, whose field goes from 0 to 1 both ways, has the color of line 1, about."""
    place = LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)
    found = np.array(picture.getpixel((round(place[0]), round(place[1]))))
    return bool(np.abs(found - COLORS[1]).max() < 60)


def test_a_line_goes_through_its_points_and_is_interrupted_where_there_is_none():
    points = [(0.0, 0.0), (0.25, 1.0), (0.5, math.nan), (0.75, 0.5), (1.0, 0.5)]
    picture = line_charts([Chart("", [Line("a", points, 1)])], "x", 0, 1)
    for place in ((0.25, 1.0), (0.125, 0.5), (0.875, 0.5)):
        assert is_drawn(picture, *place), place
    for x in (0.375, 0.5, 0.625):
        assert not any(is_drawn(picture, x, y) for y in np.linspace(0.05, 0.95, 100))


def test_the_curves_are_the_columns_of_metrics_csv():
    history = [
        {"epoch": 1, "train_loss": 2.0, "loss": 1.5, "top1": 50.0, "learning_rate": 1e-3},
        {"epoch": 2, "train_loss": 1.0, "loss": 1.2, "top1": 60.0, "learning_rate": 5e-4, "ema_top1": 61.0},
    ]
    charts = charts_of(history, CHARTS)
    assert [(chart.title, [(line.name, line.points) for line in chart.lines]) for chart in charts] == [
        ("loss", [("training", [(1, 2.0), (2, 1.0)]), ("validation", [(1, 1.5), (2, 1.2)])]),
        ("top-1 accuracy, %", [("validation", [(1, 50.0), (2, 60.0)]), ("validation, EMA", [(2, 61.0)])]),
        ("learning rate", [("learning rate", [(1, 1e-3), (2, 5e-4)])]),
    ]
    assert charts[0].lines[1].color == charts[1].lines[0].color  # validation looks the same everywhere


def test_the_curves_are_drawn_after_every_epoch_and_when_a_run_resumes(tmp_path):
    path, seen = tmp_path / "curves.png", []

    class Look(CurvesPicture):
        def on_epoch_end(self, state):
            super().on_epoch_end(state)
            seen.append(np.asarray(Image.open(path)).copy())

    state = new_state(epochs=3)
    run(state, [Look(path, CHARTS)], ema=True)
    assert [picture.shape for picture in seen] == [(3 * HEIGHT, WIDTH, 3)] * 3
    assert not np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[1], seen[2])
    path.unlink()
    CurvesPicture(path, CHARTS).on_train_begin(state)
    assert np.array_equal(np.asarray(Image.open(path)), seen[2])
    path.unlink()
    CurvesPicture(path, CHARTS).on_train_begin(new_state())
    assert not path.exists()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_status_shows_loss_rate_speed_time_and_the_last_result():
    state = new_state(epochs=2, steps=4)
    state.step = 3
    state.meter.sums, state.meter.finite = np.array([5.0]), 2
    status = ProgressBar(result=TOP1).status
    # rates fall from 1e-3 to 1e-4 in 8 steps; 8 images in half a second; 5 steps are left
    assert status(state, 0.5) == "loss 2.5000 lr 7.43e-04 16.0 images/s left 0:00:02"
    state.history.append({"top1": 62.5})
    assert status(state, 720.0).endswith(" left 1:00:00 top-1 62.50")


def test_the_bar_on_a_terminal_shows_epoch_steps_and_status(monkeypatch):
    terminal, shown = Terminal(), []
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("tqdm.std.tqdm.set_postfix_str", lambda bar, text, refresh: shown.append(text))
    run(new_state(epochs=2, steps=4), [ProgressBar(result=TOP1)], losses=lambda epoch, step: 2.0)
    assert re.search(r"epoch 1/2 \|.*\| 0/4", terminal.getvalue())
    assert re.search(r"epoch 2/2 \|.*\| 0/4", terminal.getvalue())
    assert len(shown) == 8
    assert shown[0].startswith("loss nan ")  # the first losses are not read yet
    assert shown[-1].startswith("loss 2.0000 lr 1.00e-04 ")
    assert shown[-1].endswith(" left 0:00:00 top-1 50.00")


def test_no_bar_is_drawn_without_a_terminal(capsys):
    run(new_state(), [ProgressBar()])
    assert capsys.readouterr().err == ""


def tensorboard_points(folder) -> dict[tuple[str, int], float]:
    """Return the scalars of the one event file in `folder` by name and step (TFRecord: length, CRC, data, CRC)."""
    (path,) = folder.iterdir()
    assert path.name.startswith("events.out.tfevents.")
    data, place, points = path.read_bytes(), 0, {}
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        event = Event.FromString(data[place + 12 : place + 12 + length])
        points |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        place += 12 + length + 4
    return points


def test_tensorboard_has_the_curves_of_the_summaries(tmp_path):
    folder = tmp_path / "tensorboard"
    state = new_state(epochs=1, steps=4)
    run(state, [Scalars(TensorBoardFile(folder), 2)], losses=lambda epoch, step: float(step), ema=True)
    points = tensorboard_points(folder)
    assert points["loss", 2] == 1.0
    assert points["loss", 4] == 3.0
    assert points["learning_rate", 4] == pytest.approx(1e-4)
    assert points["top1", 4] == 50.0
    assert points["ema_top1", 4] == 51.0
    assert {name for name, _ in points} == {
        *("loss", "learning_rate", "top1", "top5", "validation_loss"),
        *("ema_top1", "ema_top5", "ema_validation_loss"),
    }
    assert {step for _, step in points} == {2, 4}


def test_step_metrics_appear_in_the_status_and_among_the_curves(tmp_path):
    state = new_state(epochs=1, steps=4, step_metrics=tuple(metric.name for metric in TOKENS))
    run_without_evaluation(state, [Scalars(TensorBoardFile(tmp_path / "tensorboard"), 4, TOKENS)])
    points = tensorboard_points(tmp_path / "tensorboard")
    assert (points["loss", 4], points["token_accuracy", 4], points["codes", 4]) == (4.0, 3.5, 103.0)
    assert {name for name, _ in points} == {"loss", "token_accuracy", "codes", "learning_rate"}
    state.meter.sums, state.meter.finite = np.array([5.0, 1.0, 30.0]), 2
    assert ProgressBar(TOKENS).status(state, 1.0).startswith("loss 2.5000 token accuracy 0.500 codes 15 lr ")

"""Watching a run: the live bar and the TensorBoard file."""

from __future__ import annotations

import io
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from mindspore import nn
from tensorboardX.proto.event_pb2 import Event

from src.config import Config
from src.tools.callback import ProgressBar
from src.tools.fine_tuning import TOP1
from src.tools.summaries import Summaries
from src.trainer.task import LOSS
from tests.test_loop import TOKENS, new_state, run, run_without_evaluation


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_status_shows_loss_rate_speed_time_and_the_last_result():
    state = new_state(epochs=2, steps=4)
    state.step = 3
    state.meter.sums, state.meter.finite = np.array([5.0]), 2
    status = ProgressBar(result=TOP1).status
    # rates fall from 1e-3 to 1e-4 in 8 steps; 8 images in half a second; 5 steps are left
    assert status(state, 0.5) == "loss 2.5000 lr 7.429e-04 16.0 images/s left 0:00:02"
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
    assert shown[-1].startswith("loss 2.0000 lr 1.000e-04 ")
    assert shown[-1].endswith(" left 0:00:00 top-1 50.00")


def test_no_bar_is_drawn_without_a_terminal(capsys):
    run(new_state(), [ProgressBar()])
    assert capsys.readouterr().err == ""


def curves(folder: Path, every: int) -> Summaries:
    return Summaries(Config(summary_loss_collect_freq=every, tensorboard=True), folder, nn.Cell())


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
    state = new_state(epochs=1, steps=4)
    run(state, [curves(tmp_path, 2)], losses=lambda epoch, step: float(step), ema=True)
    points = tensorboard_points(tmp_path / "tensorboard")
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
    state = new_state(epochs=1, steps=4, step_metrics=(LOSS, *TOKENS))
    run_without_evaluation(state, [curves(tmp_path, 4)])
    points = tensorboard_points(tmp_path / "tensorboard")
    assert (points["loss", 4], points["token_accuracy", 4], points["codes", 4]) == (4.0, 3.5, 103.0)
    assert {name for name, _ in points} == {"loss", "token_accuracy", "codes", "learning_rate"}
    state.meter.sums, state.meter.finite = np.array([5.0, 1.0, 30.0]), 2
    assert ProgressBar().status(state, 1.0).startswith("loss 2.5000 token accuracy 0.500 codes 15 lr ")

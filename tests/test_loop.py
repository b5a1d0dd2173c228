"""The training loop: which steps it takes, what callbacks see, how it stops, and what they write."""

from __future__ import annotations

import csv
import logging
import math
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import mindspore
import numpy as np
import pytest
from mindspore import Tensor
from mindspore.train.summary_pb2 import Event

from src.data.imagenet import TrainBatch
from src.errors import UserError
from src.tools.callback import EvaluationLines, MetricsCsv, ProgressLines, Summaries
from src.tools.logs import start_logging
from src.tools.saving import BestCheckpoints, CurrentCheckpoints
from src.trainer.evaluate import EvalResult
from src.trainer.interrupt import stop_on_signal
from src.trainer.loop import STEPS_AHEAD, Callback, RunState, StepMeter, TrainingDiverged, train
from src.weights.checkpoint import Checkpoint, load_checkpoint
from tests.networks import model_info
from tests.tiny_project import ROOT

BATCH = TrainBatch(np.zeros((2, 3, 4, 4), np.float32), np.zeros((2, 3), np.float32), np.zeros(2, np.int32))
INFO = model_info("beit_micro_patch8_32", 32, 3)


def new_state(epochs: int = 2, steps: int = 3) -> RunState:
    return RunState(epochs, steps, images_per_step=8, learning_rates=np.linspace(1e-3, 1e-4, epochs * steps))


class Recorder(Callback):
    """Notes the seams it is called at."""

    def __init__(self) -> None:
        self.seen: list[tuple] = []

    def on_train_begin(self, state):
        self.seen.append(("train begin", state.epoch, state.step))

    def on_epoch_begin(self, state):
        self.seen.append(("epoch begin", state.epoch, state.step))

    def on_step_end(self, state, batch):
        self.seen.append(("step", state.epoch, state.step, state.iteration))

    def on_epoch_end(self, state):
        self.seen.append(("epoch end", state.epoch, state.result.top1))

    def on_train_end(self, state):
        self.seen.append(("train end", state.epoch, state.step))


def run(
    state: RunState,
    callbacks: list[Callback],
    losses=lambda epoch, step: 1.0,
    top1=(50.0, 60.0, 55.0),
    ema=False,
    **options,
):
    def epoch_steps(epoch, start):
        for step in range(start, state.steps_per_epoch):
            yield Tensor(losses(epoch, step), mindspore.float32), Tensor(step == 1), Tensor(8.0), BATCH

    def validate(state):
        state.result = EvalResult(0.5, top1[state.epoch], 90.0, 10)
        if ema:
            state.ema_result = EvalResult(0.4, top1[state.epoch] + 1, 91.0, 10)

    train(epoch_steps, validate, callbacks, state, **options)


def test_callbacks_see_every_seam_in_order():
    recorder = Recorder()
    run(new_state(epochs=2, steps=2), [recorder])
    assert recorder.seen == [
        ("train begin", 0, 0),
        ("epoch begin", 0, 0),
        ("step", 0, 1, 1),
        ("step", 0, 2, 2),
        ("epoch end", 0, 50.0),
        ("epoch begin", 1, 0),
        ("step", 1, 1, 3),
        ("step", 1, 2, 4),
        ("epoch end", 1, 60.0),
        ("train end", 2, 0),
    ]


def test_a_run_that_begins_in_the_middle_of_an_epoch_takes_the_rest_of_it():
    recorder, state = Recorder(), new_state(epochs=2, steps=3)
    state.epoch, state.step = 1, 2
    run(state, [recorder])
    assert [entry for entry in recorder.seen if entry[0] == "step"] == [("step", 1, 3, 6)]


def test_the_learning_rate_shown_is_that_of_the_last_step():
    state = new_state(epochs=1, steps=3)
    assert state.learning_rate == 1e-3
    state.step = 3
    assert state.learning_rate == pytest.approx(1e-4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step(number):
    class Kill(Recorder):
        def on_step_end(self, state, batch):
            super().on_step_end(state, batch)
            if state.iteration == 2:
                os.kill(os.getpid(), number)

    recorder, state = Kill(), new_state()
    before = signal.getsignal(number)
    with stop_on_signal(state):
        run(state, [recorder])
    assert signal.getsignal(number) is before
    assert state.stop_signal == number
    assert recorder.seen[-2:] == [("step", 0, 2, 2), ("train end", 0, 2)]


@pytest.mark.parametrize("step", ["ctypes.CDLL(None).pthread_mutex_lock(held)", "while True: pass"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_process_at_once_also_within_a_step_that_python_does_not_see_into(number, step):
    """A long step of MindSpore's is one call into compiled code: here it waits for a lock."""
    code = f"""
import ctypes, numpy as np
held = ctypes.create_string_buffer(64)  # a mutex, as zeros initialize it; locked twice it waits for ever, signal or not
ctypes.CDLL(None).pthread_mutex_lock(held)
from src.tools.logs import start_logging
from src.trainer.interrupt import stop_on_signal
from src.trainer.loop import RunState
start_logging(None, terminal=True)
with stop_on_signal(RunState(1, 1, 1, np.zeros(1))):
    print("begun", flush=True)
    {step}
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "begun\n"
        begin = time.monotonic()
        try:
            for _ in range(2):
                process.send_signal(number)
                time.sleep(0.2)
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    assert time.monotonic() - begin < 10
    assert err == "interrupted\n"


def test_all_ranks_stop_after_the_step_that_the_vote_says_whoever_was_asked():
    votes = []

    def vote(asked):
        votes.append(asked)
        return len(votes) == 4

    recorder, state = Recorder(), new_state(epochs=2, steps=3)
    run(state, [recorder], stop_vote=vote)
    assert votes == [False] * 4  # three steps, and once after the evaluation
    assert recorder.seen[-2:] == [("epoch end", 0, 50.0), ("train end", 1, 0)]


def test_a_loss_that_is_no_number_for_some_steps_in_a_row_ends_the_run_with_what_to_know():
    state = new_state(epochs=2, steps=6)
    state.max_nonfinite_steps = 4
    with pytest.raises(TrainingDiverged) as error:
        run(state, [], losses=lambda epoch, step: math.nan if epoch == 1 or step > 3 else 1.0)
    assert str(error.value).startswith(
        "the loss was no finite number for 4 steps in a row, up to step 2 of epoch 2 (loss scale 8, learning rate "
        "4.273e-04): lower base_lr, clip gradients"
    )
    assert state.step <= 2 + STEPS_AHEAD


def test_steps_without_a_finite_loss_that_a_finite_one_follows_do_not_end_the_run_and_count_in_no_mean():
    state = new_state(epochs=1, steps=6)
    state.max_nonfinite_steps = 2
    run(state, [], losses=lambda epoch, step: math.inf if step % 2 else float(step))
    assert state.history[0]["train_loss"] == 2.0


def test_the_meter_means_the_epoch_and_goes_on_from_what_it_told():
    meter = StepMeter()
    for loss, overflow in ((1.0, False), (2.0, True), (math.nan, True)):
        meter.add(Tensor(loss, mindspore.float32), Tensor(overflow), Tensor(4.0))
    assert meter.steps == 3 - STEPS_AHEAD
    told = meter.as_json()
    assert (meter.mean_loss, meter.steps, meter.skipped, meter.nonfinite, meter.last_loss_scale) == (1.5, 3, 2, 1, 4.0)
    meter = StepMeter.from_json(told | {"seconds": 100.0})
    meter.add(Tensor(6.0, mindspore.float32), Tensor(False), Tensor(4.0))
    meter.drain()
    assert (meter.loss_sum, meter.finite, meter.steps, meter.skipped, meter.nonfinite) == (9.0, 3, 4, 2, 0)
    assert 100 < meter.seconds < 101


def test_progress_lines_have_epoch_step_loss_rate_speed_and_time_left(capsys):
    start_logging(None, terminal=True)
    run(new_state(epochs=1, steps=5), [ProgressLines(2), EvaluationLines()], losses=lambda epoch, step: float(step))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("epoch 1/1 step 2/5 loss 0.5000 lr 7.750e-04 ")
    assert " images/s left 0:00:0" in lines[0]
    assert lines[0].endswith(" (1 of 2 steps skipped: overflow)")
    assert lines[1].startswith("epoch 1/1 step 4/5 loss 2.5000 lr 3.250e-04 ")
    assert lines[2].startswith("epoch 1/1 step 5/5 loss 4.0000 lr 1.000e-04 ")
    assert lines[3] == "epoch 1/1 evaluation: loss 0.5000 top-1 50.00 top-5 90.00 (10 images)"


def test_the_log_file_holds_the_same_lines_with_date_and_time(tmp_path):
    start_logging(tmp_path / "rank_0.log", terminal=False)
    run(new_state(epochs=1, steps=1), [EvaluationLines()])
    (line,) = (tmp_path / "rank_0.log").read_text().splitlines()
    assert line[:2] == "20"
    assert line[20:] == "epoch 1/1 evaluation: loss 0.5000 top-1 50.00 top-5 90.00 (10 images)"
    logging.getLogger("beit").handlers.clear()


def test_metrics_csv_has_a_row_per_epoch(tmp_path):
    path = tmp_path / "metrics.csv"
    run(new_state(), [MetricsCsv(path)], losses=lambda epoch, step: epoch + step, ema=True)
    rows = list(csv.DictReader(path.open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [row["train_loss"] for row in rows] == ["1.000000", "2.000000"]
    assert [row["top1"] for row in rows] == ["50.0000", "60.0000"]
    assert [row["ema_top1"] for row in rows] == ["51.0000", "61.0000"]
    assert [row["skipped_steps"] for row in rows] == ["1", "1"]
    assert rows[1]["learning_rate"] == "1.000000e-04"


def test_a_run_that_starts_at_a_later_epoch_keeps_the_rows_before_it_and_replaces_those_after(tmp_path):
    path = tmp_path / "metrics.csv"
    run(new_state(epochs=3), [MetricsCsv(path)], ema=True)
    before = list(csv.DictReader(path.open()))
    state = new_state(epochs=3)
    state.epoch = 1
    run(state, [MetricsCsv(path)], top1=(0.0, 70.0, 80.0), ema=True)
    rows = list(csv.DictReader(path.open()))
    assert rows[0] == before[0]
    assert [row["top1"] for row in rows] == ["50.0000", "70.0000", "80.0000"]


def test_a_resumed_run_writes_the_history_of_its_checkpoint(tmp_path):
    state = new_state(epochs=2)
    state.epoch, state.history = 1, [{"epoch": 1, "train_loss": 0.25, "skipped_steps": 3}]
    run(state, [MetricsCsv(tmp_path / "metrics.csv")])
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [(row["train_loss"], row["skipped_steps"], row["top1"]) for row in rows] == [
        ("0.250000", "3", ""),
        ("1.000000", "1", "60.0000"),
    ]


def checkpoint(state: RunState) -> Checkpoint:
    return Checkpoint({"head.bias": np.full(3, state.iteration, np.float32)}, INFO)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.ckpt"))


def test_current_checkpoints_are_rotated(tmp_path):
    state = new_state(epochs=3, steps=2)
    run(state, [CurrentCheckpoints(tmp_path, "a", 2, 0, 0, lambda: checkpoint(state))])
    assert names(tmp_path) == ["a-2_2.ckpt", "a-3_2.ckpt"]
    assert load_checkpoint(tmp_path / "a-3_2.ckpt").weights["head.bias"].tolist() == [6, 6, 6]


def test_checkpoints_between_epochs_by_steps(tmp_path):
    state = new_state(epochs=2, steps=5)
    run(state, [CurrentCheckpoints(tmp_path, "a", 9, 2, 0, lambda: checkpoint(state))])
    assert names(tmp_path) == ["a-1_2.ckpt", "a-1_4.ckpt", "a-1_5.ckpt", "a-2_1.ckpt", "a-2_3.ckpt", "a-2_5.ckpt"]


def test_checkpoints_between_epochs_by_seconds(tmp_path, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr("src.tools.saving.time.monotonic", lambda: next(clock))
    state = new_state(epochs=1, steps=9)
    run(state, [CurrentCheckpoints(tmp_path, "a", 9, 0, 10, lambda: checkpoint(state))])
    assert names(tmp_path) == ["a-1_3.ckpt", "a-1_6.ckpt", "a-1_9.ckpt"]


def test_a_stopped_run_saves_where_it_stands(tmp_path):
    state = new_state(epochs=1, steps=5)

    class Stop(Callback):
        def on_step_end(self, state, batch):
            if state.step == 2:
                state.stop_signal = signal.SIGTERM

    run(state, [Stop(), CurrentCheckpoints(tmp_path, "a", 9, 0, 0, lambda: checkpoint(state))])
    assert names(tmp_path) == ["a-1_2.ckpt"]


def test_a_run_that_is_stopped_after_an_epoch_says_what_it_has_saved(tmp_path, capsys):
    start_logging(None, terminal=True)
    state = new_state(epochs=2, steps=1)
    run(state, [CurrentCheckpoints(tmp_path, "a", 9, 0, 0, lambda: checkpoint(state))], stop_vote=lambda asked: True)
    assert capsys.readouterr().out == f"stopped at epoch 1 step 1; saved {tmp_path / 'a-1_1.ckpt'}\n"
    assert names(tmp_path) == ["a-1_1.ckpt"]


def test_a_resumed_run_rotates_what_its_earlier_part_left_and_first_what_lies_beyond(tmp_path):
    for name in ("a-1_2", "a-1_4", "a-2_3", "a-10_1"):
        (tmp_path / f"{name}.ckpt").touch()
    state = new_state(epochs=2, steps=4)
    state.epoch, state.step = 1, 0
    run(state, [CurrentCheckpoints(tmp_path, "a", 3, 2, 0, lambda: checkpoint(state))])
    assert names(tmp_path) == ["a-1_4.ckpt", "a-2_2.ckpt", "a-2_4.ckpt"]


def test_a_checkpoint_that_cannot_be_written_is_an_error_and_leaves_the_older_ones(tmp_path):
    """The limit on the size of files stands in for a full disk: the write fails in the middle."""
    state = new_state(epochs=3, steps=1)
    current = CurrentCheckpoints(tmp_path, "a", 1, 0, 0, lambda: checkpoint(state))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    class FillTheDisk(Callback):
        def on_epoch_end(self, state):
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))

    try:
        with pytest.raises(UserError, match=r"a-2_1.ckpt cannot be written \(File too large\): choose another folder"):
            run(state, [current, FillTheDisk()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["a-1_1.ckpt"]
    assert load_checkpoint(tmp_path / "a-1_1.ckpt").weights["head.bias"].tolist() == [1, 1, 1]


def test_the_best_checkpoints_by_top1_stay_and_of_equal_ones_the_earlier(tmp_path):
    state = new_state(epochs=5, steps=1)
    run(state, [BestCheckpoints(tmp_path, "a", 2, lambda: checkpoint(state))], top1=(50.0, 70.0, 60.0, 70.0, 10.0))
    assert names(tmp_path) == ["a-best-2_top1_70.0000.ckpt", "a-best-4_top1_70.0000.ckpt"]
    state = new_state(epochs=3, steps=1)
    one = tmp_path / "one"
    one.mkdir()
    run(state, [BestCheckpoints(one, "a", 1, lambda: checkpoint(state))], top1=(70.0, 70.0, 60.0))
    assert names(one) == ["a-best-1_top1_70.0000.ckpt"]


def test_the_moving_averages_best_are_kept_beside_the_raw_ones(tmp_path):
    state = new_state(epochs=2, steps=1)
    raw = BestCheckpoints(tmp_path, "a", 1, lambda: checkpoint(state))
    averaged = BestCheckpoints(tmp_path, "a", 1, lambda: checkpoint(state), ema=True)
    run(state, [raw, averaged], ema=True)
    assert names(tmp_path) == ["a-best-2_top1_60.0000.ckpt", "a-ema-best-2_top1_61.0000.ckpt"]


def test_a_continued_run_counts_the_best_of_its_earlier_part(tmp_path):
    state = new_state(epochs=1, steps=1)
    run(state, [BestCheckpoints(tmp_path, "a", 1, lambda: checkpoint(state))], top1=(80.0,))
    state = new_state(epochs=2, steps=1)
    state.epoch = 1
    run(state, [BestCheckpoints(tmp_path, "a", 1, lambda: checkpoint(state))], top1=(0.0, 70.0))
    assert names(tmp_path) == ["a-best-1_top1_80.0000.ckpt"]


def test_the_best_that_a_kill_kept_from_being_written_is_written_on_resume(tmp_path):
    state = new_state(epochs=2, steps=1)
    best = BestCheckpoints(tmp_path, "a", 1, lambda: checkpoint(state))
    state.epoch, state.history = 1, [{"epoch": 1, "top1": 80.0}]
    run(state, [best], top1=(0.0, 70.0))
    assert names(tmp_path) == ["a-best-1_top1_80.0000.ckpt"]
    assert load_checkpoint(tmp_path / "a-best-1_top1_80.0000.ckpt").weights["head.bias"].tolist() == [1, 1, 1]


def test_best_files_that_a_kill_left_too_many_of_are_removed_on_resume(tmp_path):
    for name in ("a-best-1_top1_50.0000", "a-best-2_top1_60.0000", "a-ema-best-1_top1_10.0000"):
        (tmp_path / f"{name}.ckpt").touch()
    state = new_state(epochs=2, steps=1)
    state.epoch, state.history = 2, [{"epoch": 1, "top1": 50.0}, {"epoch": 2, "top1": 60.0}]
    run(state, [BestCheckpoints(tmp_path, "a", 1, lambda: checkpoint(state))])
    assert names(tmp_path) == ["a-best-2_top1_60.0000.ckpt", "a-ema-best-1_top1_10.0000.ckpt"]


def test_an_epoch_that_is_trained_again_replaces_its_best(tmp_path):
    (tmp_path / "a-best-2_top1_60.1000.ckpt").touch()
    state = new_state(epochs=2, steps=1)
    state.epoch, state.history = 1, [{"epoch": 1, "top1": 50.0}]
    run(state, [BestCheckpoints(tmp_path, "a", 2, lambda: checkpoint(state))])
    assert names(tmp_path) == ["a-best-1_top1_50.0000.ckpt", "a-best-2_top1_60.0000.ckpt"]


def events(path: Path) -> list[Event]:
    """The records of an event file: length, its checksum, the event, its checksum."""
    data, place, found = path.read_bytes(), 0, []
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        found.append(Event.FromString(data[place + 12 : place + 12 + length]))
        place += 12 + length + 4
    return found


def test_summaries_hold_loss_rate_accuracy_and_images(tmp_path):
    state = new_state(epochs=1, steps=4)
    summaries = Summaries(tmp_path, 2, mindspore.nn.Identity(), images=True, graph=False)
    run(state, [summaries], losses=lambda epoch, step: float(step))
    (path,) = tmp_path.iterdir()
    assert ".out.events.summary." in path.name
    scalars, images = {}, []
    for event in events(path):
        for value in event.summary.value:
            if value.HasField("image"):
                images.append((event.step, value.image.height, value.image.width))
            else:
                scalars[value.tag, event.step] = value.scalar_value
    assert scalars["loss/scalar" if ("loss/scalar", 2) in scalars else "loss", 2] == 1.0
    assert {name.split("/")[0] for name, _ in scalars} == {"loss", "learning_rate", "top1", "top5", "validation_loss"}
    assert images == [(2, 4, 4), (4, 4, 4)]

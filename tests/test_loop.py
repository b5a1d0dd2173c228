"""The training loop and its callbacks: steps, hooks, stopping, printed lines, metrics.csv, checkpoints, summaries."""

from __future__ import annotations

import csv
import errno
import json
import logging
import math
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor, nn
from mindspore.train.summary_pb2 import Event

from src.config import Config
from src.data.imagenet import TrainBatch
from src.errors import UserError
from src.tools.callback import MetricsCsv, PrintedLines, RemovedFolders, Unessential
from src.tools.fine_tuning import TOP1, TOP5
from src.tools.logs import start_logging
from src.tools.resume import training_state
from src.tools.saving import BestCheckpoints, CurrentCheckpoints, LastCheckpoint
from src.tools.summaries import Summaries
from src.trainer.loop import (
    STEPS_AHEAD,
    Callback,
    RunState,
    StepFailed,
    StepMeter,
    TrainingDiverged,
    running_step,
    train,
)
from src.trainer.task import LOSS, Metric
from src.weights.checkpoint import Checkpoint, load_checkpoint
from tests.networks import model_info
from tests.tiny_project import ROOT

BATCH = TrainBatch(np.zeros((2, 3, 4, 4), np.float32), np.zeros((2, 3), np.float32), np.zeros(2, np.int32))
ARCH = "test_beit_patch8_32"
INFO = model_info(ARCH, 32, 3)


METRICS = (LOSS, TOP1, TOP5)
# step metrics of a task in the manner of masked image modeling
TOKENS = (Metric("token_accuracy", "token accuracy", ".4f", ".3f"), Metric("codes", "codes", ".1f", ".0f"))


def new_state(epochs: int = 2, steps: int = 3, **values) -> RunState:
    rates = np.linspace(1e-3, 1e-4, epochs * steps)
    return RunState(epochs, steps, images_per_step=8, learning_rates=rates, **values)


class Recorder(Callback):
    """A list of the hooks that were called."""

    def __init__(self) -> None:
        self.seen: list[tuple] = []

    def on_train_begin(self, state):
        self.seen.append(("train begin", state.epoch, state.step))

    def on_epoch_begin(self, state):
        self.seen.append(("epoch begin", state.epoch, state.step))

    def on_step_end(self, state, batch):
        self.seen.append(("step", state.epoch, state.step, state.iteration))

    def on_epoch_end(self, state):
        self.seen.append(("epoch end", state.epoch, state.metrics["top1"]))

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
            values = Tensor(np.array([losses(epoch, step)], np.float32))
            yield values, Tensor(step == 1), Tensor(8.0), BATCH

    def evaluate():
        metrics = {"loss": 0.5, "top1": top1[state.epoch], "top5": 90.0}
        return metrics | ({"ema_loss": 0.4, "ema_top1": top1[state.epoch] + 1, "ema_top5": 91.0} if ema else {})

    train(epoch_steps, evaluate, callbacks, state, **options)


def run_without_evaluation(state: RunState, callbacks: list[Callback], values=(1.0, 0.5, 100.0)) -> None:
    """A task with two step metrics and no evaluation."""

    def epoch_steps(epoch, start):
        for step in range(start, state.steps_per_epoch):
            yield Tensor(np.array(values, np.float32) + step), Tensor(False), Tensor(8.0), None

    train(epoch_steps, dict, callbacks, state)


def metrics_csv(path: Path) -> MetricsCsv:
    return MetricsCsv(path, METRICS)


def test_hooks_are_called_in_order():
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


def test_a_run_that_starts_in_the_middle_of_an_epoch_takes_the_remaining_steps():
    recorder, state = Recorder(), new_state(epochs=2, steps=3)
    state.epoch, state.step = 1, 2
    run(state, [recorder])
    assert [entry for entry in recorder.seen if entry[0] == "step"] == [("step", 1, 3, 6)]


def test_the_learning_rate_of_a_state_is_that_of_the_last_step():
    state = new_state(epochs=1, steps=3)
    assert state.learning_rate == 1e-3
    state.step = 3
    assert state.learning_rate == pytest.approx(1e-4)


SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def attend() -> None:
    """Ignore no signal, as after a login: the tests may run under `nohup`."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def python(code: str, *numbers: int, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run `code`, which watches signals, and send it signals 0.2 s apart once it has printed `begun`."""
    head = "from src.runtime.signals import watch_signals\nwatch_signals()\n"
    with subprocess.Popen(
        [*prefix, sys.executable, "-c", head + code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=attend,
    ) as process:
        try:
            assert process.stdout.readline() == "begun\n"
            for number in numbers:
                process.send_signal(number)
                time.sleep(0.2)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    return subprocess.CompletedProcess("", process.returncode, out, err)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_run_after_the_step(number):
    code = """
import sys, time
import numpy as np
from src.trainer.interrupt import stop_on_signal
from tests.test_loop import Recorder, new_state, run

class Wait(Recorder):
    def on_step_end(self, state, batch):
        super().on_step_end(state, batch)
        if state.iteration == 2:
            print("begun", flush=True)
            while state.stop_signal is None:
                time.sleep(0.01)

recorder, state = Wait(), new_state()
with stop_on_signal(state):
    run(state, [recorder])
print(int(state.stop_signal), recorder.seen[-2:])
"""
    ended = python(code, number)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"{int(number)} [('step', 0, 2, 2), ('train end', 0, 2)]\n"


@pytest.mark.parametrize("step", ["ctypes.CDLL(None).pthread_mutex_lock(held)", "while True: pass"])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_the_process_at_once_even_within_compiled_code(number, step):
    """A long step of MindSpore is one call into compiled code; here that code waits for a lock."""
    code = f"""
import ctypes, numpy as np
held = ctypes.create_string_buffer(64)  # a mutex initialized by zeros; locking it twice waits forever, signal or not
ctypes.CDLL(None).pthread_mutex_lock(held)
from src.tools.logs import start_logging
from src.trainer.interrupt import stop_on_signal
from src.trainer.loop import RunState
start_logging(None, terminal=True)
with stop_on_signal(RunState(1, 1, 1, np.zeros(1))):
    print("begun", flush=True)
    {step}
"""
    begin = time.monotonic()
    ended = python(code, number, number)
    assert ended.returncode == 128 + number
    assert time.monotonic() - begin < 20
    assert ended.stdout.count("asked to stop") == 1
    assert ended.stderr == "interrupted\n"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_before_the_loop_ends_the_process_in_one_line_and_removes_unfinished_files(number, tmp_path):
    code = f"""
import time
from pathlib import Path
from src.files.atomic_file import write_atomically
def write(file):
    print("begun", flush=True)
    time.sleep(60)
write_atomically(Path({str(tmp_path)!r}) / "a", write)
"""
    ended = python(code, number)
    assert (ended.returncode, ended.stdout, ended.stderr) == (128 + number, "", "interrupted\n")
    assert not list(tmp_path.iterdir())


def test_an_ignored_signal_stays_ignored():
    code = "import time\nprint('begun', flush=True)\ntime.sleep(1)\nprint('done')"
    ended = python(code, signal.SIGHUP, prefix=("nohup",))
    assert (ended.returncode, ended.stdout) == (0, "done\n")


class Breaks(Callback):
    """Raises `error` in the hook `where`, at `iteration` for steps."""

    def __init__(self, where: str, error: Exception, iteration: int = 2) -> None:
        self._where, self._error, self._iteration = where, error, iteration

    def on_step_end(self, state, batch):
        if self._where == "step" and state.iteration == self._iteration:
            raise self._error

    def on_epoch_end(self, state):
        if self._where == "epoch":
            raise self._error


class Fails:
    """Evaluation results that cannot be had."""

    def __getitem__(self, epoch):
        raise UserError("broken image")


def resumable(folder: Path, state: RunState) -> CurrentCheckpoints:
    def snapshot() -> Checkpoint:
        return replace(checkpoint(state), training=training_state(state, {}))

    return CurrentCheckpoints(Config(arch=ARCH), folder, snapshot)


def saved_places(folder: Path) -> dict[str, tuple[int, int]]:
    stored = {path.name: load_checkpoint(path).training for path in folder.glob("*.ckpt")}
    return {name: (training["epoch"], training["step"]) for name, training in stored.items()}


def test_an_exception_between_two_steps_saves_the_state_first(tmp_path):
    state, breaks = new_state(), Breaks("step", UserError("too many images are unreadable"))
    with pytest.raises(UserError, match="too many images"):
        run(state, [resumable(tmp_path, state), breaks])
    assert saved_places(tmp_path) == {f"{ARCH}-1_2.ckpt": (0, 2)}


def test_an_exception_in_the_evaluation_saves_a_state_that_resumes_with_the_evaluation(tmp_path):
    state = new_state()
    callback = resumable(tmp_path, state)
    with pytest.raises(UserError, match="broken image"):
        run(state, [callback], top1=Fails())
    assert saved_places(tmp_path) == {f"{ARCH}-1_3.ckpt": (0, 3)}
    resumed, recorder = new_state(), Recorder()
    resumed.step = 3
    run(resumed, [recorder])
    assert recorder.seen[:3] == [("train begin", 0, 3), ("epoch begin", 0, 3), ("epoch end", 0, 50.0)]
    assert len(resumed.history) == 2


def test_a_failed_step_or_a_diverged_run_saves_nothing(tmp_path):
    """The weights may be half updated, or not finite."""

    def broken(epoch, step):
        if step == 1:
            with running_step():
                raise RuntimeError("Allocate memory failed\nmore lines")
        return 1.0

    state = new_state()
    with pytest.raises(StepFailed, match=r"\(Allocate memory failed\).*lower batch_size"):
        run(state, [resumable(tmp_path, state)], losses=broken)
    state = new_state(max_nonfinite_steps=2)
    with pytest.raises(TrainingDiverged):
        run(state, [resumable(tmp_path, state)], losses=lambda epoch, step: math.nan)
    assert not list(tmp_path.iterdir())


def test_the_first_exception_is_reported_if_the_state_cannot_be_saved_either(tmp_path):
    folder, state = tmp_path / "file" / "folder", new_state()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="the cause"):
        run(state, [resumable(folder, state), Breaks("step", UserError("the cause"))])


def test_removed_folders_are_made_again(tmp_path):
    folder, state = tmp_path / "run" / "checkpoints", new_state()
    folder.mkdir(parents=True)

    class Removes(Callback):
        def on_epoch_begin(self, state):
            shutil.rmtree(tmp_path / "run")

    run(state, [Removes(), RemovedFolders([folder]), current(folder, state, 2)])
    assert places(folder) == ["2_3"]


def test_an_unessential_callback_ends_nothing_and_warns_once(tmp_path, caplog):
    class FailingRecorder(Recorder):
        def on_step_end(self, state, batch):
            super().on_step_end(state, batch)
            raise OSError(28, "No space left on device")

    fails, state = FailingRecorder(), new_state()
    with caplog.at_level(logging.WARNING, logger="beit"):
        run(state, [Unessential(fails, "summaries")])
    assert [record.message.split(" cannot")[0] for record in caplog.records] == ["summaries"]
    assert "No space left" in caplog.text
    assert sum(entry[0] == "step" for entry in fails.seen) == 6


def test_the_vote_decides_after_which_step_the_run_stops():
    votes = []

    def vote(asked):
        votes.append(asked)
        return len(votes) == 4

    recorder, state = Recorder(), new_state(epochs=2, steps=3)
    run(state, [recorder], stop_vote=vote)
    assert votes == [False] * 4  # three steps, and once after the evaluation
    assert recorder.seen[-2:] == [("epoch end", 0, 50.0), ("train end", 1, 0)]


def test_too_many_steps_in_a_row_without_a_finite_loss_end_the_run():
    state = new_state(epochs=2, steps=6)
    state.max_nonfinite_steps = 4
    with pytest.raises(TrainingDiverged) as error:
        run(state, [], losses=lambda epoch, step: math.nan if epoch == 1 or step > 3 else 1.0)
    for part in ("4 steps in a row", "step 2 of epoch 2", "loss scale 8", "learning rate 4.273e-04", "lower base_lr"):
        assert part in str(error.value)
    assert state.step <= 2 + STEPS_AHEAD


def test_single_steps_without_a_finite_loss_neither_end_the_run_nor_enter_a_mean():
    state = new_state(epochs=1, steps=6)
    state.max_nonfinite_steps = 2
    run(state, [], losses=lambda epoch, step: math.inf if step % 2 else float(step))
    assert state.history[0]["train_loss"] == 2.0


def step_results(loss: float, skipped: bool, *metrics: float) -> tuple[Tensor, Tensor, Tensor]:
    return Tensor(np.array([loss, *metrics], np.float32)), Tensor(skipped), Tensor(4.0)


def test_the_meter_averages_the_epoch_and_continues_from_its_json():
    meter = StepMeter()
    for loss, skipped in ((1.0, False), (2.0, True), (math.nan, True)):
        meter.add(*step_results(loss, skipped, 10 * loss))
    assert meter.steps == 3 - STEPS_AHEAD
    stored = meter.as_json()
    assert meter.means.tolist() == [1.5, 15.0]
    assert (meter.steps, meter.skipped, meter.nonfinite, meter.last_loss_scale) == (3, 2, 1, 4.0)
    meter = StepMeter.from_json(json.loads(json.dumps(stored)) | {"seconds": 100.0})
    meter.add(*step_results(6.0, False, 0.0))
    meter.drain()
    assert meter.sums.tolist() == [9.0, 30.0]
    assert (meter.finite, meter.steps, meter.skipped, meter.nonfinite) == (3, 4, 2, 0)
    assert 100 < meter.seconds < 101


def test_the_meter_reads_the_json_of_earlier_versions():
    stored = {"loss_sum": 2.5, "finite": 2, "steps": 3, "skipped": 1, "nonfinite": 0, "seconds": 4.0}
    meter = StepMeter.from_json(stored)
    assert (meter.means.tolist(), meter.steps, meter.skipped) == ([1.25], 3, 1)


def test_step_metrics_are_printed_and_recorded_beside_the_loss(tmp_path, capsys):
    start_logging(None, terminal=True)
    state = new_state(epochs=1, steps=3, step_metrics=(LOSS, *TOKENS))
    table = MetricsCsv(tmp_path / "metrics.csv", ())
    run_without_evaluation(state, [PrintedLines(3), table])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("epoch 1/1 step 3/3 loss 2.0000 token accuracy 1.500 codes 101 lr 1.000e-04 ")
    (row,) = csv.DictReader((tmp_path / "metrics.csv").open())
    assert list(row)[1:5] == ["train_loss", "train_token_accuracy", "train_codes", "learning_rate"]
    assert (row["train_loss"], row["train_token_accuracy"], row["train_codes"]) == ("2.000000", "1.5000", "101.0")


def test_progress_lines_have_epoch_step_loss_rate_speed_and_time_left(capsys):
    start_logging(None, terminal=True)
    run(
        new_state(epochs=1, steps=5),
        [PrintedLines(2, METRICS, 10)],
        losses=lambda epoch, step: float(step),
    )
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
    run(new_state(epochs=1, steps=1), [PrintedLines(9, METRICS, 10)])
    _, line = (tmp_path / "rank_0.log").read_text().splitlines()
    assert line[:2] == "20"
    assert line[20:] == "epoch 1/1 evaluation: loss 0.5000 top-1 50.00 top-5 90.00 (10 images)"
    logging.getLogger("beit").handlers.clear()


def test_metrics_csv_has_a_row_per_epoch(tmp_path):
    path = tmp_path / "metrics.csv"
    run(new_state(), [metrics_csv(path)], losses=lambda epoch, step: epoch + step, ema=True)
    rows = list(csv.DictReader(path.open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [row["train_loss"] for row in rows] == ["1.000000", "2.000000"]
    assert [row["top1"] for row in rows] == ["50.0000", "60.0000"]
    assert [row["ema_top1"] for row in rows] == ["51.0000", "61.0000"]
    assert [row["skipped_steps"] for row in rows] == ["1", "1"]
    assert rows[1]["learning_rate"] == "1.000000e-04"


def test_a_run_that_starts_at_a_later_epoch_keeps_the_earlier_rows_and_replaces_the_later_ones(tmp_path):
    path = tmp_path / "metrics.csv"
    run(new_state(epochs=3), [metrics_csv(path)], ema=True)
    before = list(csv.DictReader(path.open()))
    state = new_state(epochs=3)
    state.epoch = 1
    run(state, [metrics_csv(path)], top1=(0.0, 70.0, 80.0), ema=True)
    rows = list(csv.DictReader(path.open()))
    assert rows[0] == before[0]
    assert [row["top1"] for row in rows] == ["50.0000", "70.0000", "80.0000"]


def test_a_resumed_run_writes_the_history_of_its_checkpoint(tmp_path):
    state = new_state(epochs=2)
    state.epoch, state.history = 1, [{"epoch": 1, "train_loss": 0.25, "skipped_steps": 3}]
    run(state, [metrics_csv(tmp_path / "metrics.csv")])
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [(row["train_loss"], row["skipped_steps"], row["top1"]) for row in rows] == [
        ("0.250000", "3", ""),
        ("1.000000", "1", "60.0000"),
    ]


def checkpoint(state: RunState) -> Checkpoint:
    return Checkpoint({"head.bias": np.full(3, state.iteration, np.float32)}, INFO)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.ckpt"))


def current(folder: Path, state: RunState, keep: int, steps: int = 0, seconds: int = 0) -> CurrentCheckpoints:
    config = Config(arch=ARCH, ckpt_keep_num=keep, ckpt_save_every_step=steps, ckpt_save_every_seconds=seconds)
    return CurrentCheckpoints(config, folder, lambda: checkpoint(state))


def places(folder: Path) -> list[str]:
    return [name.removeprefix(f"{ARCH}-").removesuffix(".ckpt") for name in names(folder)]


def test_current_checkpoints_are_rotated(tmp_path):
    state = new_state(epochs=3, steps=2)
    run(state, [current(tmp_path, state, 2)])
    assert places(tmp_path) == ["2_2", "3_2"]
    assert load_checkpoint(tmp_path / f"{ARCH}-3_2.ckpt").weights["head.bias"].tolist() == [6, 6, 6]


def test_checkpoints_between_epochs_by_steps(tmp_path):
    state = new_state(epochs=2, steps=5)
    run(state, [current(tmp_path, state, 9, 2)])
    assert places(tmp_path) == ["1_2", "1_4", "1_5", "2_1", "2_3", "2_5"]


def test_checkpoints_between_epochs_by_seconds(tmp_path, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr("src.tools.saving.time.monotonic", lambda: next(clock))
    state = new_state(epochs=1, steps=9)
    run(state, [current(tmp_path, state, 9, 0, 10)])
    assert places(tmp_path) == ["1_3", "1_6", "1_9"]


def test_a_stopped_run_saves_where_it_stands(tmp_path):
    state = new_state(epochs=1, steps=5)

    class Stop(Callback):
        def on_step_end(self, state, batch):
            if state.step == 2:
                state.stop_signal = signal.SIGTERM

    run(state, [Stop(), current(tmp_path, state, 9)])
    assert places(tmp_path) == ["1_2"]


def test_a_run_that_is_stopped_after_an_epoch_prints_its_place_and_the_saved_file(tmp_path, capsys):
    start_logging(None, terminal=True)
    state = new_state(epochs=2, steps=1)
    run(state, [current(tmp_path, state, 9)], stop_vote=lambda asked: True)
    (line,) = capsys.readouterr().out.splitlines()
    assert "epoch 1 step 1" in line
    assert str(tmp_path / f"{ARCH}-1_1.ckpt") in line
    assert places(tmp_path) == ["1_1"]


def test_a_resumed_run_rotates_earlier_files_too_and_first_deletes_later_ones(tmp_path):
    for name in ("1_2", "1_4", "2_3", "10_1"):
        (tmp_path / f"{ARCH}-{name}.ckpt").touch()
    state = new_state(epochs=2, steps=4)
    state.epoch, state.step = 1, 0
    run(state, [current(tmp_path, state, 3, 2)])
    assert places(tmp_path) == ["1_4", "2_2", "2_4"]


def test_a_checkpoint_that_cannot_be_written_is_an_error_and_leaves_the_older_ones(tmp_path):
    """A limit on the size of files acts like a full disk: the write fails in the middle."""
    state = new_state(epochs=3, steps=1)
    keep_one = current(tmp_path, state, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    class FillTheDisk(Callback):
        def on_epoch_end(self, state):
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))

    try:
        with pytest.raises(UserError, match=r"-2_1.ckpt cannot be written \(File too large\)"):
            run(state, [keep_one, FillTheDisk()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [tmp_path / f"{ARCH}-1_1.ckpt"]
    assert load_checkpoint(tmp_path / f"{ARCH}-1_1.ckpt").weights["head.bias"].tolist() == [1, 1, 1]


def best(folder: Path, state: RunState, keep: int, *prefixes: str) -> BestCheckpoints:
    """The callback under test; the weights of a file are those of its iteration, negative for averages."""

    def snapshot(prefix: str) -> Checkpoint:
        sign = -1 if prefix else 1
        return Checkpoint({"head.bias": np.full(3, sign * state.iteration, np.float32)}, INFO)

    return BestCheckpoints(folder, "a", keep, TOP1, {p: partial(snapshot, p) for p in ("", *prefixes)})


def best_weights(folder: Path) -> float:
    return load_checkpoint(folder / "best.ckpt").weights["head.bias"][0]


def test_the_best_checkpoints_by_top1_are_kept_and_of_equal_ones_the_earlier(tmp_path):
    state = new_state(epochs=5, steps=1)
    run(state, [best(tmp_path, state, 2)], top1=(50.0, 70.0, 60.0, 70.0, 10.0))
    assert names(tmp_path) == ["a-best-2_top1_70.0000.ckpt", "a-best-4_top1_70.0000.ckpt", "best.ckpt"]
    assert best_weights(tmp_path) == 2
    state = new_state(epochs=3, steps=1)
    one = tmp_path / "one"
    one.mkdir()
    run(state, [best(one, state, 1)], top1=(70.0, 70.0, 60.0))
    assert names(one) == ["a-best-1_top1_70.0000.ckpt", "best.ckpt"]
    assert best_weights(one) == 1


def test_best_ckpt_is_always_the_best_so_far_and_never_missing(tmp_path):
    state, seen = new_state(epochs=4, steps=1), []

    class Look(Callback):
        def on_epoch_end(self, state):
            seen.append(best_weights(tmp_path))

    run(state, [best(tmp_path, state, 1), Look()], top1=(50.0, 70.0, 60.0, 80.0))
    assert seen == [1, 2, 2, 4]
    assert not list(tmp_path.glob(".*"))  # no temporary file is left


def test_the_best_averages_are_kept_beside_the_raw_weights_and_best_ckpt_is_the_better_of_both(tmp_path, capsys):
    start_logging(None, terminal=True)
    state = new_state(epochs=2, steps=1)
    run(state, [best(tmp_path, state, 1, "ema_")], ema=True)
    assert names(tmp_path) == ["a-best-2_top1_60.0000.ckpt", "a-ema-best-2_top1_61.0000.ckpt", "best.ckpt"]
    assert best_weights(tmp_path) == -2
    assert capsys.readouterr().out == f"best weights: {tmp_path / 'best.ckpt'} (EMA top-1 61.00, epoch 2)\n"


def test_the_path_of_the_best_weights_is_printed_at_the_end(tmp_path, capsys):
    start_logging(None, terminal=True)
    state = new_state(epochs=3, steps=1)
    run(state, [best(tmp_path, state, 1)])
    assert capsys.readouterr().out == f"best weights: {tmp_path / 'best.ckpt'} (top-1 60.00, epoch 2)\n"


def test_a_continued_run_counts_the_best_of_its_earlier_part(tmp_path):
    state = new_state(epochs=1, steps=1)
    run(state, [best(tmp_path, state, 1)], top1=(80.0,))
    state = new_state(epochs=2, steps=1)
    state.epoch = 1
    run(state, [best(tmp_path, state, 1)], top1=(0.0, 70.0))
    assert names(tmp_path) == ["a-best-1_top1_80.0000.ckpt", "best.ckpt"]
    assert best_weights(tmp_path) == 1


def test_a_best_file_that_a_kill_prevented_is_written_on_resume(tmp_path):
    state = new_state(epochs=2, steps=1)
    state.epoch, state.history = 1, [{"epoch": 1, "top1": 80.0}]
    run(state, [best(tmp_path, state, 1)], top1=(0.0, 70.0))
    assert names(tmp_path) == ["a-best-1_top1_80.0000.ckpt", "best.ckpt"]
    assert best_weights(tmp_path) == 1


def test_best_ckpt_is_restored_on_resume_after_a_kill_before_its_swap(tmp_path):
    state = new_state(epochs=2, steps=1)
    run(state, [best(tmp_path, state, 1)], top1=(50.0, 60.0))
    for stale in (None, b"the best of epoch 1"):
        (tmp_path / "best.ckpt").unlink()
        if stale is not None:
            (tmp_path / "best.ckpt").write_bytes(stale)
        run(state, [best(tmp_path, state, 1)])
        assert best_weights(tmp_path) == 2


def test_surplus_best_files_after_a_kill_are_deleted_on_resume(tmp_path):
    for name in ("a-best-1_top1_50.0000", "a-best-2_top1_60.0000", "a-ema-best-1_top1_10.0000"):
        (tmp_path / f"{name}.ckpt").touch()
    state = new_state(epochs=2, steps=1)
    state.epoch, state.history = 2, [{"epoch": 1, "top1": 50.0}, {"epoch": 2, "top1": 60.0}]
    run(state, [best(tmp_path, state, 1)])
    assert names(tmp_path) == ["a-best-2_top1_60.0000.ckpt", "a-ema-best-1_top1_10.0000.ckpt", "best.ckpt"]


def test_an_epoch_that_is_trained_again_replaces_its_best_file(tmp_path):
    (tmp_path / "a-best-2_top1_60.1000.ckpt").touch()
    state = new_state(epochs=2, steps=1)
    state.epoch, state.history = 1, [{"epoch": 1, "top1": 50.0}]
    run(state, [best(tmp_path, state, 2)])
    assert names(tmp_path) == ["a-best-1_top1_50.0000.ckpt", "a-best-2_top1_60.0000.ckpt", "best.ckpt"]
    assert best_weights(tmp_path) == 2


def test_the_earlier_file_of_an_epoch_stays_if_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    earlier = tmp_path / "a-best-1_top1_60.1000.ckpt"
    earlier.touch()

    def full_disk(path, checkpoint):
        raise UserError(f"{path} cannot be written (No space left on device)")

    monkeypatch.setattr("src.tools.saving.save_checkpoint", full_disk)
    state = new_state(epochs=1, steps=1)
    with pytest.raises(UserError, match="No space left"):
        run(state, [best(tmp_path, state, 2)])
    assert earlier.exists()


def test_an_earlier_file_that_a_kill_left_beside_the_new_one_is_deleted_on_resume(tmp_path):
    state = new_state(epochs=1, steps=1)
    run(state, [best(tmp_path, state, 2)], top1=(50.0,))
    (tmp_path / "a-best-1_top1_60.1000.ckpt").touch()
    run(state, [best(tmp_path, state, 2)])
    assert names(tmp_path) == ["a-best-1_top1_50.0000.ckpt", "best.ckpt"]
    assert best_weights(tmp_path) == 1


def test_best_ckpt_is_a_copy_on_a_disk_without_hard_links(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    state = new_state(epochs=3, steps=1)
    run(state, [best(tmp_path, state, 1)])
    assert best_weights(tmp_path) == 2
    assert (tmp_path / "best.ckpt").stat().st_nlink == 1
    assert not list(tmp_path.glob(".*"))


def test_without_a_ranking_metric_best_ckpt_holds_the_last_weights(tmp_path, capsys):
    start_logging(None, terminal=True)
    state = new_state(epochs=3, steps=2)
    run_without_evaluation(state, [LastCheckpoint(tmp_path, lambda: checkpoint(state))])
    assert names(tmp_path) == ["best.ckpt"]
    assert best_weights(tmp_path) == 6
    printed = capsys.readouterr().out
    assert str(tmp_path / "best.ckpt") in printed
    assert "epoch 3" in printed
    (tmp_path / "best.ckpt").unlink()
    run_without_evaluation(state, [LastCheckpoint(tmp_path, lambda: checkpoint(state))])  # resumed after a kill
    assert best_weights(tmp_path) == 6


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
    config = Config(summary_loss_collect_freq=2, collect_input_data=True, device_target="CPU")
    summaries = Summaries(config, tmp_path, nn.Cell())
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

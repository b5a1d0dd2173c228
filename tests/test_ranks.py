"""Real ranks, started by the wrappers: equal to one device, robust to kills, no leftover processes."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from mindspore import nn

from src.errors import RunError
from src.runtime.distributed import Ranks
from src.runtime.rank import IS_RANK
from src.tools import same_weights
from src.tools.same_weights import SameWeights
from src.trainer.loop import RunState
from src.weights.checkpoint import load_checkpoint
from tests.tiny_project import ARCH, ROOT, TIMEOUT_SECONDS, metrics, script, wrapper, write_config, write_images

RUN = f"{ARCH}_test"
EPOCHS, STEPS = 5, 4  # 20 steps
FINAL = Path("checkpoints") / RUN / f"{ARCH}-{EPOCHS}_{STEPS}.ckpt"
SAME = {"epochs": EPOCHS, "drop_path": 0.0, "mixup": 0.8, "cutmix": 1.0, "print_loss_every": 1, "with_ema": True}
MARK = "BEIT_TEST_RUN"  # in the environment of all processes of a run
CPU = ("--extra", "--device_target", "CPU")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """75 training images, not divisible by 16, and 21 validation images, not divisible by 2 or 8."""
    return write_images(tmp_path_factory.mktemp("data") / "data", train=25, val=7)


@pytest.fixture(scope="module")
def one_rank(data, tmp_path_factory):
    """A run on one device with batches of 16: the reference of the other runs."""
    folder = tmp_path_factory.mktemp("one")
    script("train.py", "--config", write_config(folder, data, batch_size=16, **SAME))
    return folder


class Started:
    """A started run of two ranks, with its output in files."""

    def __init__(self, folder: Path, data: Path, **changes: object) -> None:
        self.folder = folder
        config = write_config(folder, data, batch_size=8, **{**SAME, **changes})
        command = ["bash", str(ROOT / "scripts" / "run_distribute_train.sh"), str(config), "--num_devices", "2", *CPU]
        self.out = (folder / "out").open("w+")
        self.err = (folder / "err").open("w+")
        self.mark = uuid.uuid4().hex
        environment = {**os.environ, "PYTHON_BIN": sys.executable, MARK: self.mark}
        self.process = subprocess.Popen(command, stdout=self.out, stderr=self.err, cwd=ROOT, env=environment)

    def printed(self, name: str = "out") -> str:
        return (self.folder / name).read_text()

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while text not in self.printed():
            assert self.process.poll() is None, self.printed() + self.printed("err")
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def end(self) -> int:
        code = self.process.wait(timeout=TIMEOUT_SECONDS)
        self.out.close()
        self.err.close()
        return code

    def processes(self) -> dict[int, int | None]:
        """Living processes of the run; the rank for the commands of ranks, None for the others."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            variables = dict(entry.partition(b"=")[::2] for entry in environment)
            if variables.get(MARK.encode()) == self.mark.encode():
                is_rank = IS_RANK.encode() in variables
                found[int(folder.name)] = int(variables[b"OMPI_COMM_WORLD_RANK"]) if is_rank else None
        return found


@pytest.fixture(scope="module")
def two_runs(data, tmp_path_factory):
    """Two runs of two ranks at once, and the end of the second, which loses a rank in the middle of training."""
    whole = Started(tmp_path_factory.mktemp("whole"), data)
    killed = Started(tmp_path_factory.mktemp("killed"), data, ckpt_save_every_step=1, ckpt_keep_num=3)
    killed.wait_for("epoch 2/5 step 2/4 loss")
    (victim,) = (pid for pid, rank in killed.processes().items() if rank == 1)
    os.kill(victim, signal.SIGKILL)
    begin = time.monotonic()
    code = killed.end()
    seconds = time.monotonic() - begin
    left = killed.processes()
    assert whole.end() == 0, whole.printed("err")
    return whole, killed, {"code": code, "seconds": seconds, "left": left}


def weights(folder: Path, kind: str = "weights") -> dict[str, np.ndarray]:
    return getattr(load_checkpoint(folder / FINAL), kind)


def assert_same_to_rounding(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    """Check each parameter by its norm to 1e-5; 1.6e-6 was measured.

    Single elements differ by more: if a gradient is no larger than its rounding error, AdamW steps by its sign.
    """
    for name, expected in theirs.items():
        difference = np.linalg.norm(ours[name] - expected) / np.linalg.norm(expected)
        assert difference <= 1e-5, (name, difference)


def test_two_ranks_of_8_equal_one_of_16_after_20_steps(one_rank, two_runs):
    folder = two_runs[0].folder
    for kind in ("weights", "ema"):
        assert_same_to_rounding(weights(folder, kind), weights(one_rank, kind))
    ours, theirs = metrics(folder), metrics(one_rank)
    for row, expected in zip(ours, theirs, strict=True):
        assert float(row["train_loss"]) == pytest.approx(float(expected["train_loss"]), rel=1e-5)
        assert (row["top1"], row["top5"]) == (expected["top1"], expected["top5"])


def test_two_micro_batches_of_8_equal_two_ranks_of_8_exactly_and_one_of_16_to_rounding(
    one_rank, two_runs, data, tmp_path
):
    script("train.py", "--config", write_config(tmp_path, data, batch_size=8, accumulation_steps=2, **SAME))
    for kind in ("weights", "ema"):
        ours = weights(tmp_path, kind)
        assert_same_to_rounding(ours, weights(one_rank, kind))
        for name, expected in weights(two_runs[0].folder, kind).items():
            assert np.array_equal(ours[name], expected), (kind, name)


def test_all_ranks_have_the_same_weights_after_each_epoch_and_a_log_file_each(two_runs):
    logs = two_runs[0].folder / "logs" / RUN
    found = [
        re.findall(r"epoch (\d)/5 weights ([0-9a-f]{8}) on all 2 ranks", (logs / name).read_text())
        for name in ("rank_0.log", "rank_1.log")
    ]
    assert found[0] == found[1]
    assert [epoch for epoch, _ in found[0]] == ["1", "2", "3", "4", "5"]
    assert len({checksum for _, checksum in found[0]}) == 5


def test_only_the_first_rank_prints_and_writes(two_runs):
    whole = two_runs[0]
    assert "rank 1: " not in whole.printed()
    assert whole.printed().count("evaluation: ") == 2 * EPOCHS
    assert len(list((whole.folder / "summaries" / RUN).glob("*.out.events.summary.*"))) == 1
    assert sorted(path.name for path in (whole.folder / "logs" / RUN).glob("*.log")) == ["rank_0.log", "rank_1.log"]


def test_a_killed_rank_ends_the_run_within_30_seconds_and_is_named(two_runs):
    _, killed, end = two_runs
    assert end["code"] not in (0, None)
    assert end["seconds"] < 30
    assert end["left"] == {}
    (line,) = (line for line in killed.printed("err").splitlines() if "signal 9" in line)
    assert line.startswith("error: ")
    assert f"rank 1 on {socket.gethostname()}" in line


def test_a_killed_and_resumed_run_of_two_ranks_equals_an_uninterrupted_one_exactly(two_runs):
    whole, killed, _ = two_runs
    out = wrapper(
        "run_distribute_train.sh", killed.folder / "config.yaml", "--num_devices", 2, *CPU, "--resume", "auto"
    ).stdout
    assert str(killed.folder / "checkpoints" / RUN) in out
    for kind in ("weights", "ema", "optimizer"):
        ours, theirs = weights(killed.folder, kind), weights(whole.folder, kind)
        for name, expected in theirs.items():
            assert np.array_equal(ours[name], expected), (kind, name)


def test_evaluation_over_two_and_three_ranks_equals_that_of_one(one_rank):
    """21 images in batches of 16: one rank has a short batch, three ranks have one of 7 images each."""
    (best,) = (one_rank / "best" / RUN).glob(f"{ARCH}-best-*.ckpt")
    alone = metrics(one_rank)[int(re.search(r"-best-(\d+)_", best.name)[1]) - 1]

    def results(*words: object) -> dict[str, float]:
        out = wrapper("run_eval_gpu.sh", one_rank / "config.yaml", *words, "--checkpoint", best, *CPU).stdout
        (line,) = (line for line in out.splitlines() if line.startswith("eval results: "))
        return ast.literal_eval(line.removeprefix("eval results: "))

    for ranks in (2, 3):
        together = results("--num_devices", ranks)
        assert (together["Top1-Acc"], together["Top5-Acc"]) == (float(alone["top1"]), float(alone["top5"]))
        assert together["Loss"] == pytest.approx(float(alone["loss"]), abs=2e-6)


@pytest.fixture(scope="module")
def results_of_ranks():
    """The JSON lines of the two ranks of tests/ranks_script.py."""
    launch = (
        "import sys; from src.runtime.launcher import launch; "
        f"sys.exit(launch([sys.executable, '-u', {str(ROOT / 'tests' / 'ranks_script.py')!r}], 2, '0,1'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", launch], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line[line.index("{") :]) for line in done.stdout.splitlines() if "{" in line]
    return sorted(found, key=lambda result: result["rank"])


def test_an_overflow_on_one_rank_skips_the_step_on_all(results_of_ranks):
    first, second = (result["steps"] for result in results_of_ranks)
    assert first == second  # losses, decisions, scales and weights
    assert [step["skipped"] for step in first] == [False, True, False, False]
    assert [step["scale"] for step in first] == [1024.0, 1024.0, 512.0, 512.0]
    assert first[1]["weights"] == first[0]["weights"]
    assert len({step["weights"] for step in first}) == 3


def test_counts_and_votes_are_summed_over_all_ranks(results_of_ranks):
    for result in results_of_ranks:
        *whole, loss = result["counts"]
        assert whole == [2 * 10**6 + 1, 10001, 6]
        assert loss == pytest.approx(1.2, abs=1e-7)
        assert result["total"] == 21
        assert result["votes"] == [False, False, False, False, True, True]  # asked at the third call, two ahead


def test_the_differing_rank_and_checksum_are_found(results_of_ranks):
    for result in results_of_ranks:
        assert result["agreeing"] is None
        assert result["differing"] == ["b", 1]


def test_differing_weights_end_the_run_before_anything_is_saved(monkeypatch):
    monkeypatch.setattr(same_weights, "first_difference", lambda ranks, checksums: ("weights", 1))
    state = RunState(9, 5, 8, np.zeros(45), epoch=2)
    with pytest.raises(RunError, match=r"^after epoch 3 rank 1 "):
        SameWeights(Ranks(0, 2), nn.Identity()).on_epoch_end(state)
    monkeypatch.setattr(same_weights, "first_difference", lambda ranks, checksums: None)
    SameWeights(Ranks(0, 2), nn.Identity()).on_epoch_end(state)

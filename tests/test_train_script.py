"""train.py and eval.py as a user runs them: their output, their files, their errors."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import train
from src.config import read_config
from src.errors import exit_code
from src.weights.checkpoint import load_checkpoint
from tests.tiny_project import ARCH, COLORS, ROOT, error_line, metrics, script, write_config, write_images

RUN = f"{ARCH}_test"
IMAGES = 24


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data, config and the files of two epochs of training with EMA; the config; and the output."""
    folder = tmp_path_factory.mktemp("trained")
    config = write_config(folder, write_images(folder / "data"), with_ema=True, ema_decay=0.5)
    return folder, config, script("train.py", "--config_path", config).stdout


def best(folder: Path) -> Path:
    (path,) = (folder / "best" / RUN).glob(f"{ARCH}-best-*.ckpt")
    return path


def test_training_prints_progress_and_evaluation(trained):
    *lines, best_line, last = trained[2].splitlines()
    path = trained[0] / "best" / RUN / "best.ckpt"
    assert re.fullmatch(rf"best weights: {path} \((EMA )?top-1 \d+\.\d\d, epoch [12]\)", best_line)
    assert last == f"report on {path}: {trained[0]}/logs/{RUN}/report/report.md"
    progress = re.compile(
        r"epoch [12]/2 step [23]/3 loss \d+\.\d{4} lr \d\.\d{3}e-\d\d \d+\.\d images/s left \d:\d\d:\d\d"
    )
    evaluation = re.compile(
        r"epoch [12]/2 (EMA )?evaluation: loss \d\.\d{4} top-1 \d+\.\d\d top-5 100\.00 \(9 images\)"
    )
    assert [bool(progress.fullmatch(line)) for line in lines] == [True, True, False, False] * 2
    assert [bool(evaluation.fullmatch(line)) for line in lines] == [False, False, True, True] * 2


def test_training_writes_into_the_four_folders(trained):
    folder = trained[0]
    current = sorted(path.name for path in (folder / "checkpoints" / RUN).iterdir())
    assert current == [".lock", "class_names.txt", f"{ARCH}-1_3.ckpt", f"{ARCH}-2_3.ckpt"]
    assert len(list((folder / "best" / RUN).glob(f"{ARCH}-best-*_top1_*.ckpt"))) == 1
    assert len(list((folder / "best" / RUN).glob(f"{ARCH}-ema-best-*_top1_*.ckpt"))) == 1
    assert (folder / "checkpoints" / RUN / "class_names.txt").read_text().split() == sorted(COLORS)
    assert len(list((folder / "summaries" / RUN).glob("*.out.events.summary.*"))) == 1
    logged = (folder / "logs" / RUN / "rank_0.log").read_text().splitlines()
    assert [line[20:] for line in logged] == trained[2].splitlines()
    assert [row["epoch"] for row in metrics(folder)] == ["1", "2"]


def test_a_checkpoint_stores_network_classes_and_progress(trained):
    checkpoint = load_checkpoint(trained[0] / "checkpoints" / RUN / f"{ARCH}-2_3.ckpt")
    info = checkpoint.info
    assert (info.model.arch, info.model.image_size, info.model.num_classes) == (ARCH, 32, 3)
    assert info.class_names == tuple(sorted(COLORS))
    assert (info.model.approximate_gelu, info.crop_pct, info.mean) == (False, 1.0, (0.5, 0.5, 0.5))
    training = checkpoint.training
    assert (training["epoch"], training["step"], training["steps_per_epoch"]) == (2, 0, 3)
    assert [f"{record['top1']:.4f}" for record in training["history"]] == [row["top1"] for row in metrics(trained[0])]
    assert set(checkpoint.ema) == set(checkpoint.weights)
    assert not np.array_equal(checkpoint.ema["head.weight"], checkpoint.weights["head.weight"])


def test_eval_prints_the_metrics_of_training(trained):
    folder, config, _ = trained
    path = best(folder)
    epoch = int(re.search(r"-best-(\d+)_", path.name)[1])
    last = script("eval.py", "--config", config, "--pretrained", path).stdout.splitlines()[-1]
    results = ast.literal_eval(last.removeprefix("eval results: "))
    assert list(results) == ["Loss", "Top1-Acc", "Top5-Acc"]
    row = metrics(folder)[epoch - 1]
    assert results["Loss"] == pytest.approx(float(row["loss"]), abs=2e-6)
    assert results["Top1-Acc"] == float(row["top1"])
    assert results["Top5-Acc"] == float(row["top5"])


def test_training_reports_on_its_best_weights_and_eval_writes_the_same_report(trained, tmp_path):
    """The better of the weights and their moving average; eval.py writes the same bytes."""
    folder, config, printed = trained
    report = folder / "logs" / RUN / "report"
    top1 = max(float(row[name]) for row in metrics(folder) for name in ("top1", "ema_top1"))
    best = folder / "best" / RUN / "best.ckpt"
    assert printed.splitlines()[-1].startswith(f"report on {best}: ")
    assert any(path.samefile(best) for path in best.parent.glob(f"*_top1_{top1:.4f}.ckpt"))
    assert f"Top-1 {top1:.2f} %" in (report / "report.md").read_text()
    assert read_config(report / "config.yaml") == read_config(config)
    script("eval.py", "--config_path", report / "config.yaml", "--pretrained", best, "--report", tmp_path / "again")
    for name in ("confusion.csv", "per_class.csv", "mistakes.csv", "mistakes.png"):
        assert (tmp_path / "again" / name).read_bytes() == (report / name).read_bytes(), name


def test_eval_refuses_options_that_contradict_the_checkpoint(trained):
    folder, config, _ = trained
    done = script(
        "eval.py", "--config", config, "--pretrained", best(folder), "--disable_approximate_gelu", "no", check=False
    )
    line = error_line(done)
    assert "disable_approximate_gelu is False" in line
    assert str(best(folder)) in line


def test_eval_refuses_images_of_other_classes(trained, tmp_path):
    folder, config, _ = trained
    data = tmp_path / "data"
    shutil.copytree(folder / "data", data)
    (data / "val" / "red").rename(data / "val" / "yellow")
    done = script("eval.py", "--config", config, "--pretrained", best(folder), "--data_url", data, check=False)
    assert "'yellow'" in error_line(done)
    assert str(best(folder)) in error_line(done)


def test_a_second_run_in_the_same_folders_is_refused(trained):
    log = trained[0] / "logs" / RUN / "rank_0.log"
    before = log.read_bytes()
    line = error_line(script("train.py", "--config", trained[1], check=False))
    for part in (f"checkpoints/{RUN} ", "earlier run", "--resume auto", "--model_postfix"):
        assert part in line
    assert len(metrics(trained[0])) == 2  # nothing was lost
    assert log.read_bytes() == before


def test_a_run_continued_from_pretrained_ends_with_the_weights_of_an_uninterrupted_one(trained, tmp_path):
    """With drop path and averaged weights, from the checkpoint of the first epoch."""
    folder, config, _ = trained
    first = folder / "checkpoints" / RUN / f"{ARCH}-1_3.ckpt"
    places = [
        word for name in ("ckpt", "best_ckpt", "logs", "summary") for word in (f"--{name}_root_dir", tmp_path / name)
    ]
    done = script("train.py", "--config", config, "--pretrained", first, "--exclude_epoch_state", "no", *places)
    assert f"{first} at epoch 2 step 0" in done.stdout
    whole = load_checkpoint(folder / "checkpoints" / RUN / f"{ARCH}-2_3.ckpt")
    resumed = load_checkpoint(tmp_path / "ckpt" / RUN / f"{ARCH}-2_3.ckpt")
    for name in whole.weights:
        assert np.array_equal(whole.weights[name], resumed.weights[name]), name
        assert np.array_equal(whole.ema[name], resumed.ema[name]), name


def test_ctrl_c_saves_and_ends_the_run(trained, tmp_path):
    data = trained[0] / "data"
    config = write_config(tmp_path, data, epochs=2000, print_loss_every=1)
    command = [sys.executable, "-u", str(ROOT / "train.py"), "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(4):
            assert "loss" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT
    assert time.monotonic() - begin < 60
    assert "asked to stop" in out
    assert "Traceback" not in err
    newest = max((tmp_path / "checkpoints" / RUN).glob("*.ckpt"), key=os.path.getmtime)
    stopped = load_checkpoint(newest)
    assert stopped.optimizer is not None
    assert stopped.training["epoch"] * 3 + stopped.training["step"] >= 3


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--num_classes", "7"], ("num_classes is 7", "{data}/train", "3 class folders")),
        (["--train_dir", "trian"], ("{data}/trian",)),
        (["--batch_size", "50"], ("{data}/train", "24 images", "50")),
        (["--batch_size", "7", "--mixup", "0.8"], ("batch_size", "7", "mixup", "even")),
        (["--auto_augment", "rnad-m9"], ("rnad",)),
        (["--device_target", "Ascend"], ("device_target is Ascend",)),
        (["--device_num", "2"], ("device_num is 2", "scripts/run_distribute_train")),
        (["--pretrained", "missing.ckpt"], ("missing.ckpt", "No such file or directory")),
        (["--exclude_epoch_state", "no"], ("exclude_epoch_state is False", "pretrained")),
        (["--resume", "missing.ckpt"], ("missing.ckpt", "No such file or directory")),
        (["--warmup_length", "3"], ("warmup_length is 3", "epochs", "2")),
    ],
)
def test_a_users_mistake_is_one_line_and_leaves_no_checkpoint(trained, tmp_path, monkeypatch, capsys, words, expected):
    """Run in this process, which has imported MindSpore already."""
    data = trained[0] / "data"
    config = write_config(tmp_path, data)
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", str(config), *words])
    assert exit_code(train.main) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert all(part.format(data=data) in line for part in expected)
    assert not list(tmp_path.rglob("*.ckpt"))

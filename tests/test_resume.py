"""Which checkpoint a stopped run is taken up from, and that it then ends as if it had never stopped."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.config import Config
from src.errors import UserError
from src.tools.logs import start_logging
from src.tools.resume import check_same_run, find_resume_point, run_options, training_state
from src.trainer.loop import RunState
from src.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.networks import model_info
from tests.tiny_project import ARCH, error_line, metrics, script, write_config, write_images

RUN = f"{ARCH}_test"
OPTIONS = {"base_lr": 0.1, "beta": [0.9, 0.999], "seed": 0}


def write(folder: Path, epoch: int, step: int, *, damaged: bool = False, **changes: object) -> Path:
    """A checkpoint of a run of 5 steps an epoch, named after its place, with that place as its weight."""
    state = RunState(9, 5, 8, np.zeros(45), epoch=epoch - 1, step=step)
    values: dict = {
        "weights": {"head.bias": np.full(1, 5 * epoch + step, np.float32)},
        "info": model_info(ARCH, 32, 3),
        "optimizer": {"iteration": np.int32(0)},
        "training": training_state(state, OPTIONS),
    }
    path = folder / f"{ARCH}-{epoch}_{step}.ckpt"
    save_checkpoint(path, Checkpoint(**(values | changes)))
    if damaged:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    return path


@pytest.fixture
def lines(capsys):
    """The project's lines so far."""
    start_logging(None, terminal=True)
    return lambda: capsys.readouterr().out.splitlines()


def test_auto_takes_the_newest_by_epoch_and_step_whatever_the_files_dates_and_says_which(tmp_path, lines):
    newest = write(tmp_path, 10, 1)
    for epoch, step in ((1, 5), (2, 4), (9, 5)):
        write(tmp_path, epoch, step)
    write(tmp_path, 99, 1).rename(tmp_path / f"{ARCH}-best-99_top1_1.0000.ckpt")
    point = find_resume_point("auto", tmp_path, ARCH)
    assert point.path == newest
    assert point.checkpoint.weights["head.bias"] == 51
    assert lines() == [f"resuming {newest}, the newest good checkpoint of {tmp_path}"]


def test_auto_passes_over_damaged_checkpoints_and_names_them(tmp_path, lines):
    good = write(tmp_path, 1, 5)
    damaged = write(tmp_path, 2, 2, damaged=True)
    empty = tmp_path / f"{ARCH}-2_3.ckpt"
    empty.touch()
    weights_only = write(tmp_path, 2, 4, optimizer=None, training=None)
    assert find_resume_point("auto", tmp_path, ARCH).path == good
    first, second, third, fourth = lines()
    assert first.startswith(f"passed over: {weights_only} holds weights without the state of a training run")
    assert second == f"passed over: {empty} is empty: download or copy it again"
    assert third.startswith(f"passed over: {damaged} is damaged (")
    assert fourth == f"resuming {good}, the newest good checkpoint of {tmp_path}"


def test_auto_starts_afresh_where_there_is_nothing_and_says_so(tmp_path, lines):
    for folder in (tmp_path, tmp_path / "missing"):
        assert find_resume_point("auto", folder, ARCH) is None
        assert lines() == [f"nothing to resume in {folder}: starting afresh"]
    assert find_resume_point(None, tmp_path, ARCH) is None
    assert lines() == []


def test_auto_does_not_start_afresh_over_damaged_checkpoints(tmp_path):
    write(tmp_path, 1, 5, damaged=True)
    write(tmp_path, 2, 5, damaged=True)
    with pytest.raises(UserError, match=rf"^none of the 2 checkpoints in .* is good \(the newest is {ARCH}-2_5.ckpt\)"):
        find_resume_point("auto", tmp_path, ARCH)


def test_a_file_is_resumed_as_it_is_and_a_damaged_one_refused(tmp_path, lines):
    path = write(tmp_path, 1, 5)
    assert find_resume_point(str(path), Path("elsewhere"), ARCH).path == path
    assert lines() == [f"resuming {path}"]
    path = write(tmp_path, 2, 1, damaged=True)
    with pytest.raises(UserError, match=r"is damaged \("):
        find_resume_point(str(path), tmp_path, ARCH)
    with pytest.raises(UserError, match=r"missing\.ckpt cannot be read"):
        find_resume_point(str(tmp_path / "missing.ckpt"), tmp_path, ARCH)


def test_a_file_that_later_ones_of_its_run_follow_is_refused(tmp_path):
    path = write(tmp_path, 1, 2)
    write(tmp_path, 1, 5)
    with pytest.raises(UserError, match=rf"is followed by {ARCH}-1_5.ckpt, which this run would write again: move it"):
        find_resume_point(str(path), tmp_path, ARCH)
    copy = tmp_path / "copy.ckpt"
    shutil.copy(path, copy)
    assert find_resume_point(str(copy), tmp_path, ARCH).path == copy


def test_a_run_with_other_options_is_refused_with_each_of_them(tmp_path):
    write(tmp_path, 1, 2)
    point = find_resume_point("auto", tmp_path, ARCH)
    check_same_run(OPTIONS | {"an option of a later version": 1}, point)
    with pytest.raises(UserError) as error:
        check_same_run(OPTIONS | {"base_lr": 0.2, "seed": 3}, point)
    assert str(error.value) == (
        f"{point.path} is of a run with other options: base_lr is 0.2 here and 0.1 there; seed is 3 here and 0 there: "
        f"give the same to resume it, or start from it with --pretrained {point.path} and another --model_postfix"
    )


def test_what_makes_a_run_is_what_its_training_depends_on():
    config = Config()
    options = run_options(config, 1000, 50, 4)
    assert options["images per step"] == 4 * config.batch_size
    assert options["beta"] == [0.9, 0.999]
    assert json.loads(json.dumps(options)) == options
    divided = replace(config, batch_size=config.batch_size // 2, accumulation_steps=2, device_num=2, device_id=3)
    moved = replace(divided, data_url="elsewhere", logs_root_dir="logs", num_parallel_workers=1, resume="auto")
    assert run_options(moved, 1000, 50, 4) == options
    for changes in ({"seed": 1}, {"epochs": 70}, {"drop_path": 0.5}, {"with_ema": True}, {"crop_pct": 0.5}):
        assert run_options(replace(config, **changes), 1000, 50, 4) != options
    assert run_options(config, 1001, 50, 4) != options
    assert run_options(config, 1000, 50, 2) != options


# Dropout, drop path, mixup and the moving average are on, and the loss scale changes twice before the run's stop.
CHANGES = {
    "drop": 0.2,
    "drop_path": 0.3,
    "mixup": 0.8,
    "cutmix": 1.0,
    "with_ema": True,
    "ema_decay": 0.5,
    "is_dynamic_loss_scale": True,
    "loss_scale": 2.0**127,  # overflows until it is halved twice
    "ckpt_save_every_step": 1,
    "ckpt_keep_num": 9,
    "best_ckpt_num": 2,
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A run of two epochs of three steps with a checkpoint after every step."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    script("train.py", "--config", write_config(folder, write_images(folder / "data"), **CHANGES))
    return folder


def cut(uninterrupted: Path, folder: Path, *places: str) -> Path:
    """A folder as a kill would have left it after the last of `places`, and its config."""
    (folder / "checkpoints" / RUN).mkdir(parents=True)
    for place in places:
        name = f"{ARCH}-{place}.ckpt"
        shutil.copy(uninterrupted / "checkpoints" / RUN / name, folder / "checkpoints" / RUN / name)
    return write_config(folder, uninterrupted / "data", **CHANGES)


def assert_same_run(folder: Path, uninterrupted: Path) -> None:
    final = Path("checkpoints") / RUN / f"{ARCH}-2_3.ckpt"
    ours, theirs = load_checkpoint(folder / final), load_checkpoint(uninterrupted / final)
    for kind in ("weights", "ema", "optimizer"):
        for name, array in getattr(theirs, kind).items():
            assert np.array_equal(getattr(ours, kind)[name], array), (kind, name)
    best = [sorted(path.name for path in (each / "best" / RUN).iterdir()) for each in (folder, uninterrupted)]
    assert best[0] == best[1]
    timing = ("seconds", "images_per_second")
    rows, expected = ([{**row, **dict.fromkeys(timing)} for row in metrics(f)] for f in (folder, uninterrupted))
    assert rows == expected


def test_a_run_resumed_in_the_middle_of_an_epoch_ends_as_if_it_had_not_stopped(uninterrupted, tmp_path):
    """Weights, averages, moments and loss scale to the bit; the same rows and the same best files."""
    config = cut(uninterrupted, tmp_path, "1_1", "1_2", "1_3")
    checkpoints = tmp_path / "checkpoints" / RUN
    torn = checkpoints / f"{ARCH}-1_3.ckpt"
    torn.write_bytes(torn.read_bytes()[:-1000])
    state = load_checkpoint(checkpoints / f"{ARCH}-1_2.ckpt")
    assert state.optimizer["loss_scale"] == 2.0**125
    out = script("train.py", "--config", config, "--resume", "auto").stdout
    assert f"passed over: {torn} is damaged" in out
    assert f"resuming {checkpoints / f'{ARCH}-1_2.ckpt'}, the newest good checkpoint of {checkpoints}" in out
    assert_same_run(tmp_path, uninterrupted)


def test_a_run_killed_between_its_last_checkpoint_and_the_best_file_makes_up_for_it(uninterrupted, tmp_path):
    """Resumed from the file named, with the images divided otherwise; nothing is left to train."""
    config = cut(uninterrupted, tmp_path, "2_3")
    shutil.copytree(uninterrupted / "best", tmp_path / "best")
    removed = list((tmp_path / "best" / RUN).glob("*best-2_*"))
    for path in removed:
        path.unlink()
    path = tmp_path / "checkpoints" / RUN / f"{ARCH}-2_3.ckpt"
    words = ("--batch_size", 4, "--accumulation_steps", 2)
    out = script("train.py", "--config", config, "--resume", path, *words).stdout
    assert "all 2 epochs are done: nothing is left to train" in out
    assert_same_run(tmp_path, uninterrupted)
    assert removed


def test_a_run_with_other_options_or_images_is_not_resumed(uninterrupted, tmp_path):
    config = cut(uninterrupted, tmp_path, "1_2")
    done = script(
        "train.py", "--config", config, "--resume", "auto", "--drop", 0.1, "--train_num_samples", 23, check=False
    )
    line = error_line(done)
    assert "is of a run with other options: train_num_samples is 23 here and -1 there; drop is 0.1 here and 0.2" in line
    assert "training images is 23 here and 24 there: give the same to resume it" in line

"""Which checkpoint a stopped run resumes from, and that it then ends like a run that never stopped."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import mindspore
import numpy as np
import pytest

from src.config import Config
from src.data.imagenet import ImageFolder, TrainBatch
from src.errors import UserError
from src.tools.cell import restore
from src.tools.criterion import Classification, SoftTargetCrossEntropy
from src.tools.logs import start_logging
from src.tools.optimizer import create_optimizer, parameter_groups
from src.tools.resume import (
    check_same_run,
    find_resumed,
    given_checkpoint,
    newest_checkpoint,
    run_options,
    training_state,
)
from src.tools.starting_point import continue_run
from src.trainer.feed import host_steps
from src.trainer.loop import RunState, train
from src.trainer.train_one_step_with_ema import TrainOneStepWithEMA
from src.trainer.train_one_step_with_scale_and_clip_global_norm import LossScaling, Schedules, StepOptions
from src.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.golden import training_recipe as recipe
from tests.networks import model_info, small_network
from tests.tiny_project import ARCH, error_line, metrics, script, write_config, write_images

GOLDEN = Path(__file__).parent / "golden" / "training"
RUN = f"{ARCH}_test"
OPTIONS = {"base_lr": 0.1, "beta": [0.9, 0.999], "seed": 0}


def write(folder: Path, epoch: int, step: int, *, damaged: bool = False, **changes: object) -> Path:
    """Write a checkpoint of a run of 5 steps per epoch, named after its place, with the place as its weight."""
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
    """The lines printed so far."""
    start_logging(None, terminal=True)
    return lambda: capsys.readouterr().out.splitlines()


def test_auto_resumes_the_newest_checkpoint_by_epoch_and_step_and_not_by_file_date(tmp_path, lines):
    newest = write(tmp_path, 10, 1)
    for epoch, step in ((1, 5), (2, 4), (9, 5)):
        write(tmp_path, epoch, step)
    write(tmp_path, 99, 1).rename(tmp_path / f"{ARCH}-best-99_top1_1.0000.ckpt")
    point = newest_checkpoint(tmp_path, ARCH)
    assert point.path == newest
    assert point.checkpoint.weights["head.bias"] == 51
    (line,) = lines()
    assert str(newest) in line


def test_auto_skips_damaged_checkpoints_and_names_them(tmp_path, lines):
    good = write(tmp_path, 1, 5)
    damaged = write(tmp_path, 2, 2, damaged=True)
    empty = tmp_path / f"{ARCH}-2_3.ckpt"
    empty.touch()
    weights_only = write(tmp_path, 2, 4, optimizer=None, training=None)
    assert newest_checkpoint(tmp_path, ARCH).path == good
    first, second, third, fourth = lines()
    for line, path in ((first, weights_only), (second, empty), (third, damaged)):
        assert line.startswith(f"skipped: {path} ")
    assert "resuming" in fourth
    assert str(good) in fourth


def test_auto_starts_from_the_beginning_without_checkpoints_and_says_so(tmp_path, lines):
    for folder in (tmp_path, tmp_path / "missing"):
        assert newest_checkpoint(folder, ARCH) is None
        (line,) = lines()
        assert str(folder) in line
        assert "starting from the beginning" in line
    images = ImageFolder(tmp_path, (), (), np.zeros(0, np.int32))
    assert find_resumed(Config(ckpt_root_dir=str(tmp_path)), OPTIONS, images) is None
    assert lines() == []


def test_auto_does_not_start_from_the_beginning_if_all_checkpoints_are_damaged(tmp_path):
    write(tmp_path, 1, 5, damaged=True)
    write(tmp_path, 2, 5, damaged=True)
    with pytest.raises(UserError, match=rf"^none of the 2 checkpoints in .*{ARCH}-2_5.ckpt.*: move them away"):
        newest_checkpoint(tmp_path, ARCH)


def test_a_given_file_is_resumed_and_a_damaged_one_is_refused(tmp_path, lines):
    path = write(tmp_path, 1, 5)
    assert given_checkpoint(path, ARCH).path == path
    (line,) = lines()
    assert str(path) in line
    path = write(tmp_path, 2, 1, damaged=True)
    with pytest.raises(UserError, match="is damaged"):
        given_checkpoint(path, ARCH)
    with pytest.raises(UserError, match=r"missing\.ckpt"):
        given_checkpoint(tmp_path / "missing.ckpt", ARCH)


def test_a_file_with_later_checkpoints_of_its_run_is_refused(tmp_path):
    path = write(tmp_path, 1, 2)
    write(tmp_path, 1, 5)
    with pytest.raises(UserError, match=rf"{ARCH}-1_2.ckpt .*{ARCH}-1_5.ckpt.*: move it away.*--resume auto"):
        given_checkpoint(path, ARCH)
    copy = tmp_path / "copy.ckpt"
    shutil.copy(path, copy)
    assert given_checkpoint(copy, ARCH).path == copy


def test_every_differing_option_is_named_with_both_values(tmp_path):
    write(tmp_path, 1, 2)
    point = newest_checkpoint(tmp_path, ARCH)
    check_same_run(OPTIONS | {"an option of a later version": 1}, point)
    with pytest.raises(UserError) as error:
        check_same_run(OPTIONS | {"base_lr": 0.2, "seed": 3}, point)
    text = str(error.value)
    assert text.startswith(str(point.path))
    for part in ("base_lr is 0.2 here and 0.1 there", "seed is 3 here and 0 there", f"--pretrained {point.path}"):
        assert part in text


def test_a_run_is_identified_by_the_options_that_change_its_results():
    config = Config()
    options = run_options(config, 1000, 4)
    assert options["images per step"] == 4 * config.batch_size
    assert options["beta"] == [0.9, 0.999]
    assert json.loads(json.dumps(options)) == options
    divided = replace(config, batch_size=config.batch_size // 2, accumulation_steps=2, device_num=2, device_id=3)
    moved = replace(divided, data_url="elsewhere", logs_root_dir="logs", num_parallel_workers=1, resume="auto")
    assert run_options(moved, 1000, 4) == options
    for changes in ({"seed": 1}, {"epochs": 70}, {"drop_path": 0.5}, {"with_ema": True}, {"crop_pct": 0.5}):
        assert run_options(replace(config, **changes), 1000, 4) != options
    assert run_options(config, 1001, 4) != options
    assert run_options(config, 1000, 2) != options


# Dropout, drop path, mixup and the moving average are on. The loss scale is halved while the sum of the squared
# gradients overflows, and some of the 6 steps are skipped and some are not.
CHANGES = {
    "drop": 0.2,
    "drop_path": 0.3,
    "mixup": 0.8,
    "cutmix": 1.0,
    "with_ema": True,
    "ema_decay": 0.5,
    "is_dynamic_loss_scale": True,
    "loss_scale": 2.0**66,
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
    """Fill `folder` as a kill after the last of `places` would have left it, and return its config."""
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
    ours, theirs = (load_checkpoint(each / "best" / RUN / "best.ckpt").weights for each in (folder, uninterrupted))
    assert all(np.array_equal(ours[name], array) for name, array in theirs.items())
    timing = ("seconds", "images_per_second")
    rows, expected = ([{**row, **dict.fromkeys(timing)} for row in metrics(f)] for f in (folder, uninterrupted))
    assert rows == expected


def test_the_uninterrupted_run_skips_some_steps_and_takes_others(uninterrupted):
    skipped = [int(row["skipped_steps"]) for row in metrics(uninterrupted)]
    assert 2 < sum(skipped) < 6
    assert int(load_checkpoint(uninterrupted / "checkpoints" / RUN / f"{ARCH}-2_3.ckpt").optimizer["step"]) > 0


def test_a_run_resumed_in_the_middle_of_an_epoch_ends_like_an_uninterrupted_one(uninterrupted, tmp_path):
    """Weights, averages, moments and loss scale to the bit; the same rows and the same best files."""
    config = cut(uninterrupted, tmp_path, "1_1", "1_2", "1_3")
    checkpoints = tmp_path / "checkpoints" / RUN
    torn = checkpoints / f"{ARCH}-1_3.ckpt"
    torn.write_bytes(torn.read_bytes()[:-1000])
    state = load_checkpoint(checkpoints / f"{ARCH}-1_2.ckpt")
    assert state.optimizer["loss_scale"] == 2.0**64
    out = script("train.py", "--config", config, "--resume", "auto").stdout
    assert f"skipped: {torn} is damaged" in out
    assert f"resuming {checkpoints / f'{ARCH}-1_2.ckpt'}" in out
    assert_same_run(tmp_path, uninterrupted)


def test_a_best_file_missing_after_a_kill_is_restored_on_resume(uninterrupted, tmp_path):
    """Resumed from the given file, with images divided into micro-batches; nothing is left to train."""
    config = cut(uninterrupted, tmp_path, "2_3")
    shutil.copytree(uninterrupted / "best", tmp_path / "best")
    removed = list((tmp_path / "best" / RUN).glob("*best-2_*"))
    for path in (*removed, tmp_path / "best" / RUN / "best.ckpt"):
        path.unlink()
    path = tmp_path / "checkpoints" / RUN / f"{ARCH}-2_3.ckpt"
    words = ("--batch_size", 4, "--accumulation_steps", 2)
    out = script("train.py", "--config", config, "--resume", path, *words).stdout
    assert "all 2 epochs are done" in out
    assert_same_run(tmp_path, uninterrupted)
    assert removed


def test_a_run_with_other_options_or_images_is_not_resumed(uninterrupted, tmp_path):
    config = cut(uninterrupted, tmp_path, "1_2")
    done = script(
        "train.py", "--config", config, "--resume", "auto", "--drop", 0.1, "--train_num_samples", 23, check=False
    )
    line = error_line(done)
    for part in ("train_num_samples is 23 here and -1 there", "drop is 0.1 here and 0.2 there"):
        assert part in line
    assert "training images is 23 here and 24 there" in line


class RecipeLoader:
    """The batches of tests/golden/training_recipe.py."""

    def epoch(self, epoch: int, start_step: int):
        for step in range(start_step, recipe.STEPS):
            yield TrainBatch(*recipe.batch(epoch, step))


def test_a_checkpoint_of_an_earlier_version_resumes():
    """Commit 47f2f5b wrote the file in the middle of an epoch, and the expected end of the run."""
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    network = small_network(
        **recipe.SIZES, num_classes=recipe.NUM_CLASSES, drop=recipe.DROP, drop_path=recipe.DROP_PATH
    ).set_train(True)
    weights = network.trainable_params()
    groups = parameter_groups(
        ((p.name, p.shape) for p in weights),
        layer_decay=recipe.LAYER_DECAY,
        depth=recipe.SIZES["depth"],
    )
    step = TrainOneStepWithEMA(
        Classification(network, SoftTargetCrossEntropy()),
        create_optimizer(Config(), weights, groups),
        Schedules(recipe.LEARNING_RATES, np.full_like(recipe.LEARNING_RATES, recipe.WEIGHT_DECAY)),
        recipe.EMA_DECAY,
        StepOptions(LossScaling(), recipe.CLIP_GRAD_NORM, square_sum=network.layers.square_sum),
    )
    state = RunState(recipe.EPOCHS, recipe.STEPS, recipe.BATCH_SIZE, recipe.LEARNING_RATES)
    point = newest_checkpoint(GOLDEN, recipe.ARCH)
    check_same_run(recipe.OPTIONS, point)
    restore({p.name: p for p in network.get_parameters()}, point.checkpoint.weights, point.path)
    continue_run(step.state(), state, point)
    assert (state.epoch, state.step, state.history[0]["ema_top1"]) == (1, 2, 60.0)
    train(host_steps(step, RecipeLoader()), dict, [], state)
    with np.load(GOLDEN / "end.npz") as end:
        # float32 sums round differently on other kinds of CPUs, and AdamW amplifies that where gradients are small
        losses = [record["train_loss"] for record in state.history]
        np.testing.assert_allclose(losses, end["train_losses"], rtol=1e-5)
        for name, parameter in ({p.name: p for p in network.get_parameters()} | step.state()).items():
            if not name.startswith("optimizer.exp_avg"):
                np.testing.assert_allclose(parameter.asnumpy(), end[name], rtol=1e-3, atol=1e-5, err_msg=name)

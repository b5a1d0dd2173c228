"""Trying a run out, and the first steps of somebody with a new folder of images."""

from __future__ import annotations

import ast
import re

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn
from PIL import Image

from src.data.imagenet import Division, EvalLoader, Targets, TrainLoader, read_image_folder
from src.data.transforms import EvalTransform, TrainOptions, TrainTransform
from src.errors import UserError
from src.tools.dry_run import Memory, Timing, told, try_out
from src.trainer.loop import RunState
from tests.tiny_project import ARCH, metrics, script, write_config, write_images


def new_state(epochs: int, steps: int) -> RunState:
    return RunState(epochs, steps, images_per_step=8, learning_rates=np.ones(epochs * steps))


def test_the_run_is_extrapolated_from_the_step_without_compilation():
    """2 epochs of 100 steps of 0.5 s and 3 evaluation batches of 1 s: 2 x (50 + 3) s, and 19.5 + 9 s to compile."""
    timing = Timing(prepare_step=0.1, first_step=20.0, later_step=0.5, first_evaluation=10.0, later_evaluation=1.0)
    assert told(timing, Memory(3_200_000_000, None), new_state(2, 100), eval_batches=3) == [
        "dry run: 2 steps of 8 images and an evaluation batch went through",
        "  a step    0.5 s in the network, 0.1 s to prepare its images: 16.0 images/s, held up by the network",
        "  an epoch  100 steps in 50.0 s, evaluation in 3.0 s",
        "  the run   2 epochs in about 0:02:14, of which 28.5 s to compile",
        "  memory    3.2 GB of this machine",
    ]


def test_slow_images_are_what_holds_a_fast_device_up():
    timing = Timing(prepare_step=2.0, first_step=0.4, later_step=0.5, first_evaluation=1.0, later_evaluation=1.0)
    state = new_state(3, 100)
    state.epoch, state.step = 1, 50  # taken up in the middle: 150 steps of 2 s and 2 evaluations are left
    lines = told(timing, Memory(10**9, 25 * 10**9), state, eval_batches=5)
    assert lines[1].endswith(
        "0.5 s in the network, 2 s to prepare its images: 4.0 images/s, held up by preparing images"
    )
    assert lines[3] == "  the run   2 epochs in about 0:05:10, of which 0.0 s to compile"
    assert lines[4] == "  memory    1 GB of this machine, 25 GB of the device"


@pytest.fixture
def loaders(tmp_path):
    folder = read_image_folder(write_images(tmp_path / "data") / "train")
    means = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    train = TrainTransform(TrainOptions(image_size=8, min_crop=1, interpolation="bicubic", **means))
    return (
        TrainLoader(folder, train, Targets(3), Division(4), seed=0, num_workers=1),
        EvalLoader(folder, EvalTransform(image_size=8, crop_pct=1.0, **means), 4, 1),
    )


class Mode(nn.Cell):
    """Notes whether it was called in training."""

    def construct(self, image):
        return image


@pytest.mark.parametrize(
    ("place", "taken"), [((0, 0), [(0, 0), (0, 1)]), ((1, 5), [(1, 5), (2, 0)]), ((2, 5), [(2, 5)])]
)
def test_two_steps_are_taken_and_the_state_stays(loaders, place, taken):
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    state, seen = new_state(3, 6), []
    state.epoch, state.step = place

    def epoch_steps(epoch, start):
        for step in range(start, 6):
            seen.append((epoch, step))
            yield Tensor(1.0), Tensor(False), Tensor(1.0), None

    network = Mode()
    network.set_train(True)
    timing = try_out(epoch_steps, loaders[0], network, loaders[1], state)
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    assert seen == taken
    assert (state.epoch, state.step, state.history) == (*place, [])
    assert network.training
    assert all(seconds > 0 for seconds in vars(timing).values())


def test_a_run_that_is_done_cannot_be_tried_out(loaders):
    state = new_state(2, 6)
    state.epoch = 2
    with pytest.raises(UserError, match=r"^dry_run: all 2 epochs are done, so there is nothing left to try out$"):
        try_out(lambda epoch, step: iter(()), loaders[0], Mode(), loaders[1], state)


@pytest.fixture(scope="module")
def tried_and_trained(tmp_path_factory):
    """A folder in which num_classes is left to the data, tried out first and then trained, and what both printed."""
    folder = tmp_path_factory.mktemp("first")
    config = write_config(folder, write_images(folder / "data"), num_classes=0, epochs=1, tensorboard=True)
    tried = script("train.py", "--config_path", config, "--dry_run").stdout
    left = sorted(path.name for path in folder.rglob("*") if path.is_file() and "data" not in path.parts)
    return folder, config, tried, left, script("train.py", "--config_path", config).stdout


def test_a_dry_run_says_what_the_run_would_take_and_leaves_only_its_log(tried_and_trained):
    _, _, tried, left, _ = tried_and_trained
    lines = tried.splitlines()
    assert lines[0] == "dry run: 2 steps of 8 images and an evaluation batch went through"
    assert re.fullmatch(r"  an epoch  3 steps in \d+\.\d s, evaluation in \d+\.\d s", lines[2])
    assert re.fullmatch(r"  memory    \d+\.?\d* GB of this machine", lines[4])
    assert left == [".lock", "config.yaml", "rank_0.log"]


def test_the_run_itself_follows_with_as_many_classes_as_folders(tried_and_trained):
    folder, config, _, _, printed = tried_and_trained
    assert "epoch 1/1 evaluation:" in printed
    (best,) = (folder / "best" / f"{ARCH}_test").glob("*.ckpt")
    done = script("eval.py", "--config", config, "--pretrained", best)
    results = ast.literal_eval(done.stdout.splitlines()[-1].removeprefix("eval results: "))
    assert results["Top1-Acc"] == float(metrics(folder)[0]["top1"])


def test_a_run_leaves_curves_beside_its_metrics_and_tensorboards_file(tried_and_trained):
    folder = tried_and_trained[0]
    assert Image.open(folder / "logs" / f"{ARCH}_test" / "curves.png").size == (800, 780)
    (events,) = (folder / "summaries" / f"{ARCH}_test" / "tensorboard").iterdir()
    assert events.name.startswith("events.out.tfevents.")

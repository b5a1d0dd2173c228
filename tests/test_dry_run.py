"""The dry run, and the first steps with a new folder of images."""

from __future__ import annotations

import ast
import re

import numpy as np
import pytest
from mindspore import Tensor, nn
from PIL import Image

from src.data.image_folder import read_image_folder
from src.data.imagenet import Targets, TrainLoader
from src.data.shuffled_loader import Division
from src.data.transforms import TrainTransform
from src.errors import UserError
from src.tools.criterion import Classification, SoftTargetCrossEntropy
from src.tools.dry_run import Timing, forecast, try_out
from src.trainer.loop import RunState
from src.trainer.task import Task
from tests.networks import model_info
from tests.tiny_project import ARCH, metrics, script, write_config, write_images


def new_state(epochs: int, steps: int) -> RunState:
    return RunState(epochs, steps, images_per_step=8, learning_rates=np.ones(epochs * steps))


def test_the_run_is_extrapolated_from_the_step_without_compilation():
    """2 epochs of 100 steps of 0.5 s and 3 evaluation batches of 1 s: 2 x (50 + 3) s, and 19.5 + 9 s to compile."""
    timing = Timing(prepare_step=0.1, first_step=20.0, later_step=0.5, first_evaluation=10.0, later_evaluation=1.0)
    lines = forecast(timing, "3.2 GB of this machine", new_state(2, 100), eval_batches=3)
    parts = [
        ("2 steps of 8 images", "evaluation batch"),
        ("0.5 s in the network", "0.1 s to prepare", "16.0 images/s", "bottleneck: network"),
        ("100 steps in 50.0 s", "evaluation in 3.0 s"),
        ("2 epochs in about 0:02:14", "28.5 s to compile"),
        ("3.2 GB of this machine",),
    ]
    for line, expected in zip(lines, parts, strict=True):
        assert all(part in line for part in expected), line


def test_slow_image_preparation_is_named_as_the_bottleneck():
    timing = Timing(prepare_step=2.0, first_step=0.4, later_step=0.5, first_evaluation=1.0, later_evaluation=1.0)
    state = new_state(3, 100)
    state.epoch, state.step = 1, 50  # resumed in the middle: 150 steps of 2 s and 2 evaluations are left
    lines = forecast(timing, "1 GB of this machine", state, eval_batches=5)
    assert "4.0 images/s, bottleneck: image preparation" in lines[1]
    assert "2 epochs in about 0:05:10" in lines[3]
    assert "1 GB of this machine" in lines[4]


@pytest.fixture
def train_loader(tmp_path):
    folder = read_image_folder(write_images(tmp_path / "data") / "train")
    transform = TrainTransform(image_size=8, min_crop=1, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)
    return TrainLoader(folder, transform, Targets(3), Division(4), seed=0, num_workers=1)


def task(train_loader, evaluated: list) -> Task:
    """A task that notes the number of batches of each evaluation."""
    network = nn.Identity()
    objective = Classification(network, SoftTargetCrossEntropy())

    def evaluate(batches):
        evaluated.append(batches)
        return {}

    return Task(network, objective, model_info(ARCH, 8, 3), train_loader, ("image",), {}, evaluate, val_batches=3)


@pytest.mark.parametrize(
    ("place", "taken"), [((0, 0), [(0, 0), (0, 1)]), ((1, 5), [(1, 5), (2, 0)]), ((2, 5), [(2, 5)])]
)
def test_two_steps_and_two_evaluation_batches_are_taken_and_the_state_stays(train_loader, place, taken):
    state, seen, evaluated = new_state(3, 6), [], []
    state.epoch, state.step = place

    def epoch_steps(epoch, start):
        for step in range(start, 6):
            seen.append((epoch, step))
            yield Tensor([1.0]), Tensor(False), Tensor(1.0), None

    timing = try_out(epoch_steps, task(train_loader, evaluated), state)
    assert seen == taken
    assert evaluated == [1, 1]
    assert (state.epoch, state.step, state.history) == (*place, [])
    assert all(seconds > 0 for seconds in vars(timing).values())


def test_a_finished_run_cannot_be_tried_out(train_loader):
    state = new_state(2, 6)
    state.epoch = 2
    with pytest.raises(UserError, match=r"^dry_run .*all 2 epochs are done; raise epochs$"):
        try_out(lambda epoch, step: iter(()), task(train_loader, []), state)


@pytest.fixture(scope="module")
def tried_and_trained(tmp_path_factory):
    """A folder with a config without num_classes: the output of the dry run, its files, and the output of the run."""
    folder = tmp_path_factory.mktemp("first")
    config = write_config(folder, write_images(folder / "data"), num_classes=0, epochs=1, tensorboard=True)
    tried = script("train.py", "--config_path", config, "--dry_run").stdout
    left = sorted(path.name for path in folder.rglob("*") if path.is_file() and "data" not in path.parts)
    return folder, config, tried, left, script("train.py", "--config_path", config).stdout


def test_a_dry_run_prints_the_expected_time_and_memory_and_leaves_only_its_log(tried_and_trained):
    _, _, tried, left, _ = tried_and_trained
    lines = tried.splitlines()
    assert lines[0].startswith("dry run: 2 steps of 8 images and an evaluation batch")
    assert re.fullmatch(r"  an epoch  3 steps in \d+\.\d s, evaluation in \d+\.\d s", lines[2])
    assert re.fullmatch(r"  memory    \d+\.?\d* GB of this machine", lines[4])
    assert left == [*[".lock"] * 4, "config.yaml", "rank_0.log"]


def test_with_num_classes_0_the_run_has_the_number_of_class_folders(tried_and_trained):
    folder, config, _, _, printed = tried_and_trained
    assert "epoch 1/1 evaluation:" in printed
    best = folder / "best" / f"{ARCH}_test" / "best.ckpt"
    done = script("eval.py", "--config", config, "--pretrained", best)
    results = ast.literal_eval(done.stdout.splitlines()[-1].removeprefix("eval results: "))
    assert results["Top1-Acc"] == float(metrics(folder)[0]["top1"])


def test_a_run_writes_curves_beside_its_metrics_and_a_tensorboard_file(tried_and_trained):
    folder = tried_and_trained[0]
    assert Image.open(folder / "logs" / f"{ARCH}_test" / "curves.png").size == (800, 780)
    (events,) = (folder / "summaries" / f"{ARCH}_test" / "tensorboard").iterdir()
    assert events.name.startswith("events.out.tfevents.")

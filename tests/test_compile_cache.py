"""A compile cache starts the same training step faster, and never returns the graph of another one."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from src.config import Config
from src.tools.compile_cache import cache_key, cached_step
from src.tools.criterion import Classification, SoftTargetCrossEntropy
from src.tools.optimizer import create_optimizer, parameter_groups
from src.trainer.train_one_step_with_scale_and_clip_global_norm import (
    Schedules,
    StepOptions,
    TrainOneStepWithScaleAndClipGlobalNorm,
)
from tests.networks import small_network

ROOT = Path(__file__).resolve().parents[1]
RUN = Config(arch="test_beit_patch8_32", num_classes=10, batch_size=4)
SHAPES = {"weight": [4, 3]}


def key_of(**changes) -> str:
    return cache_key(dataclasses.replace(RUN, **changes), steps=100, ranks=1, shapes=SHAPES)


@pytest.mark.parametrize(
    "changes",
    [
        {"drop_path": 0.5},
        {"batch_size": 8},
        {"beta": (0.9, 0.99)},
        {"accumulation_steps": 2},
        {"amp_level": "O2"},
        {"num_classes": 11},
        {"with_ema": True},
        {"use_clip_grad_norm": True},
        {"device_target": "CPU"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_options_that_change_the_graph_change_the_key(changes):
    assert key_of(**changes) != key_of()


def test_the_length_of_the_schedule_and_the_number_of_devices_are_in_the_key():
    assert len({cache_key(RUN, steps, ranks, SHAPES) for steps, ranks in ((100, 1), (101, 1), (100, 2))}) == 3


@pytest.mark.parametrize(
    "changes", [{"resume": "auto"}, {"pretrained": "a.ckpt"}, {"ckpt_root_dir": "elsewhere"}, {"data_url": "elsewhere"}]
)
def test_a_run_that_resumes_has_the_same_key(changes):
    assert key_of(**changes) == key_of()


def test_the_environment_is_restored(tmp_path, monkeypatch):
    monkeypatch.setenv("MS_COMPILER_CACHE_PATH", "mine")
    monkeypatch.delenv("MS_COMPILER_CACHE_ENABLE", raising=False)

    class Step(nn.Cell):
        def __call__(self):
            assert os.environ["MS_COMPILER_CACHE_ENABLE"] == "1"
            assert os.environ["MS_COMPILER_CACHE_PATH"].startswith(str(tmp_path))
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        cached_step(Step(), dataclasses.replace(RUN, compile_cache=str(tmp_path)), 100, 1)()
    assert os.environ["MS_COMPILER_CACHE_PATH"] == "mine"
    assert "MS_COMPILER_CACHE_ENABLE" not in os.environ


def losses(folder: str) -> list[float]:
    """The losses of three training steps."""
    network = small_network(
        image_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=3, drop_path=0.5
    ).set_train(True)
    weights = network.trainable_params()
    groups = parameter_groups(((p.name, p.shape) for p in weights), layer_decay=0.9, depth=2)
    step = TrainOneStepWithScaleAndClipGlobalNorm(
        Classification(network, SoftTargetCrossEntropy()),
        create_optimizer(RUN, weights, groups),
        Schedules(np.full(9, 1e-2), np.full(9, 0.1)),
        StepOptions(clip_grad_norm=1.0),
    )
    step = cached_step(step, dataclasses.replace(RUN, compile_cache=folder), steps=9, ranks=1)
    rng = np.random.default_rng(0)
    image = Tensor(rng.standard_normal((4, 3, 16, 16)).astype(np.float32))
    target, key = Tensor(np.eye(4, 3, dtype=np.float32)), Tensor(np.arange(4, dtype=np.int32))
    return [float(step(image, target, key)[0].asnumpy()) for _ in range(3)]


def test_another_tokenizer_has_another_graph():
    assert cache_key(RUN, 100, 1, {"w": [2, 3]}) != cache_key(RUN, 100, 1, {"w": [3, 2]})


def test_a_step_from_the_cache_trains_as_the_compiled_one(tmp_path):
    compiled = in_a_process_of_its_own(tmp_path)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mindir")}
    assert len(written) == 1
    assert in_a_process_of_its_own(tmp_path) == compiled
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mindir")} == written


def in_a_process_of_its_own(folder: Path) -> str:
    """The losses as printed; MindSpore numbers its graphs anew in every process."""
    command = [sys.executable, "-m", "tests.test_compile_cache", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return result.stdout.splitlines()[-1]


if __name__ == "__main__":
    ms.set_context(mode=ms.GRAPH_MODE)
    print(losses(sys.argv[1]))

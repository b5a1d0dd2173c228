"""Modes of training that agree with each other or at least learn: pynative, mixed precision (ranks: test_ranks.py)."""

from __future__ import annotations

import numpy as np
import pytest

from src.weights.checkpoint import load_checkpoint
from tests.tiny_project import ARCH, metrics, script, write_config, write_images

RUN = f"{ARCH}_test"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "data")


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    """One device, batches of 8, mixup: the run that the others repeat in another mode."""
    folder = tmp_path_factory.mktemp("reference")
    script("train.py", "--config", write_config(folder, data, mixup=0.8, cutmix=1.0))
    return folder


def final_weights(folder):
    return load_checkpoint(folder / "checkpoints" / RUN / f"{ARCH}-2_3.ckpt").weights


def assert_same_training(folder, reference, relative):
    for row, expected in zip(metrics(folder), metrics(reference), strict=True):
        assert float(row["train_loss"]) == pytest.approx(float(expected["train_loss"]), rel=relative)
        assert row["learning_rate"] == expected["learning_rate"]
    expected = final_weights(reference)
    for name, weight in final_weights(folder).items():
        scale = max(np.abs(expected[name]).max(), 1e-3)
        assert np.abs(weight - expected[name]).max() <= relative * scale * 10, name


def test_pynative_mode_trains_as_graph_mode_does(data, reference, tmp_path):
    script("train.py", "--config", write_config(tmp_path, data, mixup=0.8, cutmix=1.0), "--pynative_mode")
    assert_same_training(tmp_path, reference, 1e-4)


def test_float16_with_a_dynamic_loss_scale_trains(data, reference, tmp_path):
    config = write_config(tmp_path, data, mixup=0.8, cutmix=1.0, is_dynamic_loss_scale=True, loss_scale=1024)
    script("train.py", "--config", config, "--amp_level", "O2")
    for row, expected in zip(metrics(tmp_path), metrics(reference), strict=True):
        assert float(row["train_loss"]) == pytest.approx(float(expected["train_loss"]), rel=2e-2)


def test_momentum_and_a_multistep_schedule_train(data, tmp_path):
    config = write_config(tmp_path, data, optimizer="momentum", lr_scheduler="multistep_lr", lr_adjust=1, lr_gamma=0.1)
    script("train.py", "--config", config, "--base_lr", "0.02", "--dataset_sink_mode")
    rows = metrics(tmp_path)
    assert [row["learning_rate"] for row in rows] == ["2.000000e-02", "2.000000e-03"]
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])

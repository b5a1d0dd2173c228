"""The data of a run from its options, without MindSpore."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from src.config import read_config
from src.data.assembly import build_eval_loader, build_train_loader, describe_model, read_data, with_class_count
from src.errors import UserError
from tests.tiny_project import COLORS, ROOT, write_config, write_images


@pytest.fixture
def data(tmp_path):
    return write_images(tmp_path / "data")


def test_the_data_modules_do_not_import_mindspore():
    code = "import sys, src.data.assembly; assert 'mindspore' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_num_classes_0_takes_the_number_of_training_classes(tmp_path, data):
    config = read_config(write_config(tmp_path, data, num_classes=0))
    train, val = read_data(config)
    assert (len(train), len(val)) == (24, 9)
    config = with_class_count(config, train)
    assert config.num_classes == len(COLORS)
    assert next(build_train_loader(config, train).epoch(0)).target.shape == (8, 3)
    assert describe_model(config, train.classes).model.num_classes == 3


def test_a_wrong_num_classes_gives_an_error_with_both_numbers_and_the_folder(tmp_path, data):
    config = read_config(write_config(tmp_path, data, num_classes=5))
    with pytest.raises(UserError) as refusal:
        read_data(config)
    parts = ("num_classes is 5", f"{data}/train", "3 class folders", "3 or 0")
    assert all(part in str(refusal.value) for part in parts)
    config = read_config(write_config(tmp_path, data, num_classes=3))
    assert with_class_count(config, read_data(config)[0]) is config


def test_mixup_is_on_if_an_alpha_and_the_probability_are_above_0(tmp_path, data):
    for values, mixed in (
        ({"mixup": 0.8}, True),
        ({"cutmix": 1.0}, True),
        ({}, False),
        ({"mixup": 0.8, "mixup_prob": 0.0}, False),
    ):
        config = read_config(write_config(tmp_path, data, **values))
        loader = build_train_loader(config, read_data(config)[0])
        assert (loader.targets.mixup is not None) == mixed


def test_evaluation_uses_the_mean_of_the_model_and_the_shard_of_the_rank(tmp_path, data):
    config = read_config(write_config(tmp_path, data, imagenet_default_mean_and_std=True))
    _, val = read_data(config)
    info = describe_model(config, val.classes)
    assert info.mean == (0.485, 0.456, 0.406)
    loader = build_eval_loader(config, info, val, rank=1, ranks=2)
    labels = np.concatenate([batch.label[: batch.valid] for batch in loader])
    assert labels.tolist() == val.labels[1::2].tolist()

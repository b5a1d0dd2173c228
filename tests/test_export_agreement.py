"""Agreement of the options with a checkpoint: contradictions are refused, missing fields come from the options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from src.model.model_info import IMAGENET_DEFAULT_MEAN_STD, ModelInfo
from src.weights.agreement import agreed_info
from tests.networks import model_info
from tests.weights_golden import refuses

INFO = model_info("beit_base_patch16_224", 224, 10, class_names=("a",) * 10)
PATH = Path("best.ckpt")


def changed(**fields: Any) -> ModelInfo:
    return ModelInfo.from_dict({**INFO.to_dict(), **fields})


def test_equal_options_change_nothing():
    assert agreed_info(INFO, (), changed(class_names=(), interpolation="nearest", crop_mode="squash"), PATH) == INFO


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_classes": 1000, "class_names": ()}, ["num_classes", 1000, 10]),
        ({"image_size": 384}, ["image_size", 384, 224]),
        ({"arch": "beit_large_patch16_224"}, ["arch", "beit_large_patch16_224", "beit_base_patch16_224"]),
        ({"crop_pct": 1.0}, ["crop_pct", "1.0", "0.9"]),
        ({"approximate_gelu": True}, ["disable_approximate_gelu", "False", "True"]),
        ({"mean": IMAGENET_DEFAULT_MEAN_STD[0]}, ["imagenet_default_mean_and_std", "0.485, 0.456, 0.406", "0.5"]),
        ({"layer_scale": False}, ["layer_scale_init_value", 0]),
        ({"rel_pos_bias": False}, ["rel_pos_bias", "False", "True"]),
    ],
)
def test_a_contradiction_names_both_values(change, words):
    with refuses(PATH, *words):
        agreed_info(INFO, (), changed(**change), PATH)


def test_all_contradictions_are_named_at_once():
    with refuses(PATH, "image_size", 384, "num_classes", 1000):
        agreed_info(INFO, (), changed(image_size=384, num_classes=1000, class_names=()), PATH)


def test_fields_that_a_foreign_file_does_not_store_come_from_the_options():
    wanted = changed(approximate_gelu=True, crop_pct=1.0, class_names=())
    info = agreed_info(INFO, {"approximate_gelu", "crop_pct", "class_names", "interpolation"}, wanted, PATH)
    assert info == changed(approximate_gelu=True, crop_pct=1.0)
    with refuses(PATH, "crop_pct"):
        agreed_info(INFO, {"approximate_gelu"}, wanted, PATH)


def test_a_checkpoint_without_a_head_is_refused():
    with refuses(PATH, "head", "train.py"):
        agreed_info(changed(num_classes=0, class_names=()), (), INFO, PATH)

"""A config that contradicts its checkpoint is refused; what the checkpoint leaves open is the config's to say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from src.errors import UserError
from src.model.model_info import IMAGENET_DEFAULT_MEAN_STD
from src.weights.agreement import agreed_info
from tests.networks import model_info

INFO = model_info("beit_base_patch16_224", 224, 10, class_names=("a",) * 10)
PATH = Path("best.ckpt")


def test_equal_options_change_nothing():
    wanted = replace(INFO, class_names=(), interpolation="nearest")
    assert agreed_info(INFO, (), wanted, PATH) == INFO


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_classes": 1000}, "num_classes is 1000 in the options and 10 in the file"),
        ({"image_size": 384}, "image_size is 384 in the options and 224 in the file"),
        ({"arch": "beit_large_patch16_224"}, "arch is beit_large_patch16_224 in the options and beit_base_patch16_224"),
        ({"crop_pct": 1.0}, r"crop_pct is 1\.0 in the options and 0\.9 in the file"),
        ({"approximate_gelu": True}, "disable_approximate_gelu is False in the options and True in the file"),
        (
            {"mean": IMAGENET_DEFAULT_MEAN_STD[0]},
            r"imagenet_default_mean_and_std \(mean\) is 0\.485, 0\.456, 0\.406 in the options and 0\.5, 0\.5, 0\.5 in",
        ),
        ({"layer_scale": False}, "layer_scale_init_value is 0 in the options and above 0 in the file"),
        ({"rel_pos_bias": False}, "rel_pos_bias is False in the options and True in the file"),
    ],
)
def test_a_contradiction_names_both_values(change, text):
    with pytest.raises(UserError, match=rf"the options contradict best\.ckpt: {text}"):
        agreed_info(INFO, (), replace(INFO, **change), PATH)


def test_all_contradictions_are_named_at_once():
    with pytest.raises(UserError, match=r"image_size is 384 .*; num_classes is 1000 .*: change the options"):
        agreed_info(INFO, (), replace(INFO, image_size=384, num_classes=1000), PATH)


def test_what_a_foreign_file_leaves_open_is_taken_from_the_options():
    wanted = replace(INFO, approximate_gelu=True, crop_pct=1.0, class_names=())
    info = agreed_info(INFO, {"approximate_gelu", "crop_pct", "class_names", "interpolation"}, wanted, PATH)
    assert info == replace(INFO, approximate_gelu=True, crop_pct=1.0)
    with pytest.raises(UserError, match="crop_pct"):
        agreed_info(INFO, {"approximate_gelu"}, wanted, PATH)


def test_a_checkpoint_without_a_head_is_told_to_be_fine_tuned():
    with pytest.raises(UserError, match=r"best\.ckpt has no classification head: fine-tune it with train\.py first"):
        agreed_info(replace(INFO, num_classes=0, class_names=()), (), INFO, PATH)

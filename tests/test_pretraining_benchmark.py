"""The comparison of pre-training with random weights: equal compute, equal images, resuming, the table and chart."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.data.image_folder import ImageFolder
from src.errors import UserError
from src.model.variants import get_variant
from src.tokenizers.dvae import DvaeSizes
from tests.tiny_project import ROOT

sys.path.insert(0, str(ROOT / "benchmarks" / "pretraining"))

import compute
from images import labeled
from results import Results
from setting import ARMS, PIXELS, SCRATCH, SHARES, TOKENS, Setting
from tables import draw, table, top1_of

SIZES = DvaeSizes(num_tokens=5, codebook_dim=3, num_layers=1, hidden_dim=2)


def test_a_training_image_costs_three_times_the_products_of_the_forward_pass():
    embedding, attention = 16 * 192 * 64, 17 * 64 * 192 + 2 * 17 * 17 * 64 + 17 * 64 * 64
    forward = embedding + 2 * (attention + 2 * 17 * 64 * 256)
    variant = get_variant("test_beit_patch8_32")
    assert compute.fine_tuning(variant, 4, 10) == 3 * (forward + 64 * 10)
    assert compute.pixels(variant, 4, masked=9) == 3 * (forward + 9 * 64 * 192)


def test_the_tokenizer_costs_its_convolutions_and_has_no_backward_pass_in_pretraining():
    """One layer halves 4 x 4 pixels; the convolutions of a residual block have 9, 9 and 1 positions."""
    block = 19 * 2 * 2
    encoder = 4 * (16 * 3 * 2 + block) + 4 * 2 * 5
    decoder = 4 * 16 * 3 * 2 + 16 * block + 16 * 2 * 3
    assert compute.tokenizer(SIZES, 2) == 3 * (encoder + 4 * 5 * 3 + decoder)
    variant = get_variant("test_beit_patch8_32")
    head = 3 * 9 * 64 * 5
    without_head = compute.pixels(variant, 4, masked=0)
    assert compute.tokens(variant, 4, 9, SIZES) == without_head + head + compute.tokenizer_encoder(SIZES, 4)


def test_random_weights_get_at_least_and_tokens_at_most_the_compute_of_pixel_targets():
    setting = Setting()
    costs, epochs = setting.costs(), setting.epochs()
    budget = epochs[PIXELS] * costs[PIXELS]
    assert 0 <= epochs[SCRATCH] * costs[SCRATCH] - budget < costs[SCRATCH]
    spent = epochs[TOKENS] * costs[TOKENS] + setting.tokenizer_epochs * costs["dVAE"]
    assert 0 <= budget - spent < costs[TOKENS]
    fine_tuned, random = (setting.fine_tuning_config(arm, 1e-3, 0).epochs for arm in (PIXELS, SCRATCH))
    assert random - fine_tuned == epochs[SCRATCH]


def test_every_class_has_its_share_of_labels_and_an_epoch_its_length():
    labels = np.repeat(np.arange(3, dtype=np.int32), 50)
    images = ImageFolder(Path(), ("a", "b", "c"), [str(number) for number in range(150)], labels)
    few = labeled(images, 0.1, seed=0)
    assert len(few) == 150
    assert all(int(path) // 50 == label for path, label in zip(few.paths, few.labels))
    assert Counter(Counter(few.paths).values()) == {10: 15}, "15 labeled images, 10 times each"
    assert Counter(label for label, _ in set(zip(few.labels.tolist(), few.paths))) == {0: 5, 1: 5, 2: 5}
    assert list(labeled(images, 0.1, seed=0).paths) == list(few.paths)
    assert set(labeled(images, 0.1, seed=1).paths) != set(few.paths)


def test_a_finished_run_is_not_repeated_and_another_setting_is_an_error(tmp_path):
    Results.open(tmp_path, {"epochs": 1}).run("a", lambda: {"test": 90.0})
    again = Results.open(tmp_path, {"epochs": 1})
    assert again.run("a", lambda: pytest.fail("the run is repeated")) == {"test": 90.0}
    with pytest.raises(UserError, match="another setting"):
        Results.open(tmp_path, {"epochs": 2})


def test_the_table_has_the_lead_over_random_weights_and_the_chart_is_small(tmp_path):
    chosen = {(arm, share): [result(50 + 10 * ARMS.index(arm)), result(52)] for arm in ARMS for share in SHARES}
    rows = table(chosen, dict.fromkeys(chosen, 1e-3)).splitlines()
    assert rows[2] == "| 1% | random weights | 0.001 | 51.0 | 50.0 to 52.0 |  | 3 |"
    assert rows[4] == "| 1% | dVAE tokens | 0.001 | 61.0 | 52.0 to 70.0 | +10.0 | 3 |"
    draw(tmp_path / "chart.png", top1_of(chosen))
    assert Image.open(tmp_path / "chart.png").size == (800, 380)
    assert (tmp_path / "chart.png").stat().st_size < 200_000


def result(top1: float) -> dict[str, float]:
    return {"val": 0.0, "test": float(top1), "seconds": 3.0}

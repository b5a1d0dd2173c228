"""Drop path in the whole network: the authors' answers for every combination of dropped branches, as often as due."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor

from src.encoder import drop_path_rates
from tests.golden.drop_path_recipe import COMBINATIONS, DROP_PATH, RATES, SIZES, image
from tests.golden.network_recipe import weight
from tests.networks import small_network

GOLDEN = np.load(Path(__file__).parent / "golden" / "drop_path.npz")
SAMPLES = 8192
SIGMAS = 4.5  # a statement about 16 counts fails by chance once in 9,000 fixed seeds


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Logits [SAMPLES, classes] of one image under as many keys, and the nearest of the authors' combinations."""
    network = small_network(**SIZES, drop_path=DROP_PATH).set_train()
    for name, parameter in network.parameters_and_names():
        parameter.set_data(Tensor(weight(name, parameter.shape)))
    key = np.random.default_rng(1).integers(-(2**31), 2**31, SAMPLES).astype(np.int32)
    logits = network(Tensor(np.repeat(image(), SAMPLES, axis=0)), Tensor(key)).asnumpy()
    distances = np.abs(logits[:, None] - GOLDEN["logits"][None]).max(2)
    return logits, distances.argmin(1)


def test_every_sample_gets_the_authors_logits_for_the_branches_it_keeps(drawn):
    logits, nearest = drawn
    expected = GOLDEN["logits"]
    apart = min(np.abs(a - b).max() for i, a in enumerate(expected) for b in expected[:i])
    assert apart > 0.05  # the combinations cannot be taken for one another
    assert np.abs(logits - expected[nearest]).max() <= 1e-5 * np.abs(expected).max()


def test_branches_are_kept_independently_and_as_often_as_their_blocks_rate_says(drawn):
    counts = np.bincount(drawn[1], minlength=len(COMBINATIONS))
    keep = np.array([0.75, 0.75, 0.5, 0.5])
    for combination, count in zip(COMBINATIONS, counts):
        probability = float(np.prod(np.where(combination, keep, 1 - keep)))
        deviation = math.sqrt(SAMPLES * probability * (1 - probability))
        assert abs(count - SAMPLES * probability) < SIGMAS * deviation, combination


@pytest.mark.parametrize(("depth", "rate"), RATES)
def test_every_blocks_rate_is_the_authors(depth, rate):
    expected = GOLDEN[f"rates_{depth}_{rate}"]
    # the authors compute theirs in float32
    np.testing.assert_allclose(drop_path_rates(rate, depth), expected, rtol=0, atol=1e-7)
    network = small_network(**{**SIZES, "depth": depth}, drop_path=rate)
    for branch in ("drop_path1", "drop_path2"):
        ours = [1 - getattr(getattr(block, branch), "keep_prob", 1.0) for block in network.blocks]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-7)

"""Masks of patches: those of the authors for the same random numbers, and for ours with the same statistics."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.masking import BLOCKS, EXACT_BLOCKS, MASKS, RANDOM, Masking, masked_positions
from src.errors import UserError
from tests.golden.masked_data_inputs import MASK_CASES, SAMPLED, SAMPLES, SEEDS

GOLDEN = np.load(Path(__file__).parent / "golden" / "masked_data.npz")


def masking(case: str, kind: str) -> Masking:
    grid, count, least, most = MASK_CASES[case]
    return Masking(grid, count, kind, least, most)


@pytest.mark.parametrize("case", MASK_CASES)
def test_masks_are_the_authors_for_the_same_random_numbers(case):
    ours = masking(case, EXACT_BLOCKS)
    for row, seed in enumerate(SEEDS):
        mask = ours.blocks(random.Random(seed))
        assert (np.packbits(mask.ravel()) == GOLDEN[f"{case}/v1"][row]).all()
        completed = ours.complete(mask, np.random.RandomState(seed))
        assert (np.packbits(completed.ravel()) == GOLDEN[f"{case}/v2"][row]).all()


@pytest.mark.parametrize(("version", "kind"), [("v1", BLOCKS), ("v2", EXACT_BLOCKS)])
def test_10000_masks_have_the_authors_statistics(version, kind):
    ours, rng = masking(SAMPLED, kind), np.random.default_rng(0)
    found = np.stack([ours.draw(rng).ravel() for _ in range(SAMPLES)])
    counts = np.bincount(found.sum(1), minlength=found.shape[1] + 1)
    # both are samples of SAMPLES binomial counts: 6 standard deviations of their difference
    for ours_, theirs in ((counts, GOLDEN[f"count/{version}"]), (found.sum(0), GOLDEN[f"position/{version}"])):
        deviation = np.sqrt(2 * np.maximum(theirs, 1))
        assert (np.abs(ours_ - theirs) <= 6 * deviation).all()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_mask_has_as_many_patches_as_asked_for_and_follows_from_its_random_numbers(data):
    grid = data.draw(st.integers(2, 20))
    count = data.draw(st.integers(1, grid**2 - 1))
    least = data.draw(st.integers(1, count))
    most = data.draw(st.one_of(st.none(), st.integers(least, grid**2)))
    kind, seed = data.draw(st.sampled_from(MASKS)), data.draw(st.integers(0, 2**32))
    ours = Masking(grid, count, kind, least, most)
    mask = ours.draw(np.random.default_rng(seed))
    assert mask.shape == (grid, grid)
    assert mask.dtype == bool
    assert mask.sum() <= count if kind == BLOCKS else mask.sum() == count
    assert (mask == ours.draw(np.random.default_rng(seed))).all()
    positions, weights = masked_positions(mask, count)
    assert (positions.dtype, weights.dtype, len(positions), len(weights)) == (np.int32, np.float32, count, count)
    assert (positions[weights == 1] == np.flatnonzero(mask)).all()
    assert (positions[weights == 0] == 0).all()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((14, 196, RANDOM), ("num_mask_patches is 196", "14 x 14", "at most 195")),
        ((14, 75, BLOCKS, 76), ("min_mask_patches_per_block is 76", "num_mask_patches is 75")),
        ((14, 75, BLOCKS, 16, 8), ("max_mask_patches_per_block is 8", "min_mask_patches_per_block is 16")),
    ],
)
def test_numbers_that_contradict_each_other_are_named(arguments, named):
    with pytest.raises(UserError) as error:
        Masking(*arguments)
    assert all(part in str(error.value) for part in named)

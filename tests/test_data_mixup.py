"""Mixup and CutMix against timm's: mixing with given numbers, drawing, and the global batch divided among ranks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.augment.mixup import Mixing, Mixup, cut_box, mix_images, mix_targets, uncut_share
from src.data.sampling import local_positions
from tests.golden.data_inputs import DRAWS, ks_distance

GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "data.npz"))
IMAGES, LABELS = GOLDEN["mix_images"], GOLDEN["mix_labels"]
BATCH, _, HEIGHT, WIDTH = IMAGES.shape


def golden_mixing(mode: str, kind: str, correct_lam: bool) -> Mixing:
    """Return the inputs of the golden script, one row per draw, as one row per image."""
    lam, cut, y, x = (GOLDEN[f"mix_{mode}_{kind}_{part}"] for part in ("lam", "cut", "y", "x"))
    cut = cut & (lam != 1.0)
    box = cut_box(lam, y, x, HEIGHT, WIDTH)
    if correct_lam:
        lam = np.where(cut, uncut_share(box, HEIGHT, WIDTH), lam)
    rows = {"batch": [0] * BATCH, "pair": [0, 1, 2, 2, 1, 0], "elem": range(BATCH)}[mode]
    return Mixing(lam, box, cut).at(np.array(rows))


@pytest.mark.parametrize("correct_lam", [True, False])
@pytest.mark.parametrize("kind", ["mixup", "cutmix", "both"])
@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_a_batch_is_mixed_as_in_timm_for_a_given_lambda_and_box(mode, kind, correct_lam):
    mixing = golden_mixing(mode, kind, correct_lam)
    images = IMAGES.copy()
    mix_images(images, mixing)
    target = mix_targets(LABELS, mixing.lam, 5, 0.1)
    prefix = f"mix_{mode}_{kind}_{int(correct_lam)}"
    np.testing.assert_allclose(images, GOLDEN[f"{prefix}_images"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(target, GOLDEN[f"{prefix}_target"], rtol=0, atol=1e-6)
    assert target.dtype == np.float32
    # the golden file includes unmixed batches
    assert np.array_equal(images, IMAGES) == bool((mixing.lam == 1).all() and not mixing.cut.any())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_are_smoothed_and_mixed_as_in_timm(smoothing):
    target = mix_targets(LABELS, np.full(BATCH, 0.7), 5, smoothing)
    np.testing.assert_allclose(target, GOLDEN[f"mix_target_{smoothing}"], rtol=0, atol=1e-7)
    np.testing.assert_allclose(target.sum(axis=1), 1, rtol=1e-6)


def test_unmixed_targets_are_the_smoothed_label():
    target = mix_targets(np.array([2, 0]), np.ones(2), 4, 0.2)
    np.testing.assert_allclose(target, [[0.05, 0.05, 0.85, 0.05], [0.85, 0.05, 0.05, 0.05]], rtol=1e-6)


def test_a_cut_box_has_the_drawn_area_and_is_clipped_to_the_image():
    # lambda 0.75 leaves a quarter: half of each side
    inner = cut_box(np.array([0.75]), np.array([4]), np.array([5]), 8, 10)
    assert inner.tolist() == [[2, 6, 3, 8]]
    assert uncut_share(inner, 8, 10) == pytest.approx(0.75)
    corner = cut_box(np.array([0.75]), np.array([0]), np.array([9]), 8, 10)
    assert corner.tolist() == [[0, 2, 7, 10]]
    assert uncut_share(corner, 8, 10) == pytest.approx(1 - 6 / 80)
    assert cut_box(np.array([1.0]), np.array([3]), np.array([3]), 8, 10).tolist() == [[3, 3, 3, 3]]


@pytest.mark.parametrize(
    ("name", "mixup"),
    [
        ("both", Mixup(0.8, 1.0, mode="elem", correct_lam=False)),
        ("rare", Mixup(0.8, 0.6, prob=0.7, switch_prob=0.2, mode="elem", correct_lam=False)),
        ("mixup", Mixup(0.2, 0.0, mode="elem", correct_lam=False)),
        ("cutmix", Mixup(0.0, 1.0, prob=0.5, mode="elem", correct_lam=False)),
    ],
)
def test_lambda_and_the_choice_of_cutmix_are_distributed_like_timms(name, mixup):
    mixing = mixup.draw(np.random.default_rng(3), DRAWS, 16, 16)
    for kind, chosen in (("cut", mixing.cut), ("uncut", ~mixing.cut)):
        golden = GOLDEN[f"lam_{name}_{kind}"]
        ours = np.histogram(mixing.lam[chosen], bins=np.linspace(0, 1, 41))[0]
        # the number of values is binomial: four standard deviations of the difference
        share = golden.sum() / DRAWS
        assert abs(int(ours.sum()) - int(golden.sum())) <= 4 * math.sqrt(2 * DRAWS * share * (1 - share))
        if golden.sum():
            # Kolmogorov-Smirnov at 1 in 10,000
            assert ks_distance(ours, golden) < 2.225 * math.sqrt(2 / golden.sum())


def test_images_share_a_draw_within_a_batch_or_a_pair_and_not_in_mode_elem():
    rng = np.random.default_rng(0)
    batch = Mixup(0.8, 1.0, mode="batch").draw(rng, 8, 16, 16)
    assert len(np.unique(batch.lam)) == 1
    assert (batch.box == batch.box[0]).all()
    pair = Mixup(0.8, 1.0, mode="pair").draw(rng, 8, 16, 16)
    assert len(np.unique(pair.lam)) == 4
    np.testing.assert_array_equal(pair.lam, pair.lam[::-1])
    np.testing.assert_array_equal(pair.box, pair.box[::-1])
    assert len(np.unique(Mixup(0.8, 0.0, mode="elem").draw(rng, 8, 16, 16).lam)) == 8


def test_lambda_is_the_remaining_area_if_a_box_crosses_the_edge():
    mixing = Mixup(0.0, 1.0, mode="elem").draw(np.random.default_rng(0), 200, 16, 16)
    assert mixing.cut.all()
    np.testing.assert_allclose(mixing.lam, uncut_share(mixing.box, 16, 16))


def test_mixing_ends_at_mixup_off_epoch():
    assert [Mixup(0.8, 1.0, off_epoch=0.0).active(epoch) for epoch in (0, 99)] == [True, True]
    assert [Mixup(0.8, 1.0, off_epoch=2.0).active(epoch) for epoch in (0, 1, 2, 3)] == [True, True, False, False]


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from(["batch", "pair", "elem"]),
    st.integers(1, 4).map(lambda half: 2 * half),
    st.integers(1, 4),
    st.integers(0, 2**32),
)
def test_the_parts_of_a_global_batch_mix_to_the_global_batch_bit_for_bit(mode, batch_size, parts, seed):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((batch_size * parts, 3, 6, 5)).astype(np.float32)
    labels = rng.integers(0, 4, batch_size * parts)
    mixing = Mixup(0.8, 1.0, prob=0.8, mode=mode).draw(rng, batch_size * parts, 6, 5)
    whole = images.copy()
    mix_images(whole, mixing)
    targets = mix_targets(labels, mixing.lam, 4, 0.1)
    seen = []
    for part in range(parts):
        positions = local_positions(batch_size, part, parts)
        local = images[positions]
        mix_images(local, mixing.at(positions))
        np.testing.assert_array_equal(local, whole[positions])
        np.testing.assert_array_equal(mix_targets(labels[positions], mixing.lam[positions], 4, 0.1), targets[positions])
        seen.extend(positions)
    assert sorted(seen) == list(range(batch_size * parts))

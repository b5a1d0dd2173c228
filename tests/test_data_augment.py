"""AutoAugment, RandAugment, AugMix and 3-Augment against timm: parsing, every operation, whole policies."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.data.augment.auto_augment import auto_augment, choose, draw_level, fill_color
from src.data.augment.operations import AUGMIX_OPERATIONS, OPERATIONS
from src.data.augment.policy import AugMix, AutoAugment, RandAugment, parse_policy
from src.data.transforms import draw_jitter, jitter_colors
from src.errors import UserError
from tests.golden.data_inputs import FILL_MEAN, ScriptedGenerator, digest

GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "data.npz"))
IMAGE = Image.fromarray(GOLDEN["image"])
BICUBIC = (Image.Resampling.BICUBIC,)


def test_every_operation_at_every_level_and_sign_gives_timms_argument_and_pixels():
    wrong = []
    for case, argument, pixels in zip(GOLDEN["op_names"], GOLDEN["op_arguments"], GOLDEN["op_digests"]):
        name, translate, level, sign, resample = case.split()
        operation = (AUGMIX_OPERATIONS if translate == "0.3" else OPERATIONS)[name]
        ours = operation.argument(float(level), float(sign) if operation.signed else 1.0)
        if operation.warp is None:
            changed = operation.change(IMAGE, ours)
        else:
            changed = operation.warp(IMAGE, ours, Image.Resampling[resample.upper()], (124, 116, 104))
        if ours != argument or digest(np.asarray(changed)) != pixels:
            wrong.append((case, ours, float(argument)))
    assert not wrong
    covered = {case.split()[0] for case in GOLDEN["op_names"]}
    assert covered == set(OPERATIONS) - {"GaussianBlurRand"}


def described(name: str, prob: float, magnitude: float, std: float, largest: float) -> dict:
    return {"name": name, "prob": prob, "magnitude": magnitude, "magnitude_std": str(std), "magnitude_max": largest}


def in_timms_terms(policy: RandAugment | AutoAugment | AugMix) -> dict:
    if isinstance(policy, AutoAugment):
        return {"policy": [[described(*op, policy.magnitude_std, 10) for op in row] for row in policy.sub_policies]}
    prob, largest = (policy.prob, policy.magnitude_max) if isinstance(policy, RandAugment) else (1.0, 10)
    fields = {
        "ops": [described(name, prob, policy.magnitude, policy.magnitude_std, largest) for name in policy.operations]
    }
    if isinstance(policy, RandAugment):
        weights = policy.weights
        return fields | {"num_layers": policy.num_layers, "weights": weights and pytest.approx(weights, abs=1e-15)}
    return fields | {key: getattr(policy, key) for key in ("alpha", "width", "depth", "blended")}


@pytest.mark.parametrize("index", range(len(GOLDEN["policy_names"])), ids=list(GOLDEN["policy_names"]))
def test_a_policy_string_has_timms_fields(index):
    policy = parse_policy(str(GOLDEN["policy_names"][index]))
    assert in_timms_terms(policy) == json.loads(str(GOLDEN["policy_fields"][index]))


@pytest.mark.parametrize("index", range(len(GOLDEN["policy_names"])), ids=list(GOLDEN["policy_names"]))
def test_a_policy_gives_timms_pixels_with_the_same_random_numbers(index):
    augment = auto_augment(str(GOLDEN["policy_names"][index]), BICUBIC, FILL_MEAN)
    expected = GOLDEN["scripted_digests"][index]
    ours = [digest(np.asarray(augment(IMAGE, ScriptedGenerator(GOLDEN, run)))) for run in range(len(expected))]
    assert ours == list(expected)
    assert len(set(expected)) > 1


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("randaug-m9", ("'randaug'", "rand, augmix, original, originalr, v0, v0r, 3a")),
        ("", ("''", "rand, augmix")),
        ("rand-m9-x3", ("'x3'", "m (an integer from 0 on), n (an integer from 1 on)")),
        ("rand-w3", ("'w3'",)),
        ("rand-m", ("'m'", "''", "an integer from 0 on")),
        ("rand-m9.5", ("'m'", "'9.5'", "an integer from 0 on")),
        ("rand-n0", ("'n'", "'0'", "an integer from 1 on")),
        ("rand-p1.5", ("'p'", "'1.5'", "a number from 0 to 1")),
        ("rand-inc2", ("'inc'", "'2'", "0 or 1")),
        ("rand-mstd0.5x", ("'mstd'", "'0.5x'", "a number from 0 on")),
        ("rand-mstdnan", ("'mstdnan'",)),
        ("rand-tfoo", ("'t'", "'foo'", "weights, 3aw, 3a")),
        ("rand-m9-m8", ("'m'", "once")),
        ("rand-m9--inc1", ("''",)),
        ("rand-tweights-n16", ("n16", "15 operations", "lower n")),
        ("augmix-n3", ("'n3'", "m (an integer from 0 on), w")),
        ("augmix-d0", ("'d'", "'0'", "an integer from 1 on")),
        ("original-m9", ("'m9'", "mstd (a number from 0 on)")),
    ],
)
def test_a_malformed_policy_gives_an_error_with_the_policy_the_wrong_field_and_the_valid_ones(text, parts):
    with pytest.raises(UserError) as error:
        parse_policy(text)
    message = str(error.value)
    assert all(part in message for part in parts), message
    assert message.startswith("auto_augment")
    assert repr(text) in message or text == "rand-tweights-n16"
    assert "\n" not in message


def test_lanczos_cannot_rotate_but_serves_a_policy_without_warps():
    with pytest.raises(UserError, match=r"aa_interpolation is lanczos.*rotate.*rand-m9.*bicubic"):
        auto_augment("rand-m9-mstd0.5-inc1", (Image.Resampling.LANCZOS,), FILL_MEAN)
    augment = auto_augment("3a", (Image.Resampling.LANCZOS,), FILL_MEAN)
    assert augment(IMAGE, np.random.default_rng(0)).size == IMAGE.size


def test_warps_fill_empty_places_with_the_mean_color():
    assert fill_color((0.5, 0.5, 0.5)) == (128, 128, 128)
    assert fill_color(FILL_MEAN) == (124, 116, 104)
    white = Image.new("RGB", (40, 40), (255, 255, 255))
    moved = OPERATIONS["TranslateXRel"].warp(white, 0.45, Image.Resampling.NEAREST, fill_color(FILL_MEAN))
    # column x shows column x + 18 of the source, so the last 18 columns are empty
    assert np.asarray(moved)[:, :22].min() == 255
    assert np.unique(np.asarray(moved)[:, 22:].reshape(-1, 3), axis=0).tolist() == [[124, 116, 104]]


def test_levels_are_clipped_to_their_range_and_have_the_requested_distribution():
    rng = np.random.default_rng(0)
    assert draw_level(rng, 9, 0.0, 10.0) == 9
    assert draw_level(rng, 15, 0.0, 10.0) == 10
    uniform = np.array([draw_level(rng, 8, math.inf, 10.0) for _ in range(4000)])
    # mean 4 and standard deviation 8 / sqrt(12), each within four standard errors
    assert uniform.mean() == pytest.approx(4, abs=4 * 2.31 / math.sqrt(4000))
    assert (uniform.min(), uniform.max()) == (pytest.approx(0, abs=0.02), pytest.approx(8, abs=0.02))
    noisy = np.array([draw_level(rng, 5, 0.5, 10.0) for _ in range(4000)])
    assert noisy.std() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(2 * 4000))
    assert min(draw_level(rng, 0, 3.0, 10.0) for _ in range(100)) == 0.0


def test_operations_are_drawn_evenly_with_replacement_and_by_weight_without_replacement():
    rng = np.random.default_rng(0)
    drawn = np.array([choose(rng, 4, 2, None) for _ in range(4000)])
    counts = np.bincount(drawn.ravel(), minlength=4)
    # 8000 draws at 1/4: four standard deviations of the binomial
    assert abs(counts - 2000).max() < 4 * math.sqrt(8000 * 0.25 * 0.75)
    assert (drawn[:, 0] == drawn[:, 1]).any()
    weighted = np.array([choose(rng, 3, 2, (0.6, 0.3, 0.1)) for _ in range(4000)])
    assert (weighted[:, 0] != weighted[:, 1]).all()
    first = np.bincount(weighted[:, 0], minlength=3) / 4000
    assert first == pytest.approx([0.6, 0.3, 0.1], abs=4 * math.sqrt(0.24 / 4000))
    # after the first, the second is drawn with the remaining weights 0.3 : 0.1
    second = weighted[weighted[:, 0] == 0, 1]
    assert (second == 1).mean() == pytest.approx(0.75, abs=4 * math.sqrt(0.1875 / len(second)))


def test_color_jitter_is_torchvisions_for_a_given_order_and_factors():
    for order, factors, pixels in zip(GOLDEN["jitter_orders"], GOLDEN["jitter_factors"], GOLDEN["jitter_digests"]):
        assert digest(np.asarray(jitter_colors(IMAGE, list(order), list(factors)))) == pixels


def test_color_jitter_draws_every_order_and_factors_around_one():
    rng = np.random.default_rng(0)
    orders, factors = zip(*(draw_jitter(rng, 0.4) for _ in range(600)))
    assert len({tuple(order) for order in orders}) == 6
    values = np.array(factors)
    assert values.min() >= 0.6
    assert values.max() <= 1.4
    # each factor is uniform: the mean within four standard errors of 1
    assert values.mean(axis=0) == pytest.approx(np.ones(3), abs=4 * 0.8 / math.sqrt(12 * 600))
    assert min(min(draw_jitter(rng, 1.7)[1]) for _ in range(50)) >= 0

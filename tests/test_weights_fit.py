"""Weights fitted to a network: as in the authors' script, with an error where it ignores a mismatch."""

from __future__ import annotations

import json
import re

import mindspore as ms
import numpy as np
import pytest

from src.weights.fit import KEPT, LEFT_OUT, LOADED, RESIZED, LoadReport, fit_weights
from src.weights.network_parameters import parameter_shapes, set_weights
from src.weights.resize import bicubic_weights, geometric_offsets, resize_bias_table, resize_pos_embed
from tests.weights_golden import GOLDEN, assert_same, load, make_network, measured, refuses, small_weights

TABLE = "blocks.{}.attn.relative_position_bias_table"


@pytest.fixture(autouse=True)
def pynative():
    """Each test has another network, whose compilation would take longer than its run."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


def names(report: LoadReport, action: str) -> list[str]:
    return [row.name for row in report.rows if row.action == action]


def shapes_of(weights: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in weights.items()}


FINE_TUNINGS = [
    ("unilm_pt22k.pth", 32),
    ("unilm_pt22k.pth", 48),
    ("beitv2_pt1k.pth", 32),
    ("unilm_384.pth", 32),
    ("unilm_abs_pos.pth", 48),
]


@pytest.mark.parametrize(("name", "size"), FINE_TUNINGS)
def test_fine_tuning_starts_from_the_logits_of_the_authors_network(monkeypatch, name, size):
    golden = f"finetune/{name}/{size}"
    wanted = GOLDEN[f"{golden}/logits"]
    checkpoint = load(monkeypatch, name)
    sizes = measured(checkpoint.weights)
    network = make_network(sizes, num_classes=wanted.shape[1], grid=size // sizes.patch_size, fine_tuning=True)
    fitted, report = fit_weights(checkpoint.weights, parameter_shapes(network), name)
    authors = json.loads(str(GOLDEN[f"{golden}/report"]))
    assert sorted(names(report, LEFT_OUT)) == authors["left_out"]
    assert sorted(names(report, KEPT)) == authors["kept"]
    set_weights(network, fitted | {kept: GOLDEN[f"{golden}/initial/{kept}"] for kept in authors["kept"]})
    found = network(ms.Tensor(GOLDEN[f"images/{size}"])).asnumpy()
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


# ---- resizing ----


@pytest.mark.parametrize(("old", "new"), [(14, 24), (24, 14)])
def test_position_tables_are_resized_as_in_the_authors_script(old, new):
    table = resize_bias_table(GOLDEN[f"resize/{old}/table"], new)
    np.testing.assert_allclose(table, GOLDEN[f"resize/{old}/{new}/table"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(table[-3:], GOLDEN[f"resize/{old}/table"][-3:])
    pos_embed = resize_pos_embed(GOLDEN[f"resize/{old}/pos_embed"], new)
    np.testing.assert_allclose(pos_embed, GOLDEN[f"resize/{old}/{new}/pos_embed"], rtol=0, atol=1e-5)
    assert (table.dtype, pos_embed.dtype) == (np.float32, np.float32)


def test_the_old_offsets_form_a_geometric_progression_that_reaches_the_new_ones():
    offsets = geometric_offsets(13, 23)
    steps = np.diff(offsets[13:])
    np.testing.assert_allclose(steps[1:] / steps[:-1], steps[1] / steps[0])
    assert steps[0] == 1
    assert offsets[-1] == pytest.approx(23, abs=1e-3)
    np.testing.assert_array_equal(offsets, -offsets[::-1])
    assert geometric_offsets(23, 13)[24:27] == pytest.approx([1, 2.01, 3.0301])  # the smallest ratio, 1.01


def test_a_table_that_is_linear_in_the_offset_stays_linear_in_the_middle():
    """The old offsets of 4 x 4 patches are 0, 1, 1 + q, 1 + q + q²; a plane over them is a plane over the new ones."""
    old = geometric_offsets(3, 5)
    plane = old[:, None] * 2 + old[None, :]
    table = np.concatenate([plane.reshape(-1, 1), [[7.0], [8.0], [9.0]]]).astype(np.float32)
    new = np.arange(-4, 5)
    found = resize_bias_table(table, 6)[:-3].reshape(11, 11)[1:-1, 1:-1]
    np.testing.assert_allclose(found, new[:, None] * 2 + new[None, :], atol=1e-5)


def test_bicubic_weights_agree_with_a_hand_calculation():
    # 2 -> 4: the first new position is at -0.25, between -1 and 0, and the edge repeats beyond the edge
    weights = bicubic_weights(2, 4)
    near = {t: ((-0.75 + 2) * t - (-0.75 + 3)) * t * t + 1 for t in (0.25, 0.75)}
    far = {t: (((t - 5) * t + 8) * t - 4) * -0.75 for t in (1.25, 1.75)}
    assert weights[0] == pytest.approx([near[0.75] + far[1.75] + near[0.25], far[1.25]])
    assert weights.sum(1) == pytest.approx(np.ones(4))
    np.testing.assert_allclose(bicubic_weights(5, 5), np.eye(5))


# ---- rules ----


def test_an_equal_network_gets_all_weights_bit_for_bit():
    weights = small_weights()
    fitted, report = fit_weights(weights, shapes_of(weights), "a.ckpt")
    assert_same(fitted, weights)
    assert {row.action for row in report.rows} == {LOADED}
    assert report.table() == f"loaded             {len(weights):>4}"


def test_shared_bias_is_copied_to_every_block():
    source = small_weights(rel_pos_bias=False, shared_rel_pos_bias=True)
    fitted, report = fit_weights(source, shapes_of(small_weights()), "a.pth")
    for block in range(2):
        np.testing.assert_array_equal(fitted[TABLE.format(block)], source["rel_pos_bias.relative_position_bias_table"])
    assert "rel_pos_bias.relative_position_bias_table" not in fitted
    assert "loaded                2  copies of the table shared by all blocks" in report.table()


def test_shared_bias_stays_shared_where_the_network_shares_it():
    source = small_weights(rel_pos_bias=False, shared_rel_pos_bias=True)
    assert_same(fit_weights(source, shapes_of(source), "a.pth")[0], source)
    both = small_weights(shared_rel_pos_bias=True)
    fitted, report = fit_weights(source, shapes_of(both), "a.pth")
    assert names(report, KEPT) == ["rel_pos_bias.relative_position_bias_table"]  # zeros: the bias must not count twice
    assert set(both) - set(fitted) == set(names(report, KEPT))


def test_a_head_of_another_size_is_left_out_and_reported():
    source, target = small_weights(num_classes=7), small_weights()
    fitted, report = fit_weights(source, shapes_of(target), "a.pth")
    assert set(target) - set(fitted) == {"head.weight", "head.bias"}
    assert sorted(names(report, LEFT_OUT)) == sorted(names(report, KEPT)) == ["head.bias", "head.weight"]
    left_out, kept = report.table().splitlines()[1:]
    assert re.fullmatch(r"left out +2  head\.weight, head\.bias: .*\b7\b.*\b3\b.*", left_out)
    assert re.match(r"initial value kept +2  head\.weight, head\.bias: ", kept)


def test_tables_of_another_image_size_are_resized_and_reported():
    source, target = small_weights(grid=4, abs_pos_emb=True), small_weights(abs_pos_emb=True)
    fitted, report = fit_weights(source, shapes_of(target), "a.pth")
    assert shapes_of(fitted) == shapes_of(target)
    assert names(report, RESIZED) == ["pos_embed", TABLE.format(0), TABLE.format(1)]
    pattern = r"^resized +3  pos_embed, blocks\.\*\.attn\.relative_position_bias_table: 4 to 3 patches"
    assert re.search(pattern, report.table(), re.MULTILINE)
    assert_same({"x": fitted["pos_embed"]}, {"x": resize_pos_embed(source["pos_embed"], 3)})
    assert_same({"x": fitted[TABLE.format(1)]}, {"x": resize_bias_table(source[TABLE.format(1)], 3)})


SHARED = {"shared_rel_pos_bias": True, "rel_pos_bias": False}
NO_BIAS = {"rel_pos_bias": False, "abs_pos_emb": False}


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ({"embed_dim": 16}, {}, ["'cls_token'", "(1, 1, 16)", "(1, 1, 8)", "arch"]),
        ({"patch_size": 4}, {}, ["'patch_embed.proj.weight'", "(8, 3, 4, 4)", "(8, 3, 2, 2)", "patch size"]),
        ({"num_heads": 4}, {}, ["'blocks.0.attn.relative_position_bias_table'", "(28, 4)"]),
        ({"grid": 2}, {}, ["'blocks.0.attn.relative_position_bias_table'", "(12, 2)"]),
        ({"depth": 3}, {}, ["'blocks.2.attn.q_bias'", "arch"]),
        ({}, {"depth": 3}, ["'blocks.2.attn.q_bias'", "arch"]),
        ({"layer_scale": False}, {}, ["'blocks.0.gamma_1'", "layer_scale_init_value"]),
        ({}, {"layer_scale": False}, ["'blocks.0.gamma_1'", "layer_scale_init_value"]),
        ({"rel_pos_bias": False, "abs_pos_emb": True}, {"abs_pos_emb": True}, ["rel_pos_bias"]),
        ({"abs_pos_emb": True}, {}, ["'pos_embed'", "abs_pos_emb"]),
        ({}, {"abs_pos_emb": True}, ["'pos_embed'", "abs_pos_emb"]),
        (SHARED, NO_BIAS, ["'rel_pos_bias.relative_position_bias_table'", "set rel_pos_bias"]),
    ],
)
def test_another_architecture_is_an_error_that_names_the_first_parameter(source, target, words):
    with refuses("a.pth", *words):
        fit_weights(small_weights(**source), shapes_of(small_weights(**target)), "a.pth")


def test_a_checkpoint_that_matches_no_parameter_is_an_error():
    with refuses("a.pth", "'conv'"):
        fit_weights({"conv": np.zeros(3, np.float32)}, shapes_of(small_weights()), "a.pth")

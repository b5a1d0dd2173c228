"""The contact sheet and the attention picture."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
import onnx
import onnxruntime
import pytest
from mindspore import Tensor
from PIL import Image

from src.pictures.tiles import GAP, LINE, SIDE
from src.prediction import pictures
from src.prediction.journal import Record
from src.prediction.mindspore_network import last_attention
from src.prediction.pictures import HEAT, HEAT_SHARE, attention_picture, contact_sheet
from src.vit import VisionTransformer
from tests.golden.network_recipe import CASES, weight
from tests.networks import model_info, small_network
from tests.onnx_graphs import graph_of

CAPTION = 2 * LINE
CELL = (SIDE + GAP, SIDE + CAPTION + GAP)


def colored(folder: Path, count: int) -> list[Record]:
    """Return the records of `count` plain images; image n has gray level n."""
    records = []
    for number in range(count):
        path = folder / f"{number}.png"
        Image.new("RGB", (40, 20), (number, number, number)).save(path)
        records.append({"image": str(path), "class": number, "probability": 0.5})
    return records


def grays(sheet: Image.Image) -> list[int]:
    """Return the gray levels in the middle of the thumbnails, row by row."""
    pixels = np.asarray(sheet)
    rows, columns = (sheet.height - GAP) // CELL[1], (sheet.width - GAP) // CELL[0]
    places = [
        (r * CELL[1] + GAP + SIDE // 2, c * CELL[0] + GAP + SIDE // 2) for r in range(rows) for c in range(columns)
    ]
    return [int(pixels[place][0]) for place in places]


def test_a_sheet_shows_all_of_few_images_in_order(tmp_path):
    records = colored(tmp_path, 3)
    records.insert(1, {"image": "broken.png", "unreadable": "empty"})
    sheet = contact_sheet(lambda: iter(records), ("a", "b", "c"))
    assert sheet.size == (3 * CELL[0] + GAP, CELL[1] + GAP)
    assert grays(sheet) == [0, 1, 2]


def test_a_sheet_shows_an_even_sample_of_many_images(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "ROWS", 2)
    records = colored(tmp_path, 64)
    Path(records[8]["image"]).unlink()  # deleted since it was predicted
    sheet = contact_sheet(lambda: iter(records), ())
    assert grays(sheet) == [*range(0, 8, 4), *range(12, 64, 4), 255]


def captions(sheet: Image.Image) -> np.ndarray:
    """Return where there is ink below each thumbnail of the first row, bool [thumbnails, height, width]."""
    ink = np.asarray(sheet.convert("L"))[GAP + SIDE : GAP + SIDE + CAPTION, GAP:] < 128
    return np.stack(np.split(ink, ink.shape[1] // CELL[0], axis=1))


def test_captions_show_label_and_probability_within_their_column(tmp_path):
    (record,) = colored(tmp_path, 1)
    records = [record, {**record, "class": 1}, {**record, "class": 1, "probability": 0.25}, record]
    ink = captions(
        contact_sheet(lambda: iter(records), ("cat", "a very long name that fits nowhere " * 3, "Schwäne 四"))
    )
    upper, lower = ink[:, : CAPTION // 2], ink[:, CAPTION // 2 :]
    assert upper.any(axis=(1, 2)).all()
    assert lower.any(axis=(1, 2)).all()
    assert np.array_equal(upper[0], upper[3])
    assert not np.array_equal(upper[0], upper[1])  # the label
    assert not np.array_equal(lower[1], lower[2])  # the probability
    assert np.array_equal(lower[0], lower[1])
    assert not ink[:, :, SIDE + 1 :].any()


def test_a_run_without_a_readable_image_gives_an_empty_sheet():
    sheet = contact_sheet(lambda: iter([{"image": "broken.png", "unreadable": "empty"}]), ())
    assert grays(sheet) == [255]


def test_attention_colors_the_part_that_the_network_sees():
    """crop_pct 0.5 of a 64 x 128 image for 32 pixels: the 32 x 32 in the middle, enlarged 12 times."""
    pixels = np.full((128, 64, 3), 200, np.uint8)
    pixels[48:80, 16:48] = (100, 150, 50)
    info = model_info("beit_base_patch16_224", 32, 10, crop_pct=0.5, interpolation="nearest")
    attention = np.array([[0.1, 0.1], [0.1, 0.3]], np.float32)
    picture = np.asarray(attention_picture(Image.fromarray(pixels), attention, info))
    assert picture.shape == (384, 768, 3)
    assert (picture[:, :384] == (100, 150, 50)).all()
    plain = np.array([100, 150, 50])
    assert picture[0, 384] == pytest.approx((1 - HEAT_SHARE) * plain + HEAT_SHARE * HEAT[0], abs=1)
    assert picture[-1, -1] == pytest.approx((1 - HEAT_SHARE) * plain + HEAT_SHARE * HEAT[-1], abs=1)


def test_uniform_attention_has_the_color_of_the_least():
    info = model_info("beit_base_patch16_224", 400, 10)
    picture = attention_picture(Image.new("RGB", (500, 500)), np.full((2, 2), 0.25, np.float32), info)
    assert picture.size == (800, 400)
    assert np.asarray(picture)[10, 500] == pytest.approx(HEAT_SHARE * HEAT[0], abs=1)


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def attention_by_hand(w: dict[str, np.ndarray], image: np.ndarray, heads: int, patch: int) -> np.ndarray:
    """[heads, N, N] of the first block, from the formulas of the paper, patch by patch."""
    grid = image.shape[1] // patch
    corners = [(y * patch, x * patch) for y in range(grid) for x in range(grid)]
    tokens = [w["cls_token"][0, 0]]
    for y, x in corners:
        pixels = image[:, y : y + patch, x : x + patch]
        tokens.append(np.einsum("dchw,chw->d", w["patch_embed.proj.weight"], pixels) + w["patch_embed.proj.bias"])
    x = np.array(tokens)
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
    x = x * w["blocks.0.norm1.weight"] + w["blocks.0.norm1.bias"]
    query, key, _ = np.split(w["blocks.0.attn.qkv.weight"], 3)
    q = (x @ query.T + w["blocks.0.attn.q_bias"]).reshape(len(x), heads, -1)
    k = (x @ key.T).reshape(len(x), heads, -1)
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
    table = w["blocks.0.attn.relative_position_bias_table"]
    for i in range(len(x)):
        for j in range(len(x)):
            if i and j:
                (yi, xi), (yj, xj) = divmod(i - 1, grid), divmod(j - 1, grid)
                row = (yi - yj + grid - 1) * (2 * grid - 1) + xi - xj + grid - 1
            else:
                row = len(table) - (1 if i == j else 2 if i else 3)
            scores[:, i, j] += table[row]
    return softmax(scores)


def network_of(options: dict[str, object]) -> tuple[VisionTransformer, dict[str, np.ndarray]]:
    network = small_network(**options).set_train(False)
    weights = {p.name: weight(p.name, p.shape) for p in network.get_parameters()}
    for parameter in network.get_parameters():
        parameter.set_data(Tensor(weights[parameter.name]))
    return network, weights


@pytest.mark.parametrize("mean_pooling", [True, False])
def test_attention_is_that_of_the_pooled_tokens_in_the_last_block(mean_pooling):
    """For a network of one block, computed by hand."""
    network, w = network_of({**CASES["base"], "depth": 1, "mean_pooling": mean_pooling})
    image = np.random.default_rng(3).standard_normal((3, 32, 32), dtype=np.float32)
    by_hand = attention_by_hand(w, image, heads=4, patch=8).mean(axis=0)
    expected = by_hand[1:, 1:].mean(axis=0) if mean_pooling else by_hand[0, 1:]
    ms.set_context(mode=ms.GRAPH_MODE)
    attention = last_attention(network, image)
    assert ms.get_context("mode") == ms.GRAPH_MODE
    ms.set_context(mode=ms.PYNATIVE_MODE)
    assert attention.shape == (4, 4)
    assert attention == pytest.approx(expected.reshape(4, 4), rel=1e-4)
    assert attention.max() > 1.5 * attention.min()  # it would be uniform without weights


def test_attention_is_that_of_the_last_block_with_all_its_biases():
    """For three blocks with a shared and an own bias: the softmax of the last block in the exported graph."""
    case = CASES["shared_and_own_bias"]
    network, weights = network_of({**case, "depth": 3})
    model = graph_of({**case, "depth": 3}, weights)
    inside = "blocks.2.attn.probabilities"
    model.graph.output.append(onnx.ValueInfoProto(name=inside))
    image = np.random.default_rng(3).standard_normal((3, case["image_size"], case["image_size"]), dtype=np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (probabilities,) = session.run([inside], {"image": image[None]})
    expected = probabilities[0][:, 1:, 1:].mean(axis=(0, 1)).reshape(4, 4)
    assert last_attention(network, image) == pytest.approx(expected, rel=1e-4)

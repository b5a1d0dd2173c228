"""The sheet of pre-training's views and masks."""

from __future__ import annotations

import numpy as np
from PIL import Image

from src.data.masked_images import MaskedBatch, TokenBatch
from src.data.masked_sheet import masked_image, masked_sheet
from src.data.masking import masked_positions
from src.data.transforms import normalize
from src.model.model_info import IMAGENET_DEFAULT_MEAN_STD
from src.pictures.tiles import GAP, LINE

MEAN_STD = IMAGENET_DEFAULT_MEAN_STD
RED, BLUE, GREEN, GRAY = (200, 10, 20), (5, 30, 180), (40, 210, 60), (128, 128, 128)
SIDE = 160  # five times 32 and ten times 16


def plain(color: tuple[int, int, int], side: int) -> Image.Image:
    return Image.new("RGB", (side, side), color)


def batch(count: int) -> TokenBatch:
    """Red images with blue tokenizer views; of 2 x 2 patches the upper right one is masked."""
    mask = np.array([0, 1, 0, 0], np.float32)
    positions, weights = masked_positions(mask, 2)
    token_image = np.asarray(plain(BLUE, 16)).transpose(2, 0, 1)
    image = normalize(plain(RED, 32), *MEAN_STD)
    rows = (image, mask, positions, weights, np.zeros((), np.int32), token_image)
    return TokenBatch(*(np.stack([array] * count) for array in rows))


def place(column: int, row: int, x: int, y: int) -> tuple[int, int]:
    """The pixel (x, y) of a tile."""
    return GAP + column * (SIDE + GAP) + x, GAP + LINE + row * (SIDE + LINE + GAP) + y


def test_masked_patches_are_gray_and_the_others_unchanged():
    image = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)
    masked = masked_image(image, np.array([0, 1, 0, 0], np.float32), ((0.5, 0.4, 0.3), (0.5, 0.2, 0.1)))
    np.testing.assert_allclose(
        masked[:, :4, 4:], np.broadcast_to(np.reshape([0, 0.5, 2], (3, 1, 1)), (3, 4, 4)), atol=1e-6
    )
    np.testing.assert_array_equal(masked[:, 4:], image[:, 4:])
    np.testing.assert_array_equal(masked[:, :, :4], image[:, :, :4])


def test_the_sheet_shows_both_views_the_mask_and_the_decoded_image_of_two_images_a_row():
    decoded = np.stack([np.broadcast_to(np.reshape(np.array(GREEN, np.float32) / 255, (3, 1, 1)), (3, 16, 16))] * 3)
    sheet = masked_sheet(batch(5), MEAN_STD, ["a", "b", "c"], {"decoded tokens": decoded})
    assert sheet.size == (8 * (SIDE + GAP) + GAP, 2 * (SIDE + LINE + GAP) + GAP + LINE)
    for number in range(3):
        first, row = 4 * (number % 2), number // 2
        assert sheet.getpixel(place(first, row, 159, 0)) == RED
        assert sheet.getpixel(place(first + 1, row, 159, 0)) == GRAY
        assert sheet.getpixel(place(first + 1, row, 79, 0)) == RED
        assert sheet.getpixel(place(first + 1, row, 159, 80)) == RED
        assert sheet.getpixel(place(first + 2, row, 80, 80)) == BLUE
        assert sheet.getpixel(place(first + 3, row, 80, 80)) == GREEN
    assert sheet.getpixel(place(4, 1, 80, 80)) == (255, 255, 255)


def test_without_a_tokenizer_an_image_has_two_tiles():
    sheet = masked_sheet(MaskedBatch(*batch(4)[:-1]), MEAN_STD, ["a", "b", "c", "d"])
    assert sheet.size == (8 * (SIDE + GAP) + GAP, SIDE + LINE + 2 * GAP + LINE)
    assert [sheet.getpixel(place(column, 0, 159, 0)) for column in range(8)] == [RED, GRAY] * 4

"""The Python interface for predictions, with networks whose output is known."""

from __future__ import annotations

import threading
from itertools import count

import numpy as np
import pytest
from PIL import Image

from src.errors import UserError
from src.prediction.loaded_network import Network
from src.prediction.predictor import Prediction, Predictor, Unreadable
from tests.networks import model_info

INFO = model_info("beit_micro_patch8_32", 32, 3, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0), crop_pct=0.5)


class MeanOfChannels:
    """A network whose logits are the means of the three channels; it records the shapes of its input."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.shapes.append(images.shape)
        return images.mean(axis=(2, 3))


def predictor(run, *, batch_size: int = 4, fixed_batch: bool = False, takes_pixels: bool = False) -> Predictor:
    network = Network(run, INFO, fixed_batch=fixed_batch, takes_pixels=takes_pixels)
    return Predictor(network, batch_size=batch_size, num_workers=3)


def plain(color: tuple[int, int, int], size: tuple[int, int] = (50, 40)) -> Image.Image:
    return Image.new("RGB", size, color)


def test_images_are_normalized_with_the_mean_and_std_of_the_file():
    (prediction,) = predictor(MeanOfChannels()).predict([plain((255, 51, 102))])
    # (1 - 0.5) / 0.5, (0.2 - 0.25) / 0.25, 0.4 / 1
    assert prediction.logits == pytest.approx([1.0, -0.2, 0.4], abs=1e-6)
    assert prediction.class_number == 0


def test_crop_pct_decides_the_size_of_the_center_crop():
    """Of a 64 x 128 image, crop_pct 0.5 keeps the 32 x 32 pixels in the middle unresized."""
    pixels = np.zeros((128, 64, 3), np.uint8)
    pixels[48:80, 16:48] = (0, 255, 0)
    (prediction,) = predictor(MeanOfChannels()).predict([pixels])
    assert prediction.logits == pytest.approx([-1.0, 3.0, 0.0], abs=1e-6)
    assert prediction.class_number == 1


def test_a_network_that_takes_pixels_gets_them_unchanged():
    """Resized and cropped, uint8, height x width x 3, and not normalized."""
    pixels = np.zeros((128, 64, 3), np.uint8)
    pixels[48:80, 16:48] = np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    batches: list[np.ndarray] = []

    def run(images: np.ndarray) -> np.ndarray:
        batches.append(images)
        return images.mean(axis=(1, 2), dtype=np.float32)

    list(predictor(run, takes_pixels=True).predict([pixels]))
    assert batches[0].dtype == np.uint8
    assert np.array_equal(batches[0], pixels[None, 48:80, 16:48])


def test_probabilities_are_the_softmax_and_top_sorts_them():
    prediction = Prediction("a.png", np.array([0.0, 1000.0, 1000.0 - np.log(3), -5.0], np.float32))
    assert prediction.probabilities == pytest.approx([0.0, 0.75, 0.25, 0.0], abs=1e-5)
    assert [number for number, _ in prediction.top(2)] == [1, 2]
    assert prediction.top(2)[0][1] == pytest.approx(0.75, abs=1e-5)
    equal = Prediction("a.png", np.array([1.0, 2.0, 2.0, 1.0], np.float32))
    assert [number for number, _ in equal.top(4)] == [1, 2, 0, 3]
    assert equal.class_number == 1


def test_an_exported_file_has_no_attention():
    with pytest.raises(UserError, match=r"attention .* exported file.* checkpoint"):
        predictor(MeanOfChannels()).attention(plain((1, 2, 3)))


def test_files_images_and_arrays_give_the_same_logits(tmp_path):
    image = plain((10, 200, 30))
    image.save(tmp_path / "a.png")
    sources = [tmp_path / "a.png", str(tmp_path / "a.png"), image, np.asarray(image), image.convert("RGBA")]
    predictions = list(predictor(MeanOfChannels()).predict(sources))
    assert [prediction.image is source for prediction, source in zip(predictions, sources)] == [True] * 5
    assert {tuple(prediction.logits) for prediction in predictions} == {tuple(predictions[0].logits)}


@pytest.mark.parametrize("fixed_batch", [False, True])
def test_results_keep_the_order_and_only_fixed_batches_are_padded(fixed_batch):
    images = [plain((value, 0, 0)) for value in range(0, 200, 20)]
    network = MeanOfChannels()
    predictions = list(predictor(network, fixed_batch=fixed_batch).predict(images))
    assert [p.logits[0] for p in predictions] == pytest.approx([v / 127.5 - 1 for v in range(0, 200, 20)], abs=1e-6)
    assert [shape[0] for shape in network.shapes] == [4, 4, 4 if fixed_batch else 2]


def test_an_unreadable_image_does_not_affect_the_others(tmp_path):
    plain((255, 0, 0)).save(tmp_path / "good.png")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    plain((255, 0, 0), size=(60000, 1)).save(tmp_path / "long.png")
    names = ["empty.png", "good.png", "text.jpg", "missing.png", "cut.png", "long.png", "good.png"]
    results = list(predictor(MeanOfChannels(), batch_size=3).predict(tmp_path / name for name in names))
    assert [isinstance(result, Prediction) for result in results] == [False, True, False, False, False, True, True]
    assert [result.image.name for result in results] == names
    assert all(result.class_number == 0 for result in results if isinstance(result, Prediction))
    reasons = [result.reason for result in results if isinstance(result, Unreadable)]
    assert reasons[0] == "the file is empty"
    assert reasons[1] == "it is in none of the formats JPEG, PNG, BMP, GIF, PPM, TIFF, WEBP"
    assert reasons[2] == "No such file or directory"
    assert "truncated" in reasons[3].lower()
    assert len(reasons) == 4


def test_an_endless_stream_is_read_on_demand():
    """Memory must not grow with the number of images: at most two batches wait beside the one in use."""
    drawn: list[int] = []

    def stream():
        for number in count():
            drawn.append(number)
            yield plain((number % 256, 0, 0))

    results = predictor(MeanOfChannels()).predict(stream())
    for number, result in zip(range(6), results):
        assert result.logits[0] == pytest.approx(number / 127.5 - 1, abs=1e-6)
    assert len(drawn) <= 4 * 4
    results.close()
    for thread in threading.enumerate():
        if thread.name.startswith("data-worker"):
            thread.join(60)
            assert not thread.is_alive()


def test_a_missing_or_foreign_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no\.onnx does not exist"):
        Predictor.from_file(tmp_path / "no.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"garbage")
    with pytest.raises(UserError, match=r"bad\.onnx .*ONNX.* export"):
        Predictor.from_file(tmp_path / "bad.onnx")

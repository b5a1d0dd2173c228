"""Comparison of an exported file's logits with its network's, on random images and on images of a folder."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.data.image_batches import preparation_of
from src.errors import RunError
from src.export.folder_images import folder_batches
from src.export.onnx_export import OnnxOptions
from src.model.model_info import ModelInfo
from src.prediction.loaded_network import Network

Run = Callable[[np.ndarray], np.ndarray]
"""Images [B, ...] -> logits float32 [B, num_classes]."""

# Number of random images: compared in one batch and one by one, to detect a batch size fixed in the file.
IMAGES = 3
# Largest accepted difference as a share of the largest logit. Float32 sums in another order differ by 1e-6 or less in
# BEiT-base, where the smallest relevant bug, the other kind of GELU, gives 4e-5 to 9e-5. Float16 gave 2e-4 to 5e-4 in
# BEiT-base and -large with random weights, int8 2e-2.
TOLERANCES = {"fp32": 2e-5, "fp16": 5e-3, "int8": 0.25}


@dataclass(frozen=True)
class Agreement:
    """Largest difference between the logits of a file and of its network, and how many images get the same class.

    `absolute` is the difference of logits, `relative` its share of the largest logit.
    """

    images: int
    same_class: int
    absolute: float
    relative: float


def compare_logits(
    exported: Network, network: Run, options: OnnxOptions, folder: Path | None, file_name: str
) -> Iterator[str]:
    """Compare `exported`, loaded from its file, with `network`; yield lines to print.

    The first comparison uses random images: noise, or mixtures of calibration images, because static int8 is only valid
    in their range. It raises `RunError` for a difference above the tolerance. The second, with `folder` or for a
    precision other than fp32, counts the images that get the same class.
    """
    images, rows = random_input(exported, options), np.arange(IMAGES)
    expected_of = _with_input_of(exported, network)
    expected = expected_of(images)
    together_and_one_by_one = [rows, *rows[:, None]]
    result = agreement(lambda rows: exported.run(images[rows]), expected.__getitem__, together_and_one_by_one)
    require_agreement(result, options.precision, file_name)
    yield f"largest difference to the network's logits: {_difference(result)}"
    if folder is not None:
        # the network is already compiled for batches of IMAGES
        preparation = preparation_of(exported.info, exported.takes_pixels, options.decode)
        batches = folder_batches(folder, preparation, IMAGES)
        yield _agreement_line(agreement(exported.run, expected_of, batches), f"images of {folder}")
    elif options.precision != "fp32":
        result = agreement(exported.run, expected_of, [images])
        yield _agreement_line(result, "random images (for real ones: --agreement_folder)")


def agreement(run: Run, network: Run, batches: Iterable[np.ndarray]) -> Agreement:
    """Compare two networks on batches of images; memory does not grow with the number of batches."""
    images = same = 0
    absolute = scale = 0.0
    for batch in batches:
        logits, expected = run(batch), network(batch)
        images += len(batch)
        same += int((logits.argmax(axis=1) == expected.argmax(axis=1)).sum())
        # NumPy's maximum propagates NaN, Python's max does not
        absolute = float(np.maximum(absolute, np.abs(logits - expected).max()))
        scale = float(np.maximum(scale, np.abs(expected).max()))
    return Agreement(images, same, absolute, absolute / scale if scale else absolute)


def require_agreement(result: Agreement, precision: str, file_name: str) -> None:
    """Raise `RunError` if the relative difference is NaN or above the tolerance of `precision`."""
    tolerance = TOLERANCES[precision]
    if not result.relative <= tolerance:
        fix = "please report this" if precision == "fp32" else "this network needs --onnx_precision fp32"
        raise RunError(
            f"{file_name} was not written: its logits differ from the network's by {_difference(result)}, but at most "
            f"{tolerance:g} is accepted; {fix}"
        )


def random_input(exported: Network, options: OnnxOptions) -> np.ndarray:
    """Return IMAGES images of the kind that the file takes: mixtures of calibration images, uniform pixels or noise."""
    if options.calibration is not None:
        preparation = preparation_of(exported.info, exported.takes_pixels, options.decode)
        return random_blends(next(folder_batches(options.calibration, preparation, 2 * IMAGES, 2 * IMAGES)))
    rng, size = np.random.default_rng(0), exported.info.model.image_size
    if exported.takes_pixels:
        return rng.integers(0, 256, (IMAGES, size, size, 3), np.uint8)
    return rng.standard_normal((IMAGES, 3, size, size), dtype=np.float32)  # about as spread as normalized photographs


def random_blends(images: np.ndarray) -> np.ndarray:
    """Return IMAGES mixtures of two of `images` [N, ...] in their type: new images in the range of the old ones."""
    rng = np.random.default_rng(0)
    first, second = (images[rng.integers(len(images), size=IMAGES)] for _ in range(2))
    share = rng.random((IMAGES,) + (1,) * (images.ndim - 1), dtype=np.float32)
    return (share * first + (1 - share) * second).astype(images.dtype)


def _difference(result: Agreement) -> str:
    return f"{result.absolute:.2e} ({result.relative:.1e} of the largest logit)"


def _agreement_line(result: Agreement, images: str) -> str:
    return (
        f"agreement with the network on {result.images} {images}: top-1 {result.same_class / result.images:.2%}, "
        f"largest logit difference {_difference(result)}"
    )


def _with_input_of(exported: Network, network: Run) -> Run:
    """Return `network` as a function of the file's input, at most IMAGES images; it always runs on IMAGES images."""

    def run(images: np.ndarray) -> np.ndarray:
        given = _normalized(images, exported.info) if exported.takes_pixels else images
        filled = np.zeros((IMAGES, *given.shape[1:]), np.float32)
        filled[: len(given)] = given
        return network(filled)[: len(given)]

    return run


def _normalized(pixels: np.ndarray, info: ModelInfo) -> np.ndarray:
    """Convert pixels uint8 [B, S, S, 3] to normalized images float32 [B, 3, S, S]."""
    images = pixels.astype(np.float32) / np.float32(255)
    images = (images - np.array(info.mean, np.float32)) / np.array(info.std, np.float32)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))

"""Whether a written file does what its network does, and how closely: what export.py checks and prints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from src.data.image_batches import preparation_of
from src.export.check import (
    IMAGES,
    Agreement,
    Run,
    agreement,
    largest_difference,
    random_blends,
    random_images,
    random_pixels,
    require_agreement,
)
from src.export.images import folder_batches
from src.export.onnx_export import OnnxOptions
from src.model.model_info import ModelInfo
from src.prediction.loaded_network import Network


def compare(
    exported: Network, network: Run, options: OnnxOptions, agreement_folder: Path | None, file_name: str
) -> Iterator[str]:
    """Compare `exported`, loaded from its file, with the `network` that it came from; yields lines to print.

    First on fresh random images, whatever the folder: noise, or mixtures of calibration images, beyond whose range
    static int8 knows nothing. A difference above the tolerance of the precision raises `RunError`. Then, where
    `agreement_folder` is given or the precision is not fp32, how many images get the same class.
    """
    images = _random_input(exported, options)
    run_network = _taking_the_same(network, exported)
    expected = run_network(images)
    difference = largest_difference(exported.run, images, expected)
    require_agreement(difference, options.precision, file_name)
    yield (
        f"largest difference to the network's logits: {difference.absolute:.2e} "
        f"({difference.relative:.1e} of the largest logit)"
    )
    if agreement_folder is not None:
        # of the size that the network is compiled for already
        batches = folder_batches(agreement_folder, preparation_of(exported.info, exported.takes_pixels), IMAGES)
        yield _line(agreement(exported.run, run_network, batches), f"images of {agreement_folder}")
    elif options.precision != "fp32":
        yield _line(agreement(exported.run, run_network, [images]), "random images (real ones: --agreement_folder)")


def _line(result: Agreement, images: str) -> str:
    return (
        f"agreement with the network on {result.images} {images}: top-1 {result.same_class / result.images:.2%}, "
        f"largest logit difference {result.difference.absolute:.2e} "
        f"({result.difference.relative:.1e} of the largest logit)"
    )


def _random_input(exported: Network, options: OnnxOptions) -> np.ndarray:
    """Images that the exported file takes, IMAGES of them."""
    if options.calibration is not None:
        preparation = preparation_of(exported.info, exported.takes_pixels)
        return random_blends(next(folder_batches(options.calibration, preparation, 2 * IMAGES, 2 * IMAGES)))
    draw = random_pixels if exported.takes_pixels else random_images
    return draw(exported.info.model.image_size)


def _taking_the_same(network: Run, exported: Network) -> Run:
    """`network`, taking up to IMAGES images as the file takes them. It always gets IMAGES, for which it is compiled."""

    def run(images: np.ndarray) -> np.ndarray:
        given = _normalized(images, exported.info) if exported.takes_pixels else images
        filled = np.zeros((IMAGES, *given.shape[1:]), np.float32)
        filled[: len(given)] = given
        return network(filled)[: len(given)]

    return run


def _normalized(pixels: np.ndarray, info: ModelInfo) -> np.ndarray:
    """Pixels uint8 [B, S, S, 3] as a network without preprocessing takes them, float32 [B, 3, S, S]."""
    images = pixels.astype(np.float32) / np.float32(255)
    images = (images - np.array(info.mean, np.float32)) / np.array(info.std, np.float32)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))

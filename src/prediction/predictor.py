"""The Python interface for predictions: `Predictor.from_file(path).predict(images)`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.data.image_batches import Source, image_batches, preparation_of, rgb_image_of
from src.data.reduction import EXACT
from src.errors import UserError, doing
from src.model.model_info import ModelInfo
from src.prediction.loaded_network import Network
from src.weights.pretrained import load_pretrained


@dataclass(frozen=True, eq=False)
class Prediction:
    """The result of one image: `logits` float32 [num_classes]."""

    image: Source
    logits: np.ndarray

    @property
    def class_number(self) -> int:
        """The most probable class; the first of equal ones."""
        return int(self.logits.argmax())

    @property
    def probabilities(self) -> np.ndarray:
        """The softmax of the logits, float64 [num_classes]."""
        powers = np.exp(self.logits.astype(np.float64) - self.logits.max())
        return powers / powers.sum()

    def top(self, count: int) -> list[tuple[int, float]]:
        """Return the `count` most probable classes with their probabilities, in descending order."""
        probabilities = self.probabilities
        if count == 1:
            number = int(probabilities.argmax())
            return [(number, float(probabilities[number]))]
        order = np.argsort(-probabilities, kind="stable")[:count]
        return [(int(number), float(probabilities[number])) for number in order]


@dataclass(frozen=True, eq=False)
class Unreadable:
    """An image that could not be decoded, and the reason."""

    image: Source
    reason: str


class Predictor:
    """A loaded network, called with `batch_size` images that `num_workers` threads read and resize as it needs them.

    With `decode` "fast", large JPEG files are reduced while they are decoded; "exact" keeps all pixels.
    """

    def __init__(self, network: Network, *, batch_size: int, num_workers: int, decode: str = EXACT) -> None:
        self._network = network
        self.batch_size, self._num_workers = batch_size, num_workers
        self._preparation = preparation_of(network.info, network.takes_pixels, decode)

    @property
    def info(self) -> ModelInfo:
        """The description of the network, with the names of its classes if the file has them."""
        return self._network.info

    @staticmethod
    def from_file(
        path: str | Path,
        *,
        arch: str | None = None,
        batch_size: int = 8,
        num_workers: int = 8,
        decode: str = EXACT,
        device_target: str = "CPU",
        device_id: int = 0,
        compiled: bool = True,
    ) -> Predictor:
        """Load an exported ONNX or MINDIR file, or a checkpoint in any format that the project reads.

        The file holds the number of classes and the preparation of images. ONNX files run in ONNX Runtime and import no
        MindSpore; for the others, `device_target` (CPU, GPU or Ascend) becomes MindSpore's device for this process.
        The network of a checkpoint is compiled, unless `compiled` is False: then the first result comes seconds
        earlier, and each image takes up to twice as long.
        Raises `UserError` for an unusable file and for another architecture than `arch`.
        """
        path = Path(path)
        if not os.path.isfile(path):  # the method of Path raises an error for a folder that cannot be entered
            raise UserError(
                f"{path} does not exist or cannot be reached; give a checkpoint, an ONNX file or a MINDIR file"
            )
        with doing(f"loading {path}"):
            network = _load(path, arch, device_target, device_id, batch_size if compiled else None)
        if arch is not None and arch != network.info.model.arch:
            raise UserError(f"--arch is {arch} but {path} is a {network.info.model.arch}; leave out --arch")
        return Predictor(network, batch_size=batch_size, num_workers=num_workers, decode=decode)

    def predict(self, images: Iterable[Source]) -> Iterator[Prediction | Unreadable]:
        """Predict `images` (files, Pillow images or uint8 arrays) in their order.

        Worker threads read images while the network runs, and memory does not grow with the number of images. An image
        that cannot be read yields an `Unreadable` in its place.
        """
        for batch in image_batches(images, self._preparation, self.batch_size, self._num_workers):
            rows = self.batch_size if self._network.fixed_batch else len(batch.sources)
            logits = self._network.run(batch.image[:rows])
            for row, source in enumerate(batch.sources):
                if row in batch.unreadable:
                    yield Unreadable(source, batch.unreadable[row].reason)
                else:
                    yield Prediction(source, logits[row])

    def attention(self, image: Source) -> np.ndarray:
        """Return the attention to each patch of `image` in the last block, float32 [patches, patches].

        The mean over the heads and over the patch tokens if they are pooled, or of the class token otherwise. Raises
        `UserError` for an exported file and for an image that cannot be read.
        """
        attention = self.require_attention()
        row = np.zeros(self._preparation.shape, self._preparation.dtype)
        with rgb_image_of(image, self._preparation.reduce) as decoded:
            self._preparation.fill(decoded, out=row)
        return attention(row)

    def require_attention(self) -> Callable[[np.ndarray], np.ndarray]:
        """Return the function from a prepared image to its attention. Raises `UserError` for an exported file."""
        if self._network.attention is None:
            raise UserError("attention is not in an exported file, which outputs logits only; give the checkpoint")
        return self._network.attention


def _load(path: Path, arch: str | None, device_target: str, device_id: int, compiled_batch: int | None) -> Network:
    """Load a file by its suffix. MindSpore, which takes seconds to import, is imported only if it is needed."""
    if path.suffix.lower() == ".onnx":
        from src.prediction.onnx_network import load_onnx

        return load_onnx(path, device_target, device_id)
    if path.suffix.lower() == ".mindir":
        from src.prediction.mindspore_network import load_mindir_file

        return load_mindir_file(path, device_target, device_id)
    with ThreadPoolExecutor(1) as pool:
        checkpoint = pool.submit(load_pretrained, path, arch=arch)  # reads the file while MindSpore is imported
        from src.prediction.mindspore_network import network_of

        return network_of(checkpoint.result(), path, device_target, device_id, compiled_batch)

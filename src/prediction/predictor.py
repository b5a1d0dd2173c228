"""The Python interface for predictions: `Predictor.from_file(path).predict(images)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.errors import UserError
from src.model.model_info import ModelInfo
from src.prediction.batches import Source, as_image, image_batches
from src.prediction.loaded_network import Network
from src.prediction.preparation import preparation_of

ONNX_SUFFIX, MINDIR_SUFFIX = ".onnx", ".mindir"


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network makes of one image: `logits` float32 [num_classes]."""

    image: Source
    logits: np.ndarray

    @property
    def class_number(self) -> int:
        """The most probable class, the first one where several are."""
        return int(self.logits.argmax())

    @property
    def probabilities(self) -> np.ndarray:
        """The softmax of the logits, float64 [num_classes]."""
        powers = np.exp(self.logits.astype(np.float64) - self.logits.max())
        return powers / powers.sum()

    def top(self, count: int) -> list[tuple[int, float]]:
        """The `count` most probable classes with their probabilities, best first; of equal ones the first."""
        probabilities = self.probabilities
        order = np.argsort(-probabilities, kind="stable")[:count]
        return [(int(number), float(probabilities[number])) for number in order]


@dataclass(frozen=True, eq=False)
class Unreadable:
    """An image that could not be decoded, and why."""

    image: Source
    reason: str


class Predictor:
    """A network with what it takes to prepare images for it.

    Args:
        network: the loaded network; `network.info` says how images are prepared.
        batch_size: images per call of the network.
        num_workers: threads that read and resize images.
    """

    def __init__(self, network: Network, *, batch_size: int, num_workers: int) -> None:
        self._network = network
        self._batch_size, self._num_workers = batch_size, num_workers
        self._preparation = preparation_of(network.info, network.takes_pixels)

    @property
    def info(self) -> ModelInfo:
        """What the network is; `info.class_names` names the classes, where they are known."""
        return self._network.info

    @staticmethod
    def from_file(
        path: str | Path,
        *,
        arch: str | None = None,
        batch_size: int = 8,
        num_workers: int = 8,
        device_target: str = "CPU",
        device_id: int = 0,
    ) -> Predictor:
        """A predictor of an exported ONNX or MINDIR file, or of a checkpoint in any format that the project reads.

        The file says how many classes there are and how images are prepared. ONNX files run in ONNX Runtime and import
        no MindSpore; the others make `device_target` (CPU, GPU or Ascend) MindSpore's device for the whole process.
        Raises `UserError` for a file that cannot be used and for one of another architecture than `arch`.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"{path} does not exist: give a checkpoint, an ONNX file or a MINDIR file")
        network = _load(path, arch, device_target, device_id)
        if arch is not None and arch != network.info.model.arch:
            raise UserError(f"{path} is a {network.info.model.arch}, not a {arch}: leave out --arch, or give its own")
        return Predictor(network, batch_size=batch_size, num_workers=num_workers)

    def predict(self, images: Iterable[Source]) -> Iterator[Prediction | Unreadable]:
        """What the network makes of each of `images` (files, Pillow images or uint8 arrays), in their order.

        Images are read while the network works, and results come batch by batch; memory does not grow with their
        number. An image that cannot be read gives an `Unreadable` in its place.
        """
        for batch in image_batches(images, self._preparation, self._batch_size, self._num_workers):
            rows = self._batch_size if self._network.fixed_batch else len(batch.sources)
            logits = self._network.run(batch.image[:rows])
            for row, source in enumerate(batch.sources):
                if row in batch.reasons:
                    yield Unreadable(source, batch.reasons[row])
                else:
                    yield Prediction(source, logits[row])

    def attention(self, image: Source) -> np.ndarray:
        """How much the tokens that are classified attend to each patch of `image` in the last block.

        Float32 [patches, patches], the mean over heads. The queries are the patch tokens where these are pooled, and
        the class token otherwise. Raises `UserError` for an exported file, whose inside cannot be reached, and for an
        image that cannot be read.
        """
        attention = self.require_attention()
        row = np.zeros(self._preparation.shape, self._preparation.dtype)
        self._preparation.fill(as_image(image), row)
        return attention(row)

    def require_attention(self) -> Callable[[np.ndarray], np.ndarray]:
        """What `attention` calls on a prepared image. Raises `UserError` where there is nothing to call."""
        if self._network.attention is None:
            raise UserError("attention is drawn from a checkpoint only: an exported file gives nothing but logits")
        return self._network.attention


def _load(path: Path, arch: str | None, device_target: str, device_id: int) -> Network:
    """Load a file by its kind; MindSpore, which takes seconds to import, only where it is needed."""
    if path.suffix.lower() == ONNX_SUFFIX:
        from src.prediction.onnx_network import load_onnx

        return load_onnx(path, device_target, device_id)
    if path.suffix.lower() == MINDIR_SUFFIX:
        from src.prediction.mindir_network import load_mindir_network

        return load_mindir_network(path, device_target, device_id)
    from src.prediction.checkpoint_network import load_checkpoint_network

    return load_checkpoint_network(path, arch, device_target, device_id)

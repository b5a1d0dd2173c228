"""The Python interface for predictions: `Predictor.from_file(path).predict(images)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.data.transforms import eval_transform
from src.errors import UserError
from src.model_info import ModelInfo
from src.prediction.batches import Source, image_batches

ONNX_SUFFIX = ".onnx"


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network makes of one image: `logits` float32 [num_classes]."""

    image: Source
    logits: np.ndarray

    @property
    def class_number(self) -> int:
        """The most probable class, the first one where several are."""
        return int(self.logits.argmax())


@dataclass(frozen=True, eq=False)
class Unreadable:
    """An image that could not be decoded, and why."""

    image: Source
    reason: str


class Predictor:
    """A network with what it takes to prepare images for it.

    Args:
        network: images float32 [B, 3, S, S], normalised -> logits float32 [B, num_classes].
        info: says how images are prepared; `info.class_names` names the classes, where they are known.
        batch_size: images per call of the network.
        num_workers: threads that read and resize images.
        fixed_batch: whether a short batch is filled up, for a network that is compiled for one size.
    """

    def __init__(
        self,
        network: Callable[[np.ndarray], np.ndarray],
        info: ModelInfo,
        *,
        batch_size: int,
        num_workers: int,
        fixed_batch: bool,
    ) -> None:
        self.info = info
        self._network = network
        self._batch_size, self._num_workers, self._fixed_batch = batch_size, num_workers, fixed_batch
        self._transform = eval_transform(
            image_size=info.image_size,
            crop_pct=info.crop_pct,
            mean=info.mean,
            std=info.std,
            interpolation=info.interpolation,
        )

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
        """A predictor of an exported ONNX file or of a checkpoint, in any format that the project reads.

        The file says how many classes there are and how images are prepared. ONNX files run in ONNX Runtime and import
        no MindSpore; a checkpoint makes `device_target` (CPU, GPU or Ascend) MindSpore's device for the whole process.
        Raises `UserError` for a file that cannot be used and for one of another architecture than `arch`.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"{path} does not exist: give a checkpoint or an ONNX file")
        is_onnx = path.suffix.lower() == ONNX_SUFFIX
        if is_onnx:
            from src.prediction.onnx_network import load_onnx

            network, info = load_onnx(path, device_target, device_id)
        else:  # imported only now, because MindSpore takes seconds to import and an ONNX file needs none
            from src.prediction.checkpoint_network import load_checkpoint_network

            network, info = load_checkpoint_network(path, arch, device_target, device_id)
        if arch is not None and arch != info.arch:
            raise UserError(f"{path} is a {info.arch}, not a {arch}: leave out --arch, or give its own")
        return Predictor(network, info, batch_size=batch_size, num_workers=num_workers, fixed_batch=not is_onnx)

    def predict(self, images: Iterable[Source]) -> Iterator[Prediction | Unreadable]:
        """What the network makes of each of `images` (files, Pillow images or uint8 arrays), in their order.

        Images are read while the network works, and results come batch by batch; memory does not grow with their
        number. An image that cannot be read gives an `Unreadable` in its place.
        """
        for batch in image_batches(images, self._transform, self._batch_size, self._num_workers):
            rows = self._batch_size if self._fixed_batch else len(batch.sources)
            logits = self._network(batch.image[:rows])
            for row, source in enumerate(batch.sources):
                if row in batch.reasons:
                    yield Unreadable(source, batch.reasons[row])
                else:
                    yield Prediction(source, logits[row])

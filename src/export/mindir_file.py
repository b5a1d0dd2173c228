"""MINDIR and AIR files: writing by MindSpore's exporter, and loading of MINDIR."""

from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np
from google.protobuf.message import DecodeError
from mindspore import Tensor, nn
from mindspore.train.mind_ir_pb2 import ModelProto

from src.errors import UserError
from src.export.metadata import to_metadata
from src.model.model_info import ModelInfo

AIR_BATCH = 1  # AIR has no dynamic shapes


def write_mindir(network: nn.Cell, info: ModelInfo, path: Path) -> None:
    """Write `network` (images float32 [batch, 3, S, S] -> logits) for any batch to `path`, which ends in `.mindir`.

    The metadata of `info` become MindSpore's `user_info`. MindSpore writes weights beyond 1 GB to the folder
    `<name>_variables`, which must stay beside the file. MindSpore can export a network only once.
    """

    def add_metadata(model: ModelProto) -> None:
        for name, text in to_metadata(info).items():
            model.user_info[name] = text

    image = Tensor(shape=[None, 3, info.model.image_size, info.model.image_size], dtype=ms.float32)
    ms.export(network, image, file_name=str(path.with_suffix("")), file_format="MINDIR", custom_func=add_metadata)
    # with weights beside it, MindSpore names the file <name>_graph.mindir; renaming it keeps the reference to them
    split = path.with_name(f"{path.stem}_graph.mindir")
    if split.exists():
        split.rename(path)


def mindir_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a MINDIR file of any program. Raises `UserError` for another kind of file."""
    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError:
        raise UserError(f"{path} cannot be loaded as a MINDIR file: export the checkpoint again") from None
    return dict(model.user_info)


def load_mindir(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Load the MINDIR file `path` to the current device. Raises `UserError` for a damaged file."""
    try:
        cell = nn.GraphCell(ms.load(str(path)))
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be loaded as a MINDIR file ({reason}): export the checkpoint again") from error

    def run(images: np.ndarray) -> np.ndarray:
        return cell(Tensor(images)).asnumpy()

    return run


def write_air(network: nn.Cell, image_size: int, path: Path) -> None:
    """Write `network` for a batch of one image to `path`, which ends in `.air`. Only the Ascend backend can."""
    image = Tensor(np.zeros((AIR_BATCH, 3, image_size, image_size), np.float32))
    ms.export(network, image, file_name=str(path.with_suffix("")), file_format="AIR")

"""Writing MINDIR and AIR files by MindSpore's own exporter, and running a MINDIR file again."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
from google.protobuf.message import DecodeError
from mindspore import Tensor, nn
from mindspore.train.mind_ir_pb2 import ModelProto

from src.errors import UserError
from src.export.check import Run
from src.export.metadata import to_metadata
from src.model.model_info import ModelInfo

# AIR has no dynamic shapes: Ascend's compiler wants each size fixed.
AIR_BATCH = 1


def write_mindir(network: nn.Cell, info: ModelInfo, path: Path) -> None:
    """Write `network` (images float32 [batch, 3, S, S] -> logits) for any batch to `path`, which ends on `.mindir`.

    The metadata of `info` go into the file, as MindSpore's `user_info`. Above 1 GB MindSpore puts the weights into the
    folder `<name>_variables` beside the file, which has to stay there. A network can be exported once (a limit of
    MindSpore's).
    """

    def add_metadata(model: ModelProto) -> None:
        for name, text in to_metadata(info).items():
            model.user_info[name] = text

    image = Tensor(shape=[None, 3, info.model.image_size, info.model.image_size], dtype=ms.float32)
    ms.export(network, image, file_name=str(path.with_suffix("")), file_format="MINDIR", custom_func=add_metadata)
    # with its weights apart MindSpore calls the graph <name>_graph.mindir; it finds them under any name of its own
    split = path.with_name(f"{path.stem}_graph.mindir")
    if split.exists():
        split.rename(path)


def mindir_metadata(path: Path) -> dict[str, str]:
    """The metadata of a MINDIR file, whoever wrote it. Raises `UserError` for a file that is none."""
    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError:
        raise UserError(f"{path} cannot be loaded as a MINDIR file: export the checkpoint again") from None
    return dict(model.user_info)


def load_mindir(path: Path) -> Run:
    """Load the MINDIR file `path` onto the current device. Raises `UserError` for a damaged one."""
    try:
        cell = nn.GraphCell(ms.load(str(path)))
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be loaded as a MINDIR file ({reason}): export the checkpoint again") from error

    def run(images: np.ndarray) -> np.ndarray:
        return cell(Tensor(images)).asnumpy()

    return run


def write_air(network: nn.Cell, image_size: int, path: Path) -> None:
    """Write `network` for a batch of one image to `path`, which ends on `.air`. Only Ascend's back end can do this."""
    image = Tensor(np.zeros((AIR_BATCH, 3, image_size, image_size), np.float32))
    ms.export(network, image, file_name=str(path.with_suffix("")), file_format="AIR")

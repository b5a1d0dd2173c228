"""Writing MINDIR and AIR files by MindSpore's own exporter, and running a MINDIR file again."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from src.export.check import Run

# AIR has no dynamic shapes: Ascend's compiler wants each size fixed.
AIR_BATCH = 1


def write_mindir(network: nn.Cell, image_size: int, path: Path) -> None:
    """Write `network` (images float32 [batch, 3, S, S] -> logits) for any batch to `path`, which ends on `.mindir`.

    Above 1 GB MindSpore puts the weights into the folder `<name>_variables` beside the file, which has to stay there.
    A network can be exported once (a limit of MindSpore's).
    """
    image = Tensor(shape=[None, 3, image_size, image_size], dtype=ms.float32)
    ms.export(network, image, file_name=str(path.with_suffix("")), file_format="MINDIR")
    # with its weights apart MindSpore calls the graph <name>_graph.mindir; it finds them under any name of its own
    split = path.with_name(f"{path.stem}_graph.mindir")
    if split.exists():
        split.rename(path)


def mindir_run(path: Path) -> Run:
    """Load the MINDIR file `path` onto the current device."""
    cell = nn.GraphCell(ms.load(str(path)))

    def run(images: np.ndarray) -> np.ndarray:
        return cell(Tensor(images)).asnumpy()

    return run


def write_air(network: nn.Cell, image_size: int, path: Path) -> None:
    """Write `network` for a batch of one image to `path`, which ends on `.air`. Only Ascend's back end can do this."""
    image = Tensor(np.zeros((AIR_BATCH, 3, image_size, image_size), np.float32))
    ms.export(network, image, file_name=str(path.with_suffix("")), file_format="AIR")

"""Running a checkpoint by MindSpore."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from mindspore import Tensor

from src.device import start_device
from src.model_info import ModelInfo
from src.rebuild import rebuild_network
from src.weights.pretrained import load_pretrained


def load_checkpoint_network(
    path: Path, arch: str | None, device_target: str, device_id: int
) -> tuple[Callable[[np.ndarray], np.ndarray], ModelInfo]:
    """Load a checkpoint of any format that `load_pretrained` reads onto a device, which becomes the process's own.

    Gives the network and what the file says of itself. The network takes images float32 [B, 3, S, S], normalised, and
    gives logits float32 [B, num_classes]; it is compiled anew for each B. Raises `UserError` for an unreadable file,
    one of another architecture than `arch`, one without a head, and a device that is not there.
    """
    checkpoint = load_pretrained(path, arch=arch)
    start_device(device_target, device_id, pynative=False)
    network = rebuild_network(checkpoint.info, checkpoint.weights, path)

    def run(images: np.ndarray) -> np.ndarray:
        return network(Tensor(images)).asnumpy()

    return run, checkpoint.info

"""Running a checkpoint by MindSpore."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mindspore import Tensor

from src.prediction.last_attention import last_attention
from src.prediction.loaded_network import Network
from src.runtime.device import start_device
from src.weights.pretrained import load_pretrained
from src.weights.rebuild import rebuild_network


def load_checkpoint_network(path: Path, arch: str | None, device_target: str, device_id: int) -> Network:
    """Load a checkpoint of any format that `load_pretrained` reads onto a device, which becomes the process's own.

    Raises `UserError` for an unreadable file, one of another architecture than `arch`, one without a head, and a
    device that is not there.
    """
    checkpoint = load_pretrained(path, arch=arch)
    start_device(device_target, device_id, pynative=False)
    network = rebuild_network(checkpoint.info, checkpoint.weights, path)

    def run(images: np.ndarray) -> np.ndarray:
        return network(Tensor(images)).asnumpy()

    def attention(image: np.ndarray) -> np.ndarray:
        return last_attention(network, image)

    return Network(run, checkpoint.info, fixed_batch=True, attention=attention)

"""Checkpoints and exported MINDIR files, run by MindSpore."""

from functools import partial
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor

from src.export.metadata import from_metadata
from src.export.mindir_file import load_mindir, mindir_metadata
from src.prediction.loaded_network import Network
from src.runtime.device import start_device
from src.vit import VisionTransformer
from src.weights.pretrained import load_pretrained
from src.weights.rebuild import rebuild_network

CLASS_TOKEN, FIRST_PATCH = 0, 1


def load_mindspore(path: Path, arch: str | None, device_target: str, device_id: int) -> Network:
    """Load a MINDIR file, or a checkpoint in any format of `load_pretrained`, onto the only device of this process.

    Raises `UserError` for a damaged or foreign file, another architecture than `arch`, a checkpoint without a head, and
    a missing device.
    """
    if path.suffix.lower() == ".mindir":
        info = from_metadata(mindir_metadata(path), str(path))
        start_device(device_target, device_id, pynative=False)
        return Network(load_mindir(path), info, fixed_batch=True)
    checkpoint = load_pretrained(path, arch=arch)
    start_device(device_target, device_id, pynative=False)
    network = rebuild_network(checkpoint.info, checkpoint.weights, path)

    def run(images: np.ndarray) -> np.ndarray:
        return network(Tensor(images)).asnumpy()

    return Network(run, checkpoint.info, fixed_batch=True, attention=partial(last_attention, network))


def last_attention(network: VisionTransformer, image: np.ndarray) -> np.ndarray:
    """Return the attention to each patch in the last block, float32 [grid, grid], for `image` float32 [3, S, S].

    The mean over the heads and over the queries that are classified: the patch tokens if they are pooled, the class
    token otherwise. The values sum to 1 minus the attention to the class token. Runs operator by operator, because
    compiling takes longer than one image.
    """
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        shared_bias = None if network.rel_pos_bias is None else network.rel_pos_bias()
        x = network.embed(Tensor(image[None]), None)
        *others, last = network.blocks
        for block in others:
            x = block(x, shared_bias)
        q, k, _ = last.attn.queries_keys_values(last.norm1(x))
        probabilities = last.attn.probabilities(q, k, shared_bias).asnumpy()[0]
    finally:
        ms.set_context(mode=mode)
    queries = slice(FIRST_PATCH, None) if network.mean_pooling else slice(CLASS_TOKEN, FIRST_PATCH)
    grid = network.patch_embed.grid
    return probabilities[:, queries, FIRST_PATCH:].mean(axis=(0, 1)).reshape(grid, grid)

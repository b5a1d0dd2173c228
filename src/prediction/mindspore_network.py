"""Checkpoints and exported MINDIR files, run by MindSpore."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor

from src.export.metadata import from_metadata
from src.export.mindir_file import load_mindir, mindir_metadata
from src.prediction.loaded_network import Network
from src.runtime.device import start_device
from src.runtime.graph_cache import compile_network
from src.vit import VisionTransformer
from src.weights.checkpoint import Checkpoint
from src.weights.rebuild import rebuild_network

CLASS_TOKEN, FIRST_PATCH = 0, 1


def load_mindir_file(path: Path, device_target: str, device_id: int) -> Network:
    """Load a MINDIR file onto the only device of this process.

    Raises `UserError` for a damaged or foreign file and a missing device.
    """
    info = from_metadata(mindir_metadata(path), str(path))
    start_device(device_target, device_id, pynative=False)
    return Network(load_mindir(path), info, fixed_batch=True)


def network_of(
    checkpoint: Checkpoint, path: Path, device_target: str, device_id: int, compiled_batch: int | None
) -> Network:
    """Build the network of a checkpoint, read from `path`, on the only device of this process.

    It is compiled for batches of `compiled_batch` images, or with None run operator by operator. Raises `UserError` for
    a checkpoint without a head and a missing device.
    """
    start_device(device_target, device_id, pynative=False)
    info = checkpoint.info
    network = rebuild_network(info, checkpoint.weights, path)
    if compiled_batch is not None:
        compile_network(network, info.model, compiled_batch)

    def run(images: np.ndarray) -> np.ndarray:
        if compiled_batch is not None:
            return network(Tensor(images)).asnumpy()
        with operator_by_operator():
            return network(Tensor(images)).asnumpy()

    return Network(run, info, fixed_batch=compiled_batch is not None, attention=partial(last_attention, network))


def last_attention(network: VisionTransformer, image: np.ndarray) -> np.ndarray:
    """Return the attention to each patch in the last block, float32 [grid, grid], for `image` float32 [3, S, S].

    The mean over the heads and over the queries that are classified: the patch tokens if they are pooled, the class
    token otherwise. The values sum to 1 minus the attention to the class token. Runs operator by operator, because
    compiling takes longer than one image.
    """
    with operator_by_operator():
        shared_bias = None if network.rel_pos_bias is None else network.rel_pos_bias()
        x = network.embed(Tensor(image[None]), None)
        *others, last = network.blocks
        for block in others:
            x = block(x, shared_bias)
        q, k, _ = last.attn.queries_keys_values(last.norm1(x))
        probabilities = last.attn.probabilities(q, k, shared_bias).asnumpy()[0]
    queries = slice(FIRST_PATCH, None) if network.mean_pooling else slice(CLASS_TOKEN, FIRST_PATCH)
    grid = network.patch_embed.grid
    return probabilities[:, queries, FIRST_PATCH:].mean(axis=(0, 1)).reshape(grid, grid)


@contextmanager
def operator_by_operator() -> Iterator[None]:
    """Let MindSpore run operators one by one inside the block, without compiling a graph."""
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        yield
    finally:
        ms.set_context(mode=mode)

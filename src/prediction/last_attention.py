"""What a BEiT looks at: the attention of its last block from the tokens that are classified."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor

from src.vit import VisionTransformer

CLASS_TOKEN, FIRST_PATCH = 0, 1


def last_attention(network: VisionTransformer, image: np.ndarray) -> np.ndarray:
    """How much each patch is attended to in the last block, float32 [grid, grid], for `image` float32 [3, S, S].

    The mean over the heads and over the queries that the classification is made of: the patch tokens where these are
    pooled, the class token otherwise. The values sum to 1 less what goes to the class token. It runs operator by
    operator, since compiling takes longer than one image.
    """
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        probabilities = _last_probabilities(network, Tensor(image[None])).asnumpy()[0]
    finally:
        ms.set_context(mode=mode)
    queries = slice(FIRST_PATCH, None) if network.mean_pooling else slice(CLASS_TOKEN, FIRST_PATCH)
    grid = network.patch_embed.grid
    return probabilities[:, queries, FIRST_PATCH:].mean(axis=(0, 1)).reshape(grid, grid)


def _last_probabilities(network: VisionTransformer, image: Tensor) -> Tensor:
    """[1, 3, S, S] -> attention of the last block [1, heads, N, N]."""
    shared_bias = None if network.rel_pos_bias is None else network.rel_pos_bias()
    x = network.embed(image, None)
    *others, last = network.blocks
    for block in others:
        x = block(x, shared_bias)
    q, k, _ = last.attn.queries_keys_values(last.norm1(x))
    return last.attn.probabilities(q, k, shared_bias)

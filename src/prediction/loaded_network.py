"""A network loaded from a file, whichever program runs it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from src.model.model_info import ModelInfo


@dataclass(frozen=True)
class Network:
    """The functions and facts of a loaded file that a `Predictor` needs.

    `run` maps images [B, ...] to logits float32 [B, num_classes]. The images are normalized float32 [B, 3, S, S], or
    with `takes_pixels` uint8 [B, S, S, 3] that are only resized and cropped. With `fixed_batch`, each other B is
    compiled anew. `attention` maps one image to the attention of the last block from the pooled tokens to each patch,
    float32 [patches, patches]; None for an exported file.
    """

    run: Callable[[np.ndarray], np.ndarray]
    info: ModelInfo
    fixed_batch: bool = False
    takes_pixels: bool = False
    attention: Callable[[np.ndarray], np.ndarray] | None = None

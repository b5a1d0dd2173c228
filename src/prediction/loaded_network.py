"""A network that is loaded from a file, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from src.model.model_info import ModelInfo


@dataclass(frozen=True)
class Network:
    """What `src.prediction.predictor` needs of a loaded file.

    `run` takes images [B, ...] and gives logits float32 [B, num_classes]. The images are float32 [B, 3, S, S],
    normalized, or with `takes_pixels` uint8 [B, S, S, 3], resized and cropped only. `fixed_batch` says that every other
    B is compiled anew. `attention`, where the file's inside can be reached, takes one image and gives how much the
    pooled tokens attend to each patch in the last block, float32 [patches, patches].
    """

    run: Callable[[np.ndarray], np.ndarray]
    info: ModelInfo
    fixed_batch: bool = False
    takes_pixels: bool = False
    attention: Callable[[np.ndarray], np.ndarray] | None = None

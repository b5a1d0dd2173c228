"""The authors' schedule and parameter groups for PyTorch, after unilm's beit/utils.py and optim_factory.py.

The MindSpore side uses src/tools; the two implementations share no code.
"""

from __future__ import annotations

import math

from torch import nn


def cosine_schedule(base: float, last: float, first: float, warmup_steps: int, steps: int) -> list[float]:
    """Return the learning rate of every step: linear from `first` to `base`, then half a cosine to `last`."""
    rise = [first + (base - first) * step / max(warmup_steps - 1, 1) for step in range(warmup_steps)]
    left = steps - warmup_steps
    return rise + [last + (base - last) * (1 + math.cos(math.pi * step / left)) / 2 for step in range(left)]


def layer_of(name: str, depth: int) -> int:
    """Return the layer of a parameter: 0 for the embeddings, `depth` + 1 for the head."""
    if name == "cls_token" or name == "pos_embed" or name.startswith("patch_embed."):
        return 0
    if name.startswith("blocks."):
        return int(name.split(".", 2)[1]) + 1
    return depth + 1


def parameter_groups(model: nn.Module, depth: int, weight_decay: float, layer_decay: float) -> list[dict]:
    """Return one group per parameter with `lr_scale` and `weight_decay`; vectors and embeddings do not decay."""
    groups = []
    for name, parameter in model.named_parameters():
        decays = parameter.ndim > 1 and name not in ("cls_token", "pos_embed")
        scale = layer_decay ** (depth + 1 - layer_of(name, depth))
        groups.append(
            {"params": [parameter], "lr_scale": scale, "weight_decay": weight_decay if decays else 0.0, "name": name}
        )
    return groups

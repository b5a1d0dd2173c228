"""The authors' schedule and parameter groups, written anew for PyTorch from unilm's beit/utils.py and optim_factory.py.

The other half of the comparison has its own (src/tools): the two share no line.
"""

from __future__ import annotations

import math

from torch import nn


def cosine_schedule(base: float, last: float, first: float, warmup_steps: int, steps: int) -> list[float]:
    """The learning rate of every step: `warmup_steps` from `first` up to `base`, then half a cosine towards `last`."""
    rise = [first + (base - first) * step / max(warmup_steps - 1, 1) for step in range(warmup_steps)]
    left = steps - warmup_steps
    return rise + [last + (base - last) * (1 + math.cos(math.pi * step / left)) / 2 for step in range(left)]


def layer_of(name: str, depth: int) -> int:
    """The layer that a parameter counts to: 0 is the input, `depth` + 1 the head."""
    if name == "cls_token" or name == "pos_embed" or name.startswith("patch_embed."):
        return 0
    if name.startswith("blocks."):
        return int(name.split(".", 2)[1]) + 1
    return depth + 1


def parameter_groups(model: nn.Module, depth: int, weight_decay: float, layer_decay: float) -> list[dict]:
    """A group per parameter, with its `lr_scale` and its `weight_decay`: none for vectors and the embeddings."""
    groups = []
    for name, parameter in model.named_parameters():
        decays = parameter.ndim > 1 and name not in ("cls_token", "pos_embed")
        scale = layer_decay ** (depth + 1 - layer_of(name, depth))
        groups.append(
            {"params": [parameter], "lr_scale": scale, "weight_decay": weight_decay if decays else 0.0, "name": name}
        )
    return groups

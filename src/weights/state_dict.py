"""Where in a PyTorch file the weights are: training scripts wrap them in dicts, each in its own way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.weights.torch_pickle import LazyTensor, Namespace

# In this order: the authors' scripts (`model`, DeepSpeed's `module`), timm's and Lightning's.
WRAPPERS = ("model", "module", "state_dict")
EMA_WRAPPERS = ("model_ema", "state_dict_ema", "ema")

# One in another; a limit, because a pickle can hold a dict that holds itself.
MAX_WRAPPERS = 4

# DistributedDataParallel puts this before every name.
PARALLEL_PREFIX = "module."


def find_state_dict(content: Any, ema: bool, path: Path) -> dict[str, LazyTensor]:
    """Names and tensors of the weights in what a file holds: the averaged ones with `ema`, else the raw ones.

    Raises `UserError` where there are none, or something that is no tensor stands among them.
    """
    found = content
    if ema:
        found = next((found[key] for key in EMA_WRAPPERS if isinstance(found, dict) and key in found), None)
        if found is None:
            raise UserError(f"{path} holds no averaged weights ({' or '.join(EMA_WRAPPERS)}): leave out --ema")
    for _ in range(MAX_WRAPPERS):
        inner = [found[key] for key in WRAPPERS if isinstance(found, dict) and isinstance(found.get(key), dict)]
        found = inner[0] if inner else found
    if not isinstance(found, dict) or not any(isinstance(value, LazyTensor) for value in found.values()):
        hint = "; it holds averaged ones: use --ema" if _holds_ema(content) else ": give a checkpoint or a state dict"
        raise UserError(f"{path} holds no weights under {', '.join(WRAPPERS)} or at its top{hint}")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, LazyTensor):
            raise UserError(f"{path}: '{name}' stands among the weights and is no tensor: save the state dict alone")
    if all(name.startswith(PARALLEL_PREFIX) for name in found):
        found = {name.removeprefix(PARALLEL_PREFIX): value for name, value in found.items()}
    return dict(found)


def script_arguments(content: Any) -> Mapping[str, Any]:
    """The command line of the training that wrote the file, where it is in it (the authors' scripts put it there)."""
    arguments = content.get("args") if isinstance(content, dict) else None
    return arguments if isinstance(arguments, Namespace) else {}


def _holds_ema(content: Any) -> bool:
    return isinstance(content, dict) and any(key in content for key in EMA_WRAPPERS)

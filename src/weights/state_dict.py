"""The state dict inside a PyTorch file: training scripts wrap it in dicts, each in its own way."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.weights.pickle_machine import Namespace
from src.weights.torch_pickle import LazyTensor

# In this order: the authors' scripts (`model`, DeepSpeed's `module`), timm and Lightning.
WRAPPERS = ("model", "module", "state_dict")
EMA_WRAPPERS = ("model_ema", "state_dict_ema", "ema")

MAX_WRAPPERS = 4  # nested; a limit because a pickled dict can contain itself

PARALLEL_PREFIX = "module."  # DistributedDataParallel adds it to every name


def find_state_dict(content: Any, ema: bool, path: Path) -> dict[str, LazyTensor]:
    """Return the tensors by name from the content of a file: the averaged ones with `ema`, else the raw ones.

    Raises `UserError` where there are none, or where they include something other than tensors.
    """
    found = content
    if ema:
        found = next((found[key] for key in EMA_WRAPPERS if isinstance(found, dict) and key in found), None)
        if found is None:
            raise UserError(f"{path} has no averaged weights ({' or '.join(EMA_WRAPPERS)}): leave out --ema")
    for _ in range(MAX_WRAPPERS):
        inner = [found[key] for key in WRAPPERS if isinstance(found, dict) and isinstance(found.get(key), dict)]
        found = inner[0] if inner else found
    if not isinstance(found, dict) or not any(isinstance(value, LazyTensor) for value in found.values()):
        has_ema = isinstance(content, dict) and any(key in content for key in EMA_WRAPPERS)
        fix = "it has averaged ones, use --ema" if has_ema else "give a checkpoint or a state dict"
        raise UserError(f"{path} has no weights under {', '.join(WRAPPERS)} or at the top level: {fix}")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, LazyTensor):
            raise UserError(f"{path}: '{name}' is among the weights and is not a tensor: save the state dict alone")
    if all(name.startswith(PARALLEL_PREFIX) for name in found):
        found = {name.removeprefix(PARALLEL_PREFIX): value for name, value in found.items()}
    return dict(found)


def script_arguments(content: Any) -> Mapping[str, Any]:
    """Return the command line of the training script where the file has one, as the authors' checkpoints do."""
    arguments = content.get("args") if isinstance(content, dict) else None
    return arguments if isinstance(arguments, Namespace) else {}

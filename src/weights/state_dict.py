"""The state dict inside a PyTorch file: training scripts wrap it in dicts, each in its own way."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.weights.pickle_machine import Module, Namespace
from src.weights.torch_pickle import LazyTensor

# In this order: the authors' scripts (`model`, DeepSpeed's `module`), timm and Lightning.
WRAPPERS = ("model", "module", "state_dict")
EMA_WRAPPERS = ("model_ema", "state_dict_ema", "ema")

MAX_WRAPPERS = 4  # nested; a limit because a pickled dict can contain itself

MAX_MODULES = 1000  # of a pickled network; DALL-E has 110

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


def module_tensors(module: Module, path: Path) -> dict[str, LazyTensor]:
    """Return the parameters of a pickled network by their names in its state dict.

    Raises `UserError` for a network of more modules than any tokenizer has, or one that contains itself.
    """
    found: dict[str, LazyTensor] = {}
    waiting, visited = [("", module)], 0
    while waiting:
        prefix, inner = waiting.pop()
        visited += 1
        if visited > MAX_MODULES:
            raise UserError(f"{path} has more than the limit of {MAX_MODULES} modules: give DALL-E's encoder.pkl")
        parameters, modules = inner.get("_parameters"), inner.get("_modules")
        for name, tensor in parameters.items() if isinstance(parameters, dict) else ():
            if isinstance(name, str) and isinstance(tensor, LazyTensor):
                found[f"{prefix}{name}"] = tensor
        for name, child in modules.items() if isinstance(modules, dict) else ():
            if isinstance(name, str) and isinstance(child, Module):
                waiting.append((f"{prefix}{name}.", child))
    return found


def script_arguments(content: Any) -> Mapping[str, Any]:
    """Return the command line of the training script where the file has one, as the authors' checkpoints do."""
    arguments = content.get("args") if isinstance(content, dict) else None
    return arguments if isinstance(arguments, Namespace) else {}

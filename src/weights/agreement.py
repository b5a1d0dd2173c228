"""Whether the options of a run agree with what a checkpoint says of itself. Imports no MindSpore."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.model.model_info import ModelInfo

# The option that sets a field, where it has another name.
OPTION_NAMES = {
    "mean": "imagenet_default_mean_and_std (mean)",
    "std": "imagenet_default_mean_and_std (std)",
    "approximate_gelu": "disable_approximate_gelu",
    "layer_scale": "layer_scale_init_value",
}
# Not compared: no option states them.
WITHOUT_OPTION = ("class_names", "interpolation")


def agreed_info(info: ModelInfo, guessed: Iterable[str], wanted: ModelInfo, path: Path) -> ModelInfo:
    """`info` of the checkpoint `path`, with the fields that the file left open as `wanted` has them.

    Args:
        info: what the checkpoint says of itself.
        guessed: names of the fields that it does not say (`Checkpoint.guessed`).
        wanted: the same as the options of the run say it.

    Raises `UserError`, naming both values of each, where `wanted` contradicts what the checkpoint says, and for a
    checkpoint without a head.
    """
    require_head(info, path)
    compared = [field.name for field in fields(ModelInfo) if field.name not in WITHOUT_OPTION]
    open_fields = {name: getattr(wanted, name) for name in compared if name in set(guessed)}
    pairs = [(name, getattr(wanted, name), getattr(info, name)) for name in compared if name not in open_fields]
    wrong = [_contradiction(name, given, stated) for name, given, stated in pairs if given != stated]
    if wrong:
        raise UserError(f"the options contradict {path}: {'; '.join(wrong)}: change the options, or leave the file")
    return replace(info, **open_fields)


def require_head(info: ModelInfo, path: Path) -> None:
    """Raise `UserError` for a self-supervised checkpoint, which has nothing to classify with."""
    if not info.num_classes:
        raise UserError(f"{path} has no classification head: fine-tune it with train.py first")


def _contradiction(name: str, given: Any, stated: Any) -> str:
    """Both values, in the words of the option."""
    if name == "approximate_gelu":  # the option asks for the opposite
        given, stated = not given, not stated
    if name == "layer_scale":
        given, stated = (f"{'above 0' if value else 0}" for value in (given, stated))
    return f"{OPTION_NAMES.get(name, name)} is {_shown(given)} in the options and {_shown(stated)} in the file"


def _shown(value: Any) -> str:
    return ", ".join(f"{number:g}" for number in value) if isinstance(value, tuple) else str(value)

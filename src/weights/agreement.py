"""Agreement between the options of a run and the information that a checkpoint stores. Imports no MindSpore."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.model.model_info import ALL_FIELDS, ModelInfo

# Options whose name differs from the field's.
OPTION_NAMES = {
    "mean": "imagenet_default_mean_and_std (mean)",
    "std": "imagenet_default_mean_and_std (std)",
    "approximate_gelu": "disable_approximate_gelu",
    "layer_scale": "layer_scale_init_value",
}
# Fields of parameters that only pre-training uses.
PRETRAINING = ("lm_head_outputs", "early_layers", "head_layers")
# Fields without an option: the checkpoint's value counts.
WITHOUT_OPTION = ("class_names", "interpolation", "crop_mode", "layer_norm_eps", *PRETRAINING)


def agreed_info(info: ModelInfo, guessed: Iterable[str], wanted: ModelInfo, path: Path) -> ModelInfo:
    """Return `info` of the checkpoint `path`, with the fields that the file does not store taken from `wanted`.

    Args:
        info: read from the checkpoint.
        guessed: names of the fields that are not stored in the file (`Checkpoint.guessed`).
        wanted: the information that the options of the run give.

    Raises `UserError`, naming both values of each field that differs, and for a checkpoint without a head.
    """
    require_head(info, path)
    options, stored = wanted.to_dict(), info.to_dict()
    compared = [name for name in ALL_FIELDS if name not in WITHOUT_OPTION]
    not_stored = {name: options[name] for name in compared if name in set(guessed)}
    wrong = [
        _contradiction(name, options[name], stored[name])
        for name in compared
        if name not in not_stored and options[name] != stored[name]
    ]
    if wrong:
        raise UserError(
            f"the options contradict {path}: {'; '.join(wrong)}: change these options, or give another checkpoint"
        )
    return ModelInfo.from_dict(stored | not_stored)


def require_head(info: ModelInfo, path: Path) -> None:
    """Raise `UserError` for a checkpoint without a classification head, such as a self-supervised one."""
    if not info.model.num_classes:
        raise UserError(f"{path} has no classification head: fine-tune it with train.py first")


def _contradiction(name: str, given: Any, stated: Any) -> str:
    """Describe both values in terms of the option."""
    if name == "approximate_gelu":  # the option asks for the opposite
        given, stated = not given, not stated
    if name == "layer_scale":
        given, stated = (f"{'above 0' if value else 0}" for value in (given, stated))
    return f"{OPTION_NAMES.get(name, name)} is {_shown(given)} in the options and {_shown(stated)} in the file"


def _shown(value: Any) -> str:
    return ", ".join(f"{number:g}" for number in value) if isinstance(value, tuple) else str(value)

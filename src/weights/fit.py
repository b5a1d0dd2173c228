"""Fitting a checkpoint's weights to a network, as the authors load a checkpoint for fine-tuning."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.errors import UserError
from src.weights.names import SHARED_TABLE, TABLE, is_pretraining_only
from src.weights.resize import SMALLEST_GRID, resize_bias_table, resize_pos_embed
from src.weights.sizes import Shape, grid_of_table

LOADED, RESIZED, LEFT_OUT, KEPT = "loaded", "resized", "left out", "initial value kept"
ACTIONS = (LOADED, RESIZED, LEFT_OUT, KEPT)

# What may differ between pre-training and fine-tuning: the head and the norm before it.
_HEAD = ("head.weight", "head.bias")
_LAST_NORM = ("norm.weight", "norm.bias", "fc_norm.weight", "fc_norm.bias")

_BLOCK_TABLE = re.compile(rf"blocks\.\d+\.attn\.{TABLE}")


@dataclass(frozen=True)
class ReportRow:
    """What became of one parameter: one of `ACTIONS`, and why (may be empty)."""

    action: str
    name: str
    reason: str = ""


@dataclass(frozen=True)
class LoadReport:
    """What became of every parameter of a checkpoint and of a network."""

    rows: tuple[ReportRow, ...]

    def names(self, action: str) -> list[str]:
        """The parameters that `action` happened to."""
        return [row.name for row in self.rows if row.action == action]

    def table(self) -> str:
        """A short table for people: a line per action and reason, blocks taken together as `blocks.*`."""
        groups: dict[tuple[str, str], list[str]] = {}
        for row in sorted(self.rows, key=lambda row: ACTIONS.index(row.action)):
            groups.setdefault((row.action, row.reason), []).append(row.name)
        lines = []
        for (action, reason), names in groups.items():
            what = reason if action == LOADED else _short(names) + (f": {reason}" if reason else "")
            lines.append(f"{action:<18} {len(names):>4}  {what}".rstrip())
        return "\n".join(lines)


def fit_weights(
    weights: Mapping[str, np.ndarray], shapes: Mapping[str, Shape], origin: Path | str
) -> tuple[dict[str, np.ndarray], LoadReport]:
    """Make a checkpoint's weights those of a network that is to be fine-tuned.

    A head of another size and what only pre-training uses are left out; a bias table shared by all blocks is copied
    into each block; bias tables and the position embedding are resized to the network's image size; the norm before
    the head keeps its initial value where the checkpoint has the other kind (`norm` of a pre-trained one, `fc_norm` of
    a classifier with mean pooling). Source: unilm `beit/run_class_finetuning.py`, where everything else that does not
    match is passed over with a line of print; here it is an error.

    Args:
        weights: of the checkpoint, under the authors' names.
        shapes: of every parameter of the network.
        origin: the file, for messages.

    Returns:
        The values for the network's parameters (those with their initial value kept are not among them), float32, and
        the report.

    Raises `UserError`, naming the first offending parameter, for a checkpoint of another architecture or with other
    options, and for one that matches nothing.
    """
    if not set(weights) & set(shapes):
        first = next(iter(weights), "nothing")
        raise UserError(f"{origin} matches nothing of the network (its first parameter is '{first}'): give a BEiT")
    weights, copied = _copy_shared_table(weights, shapes)
    fitted: dict[str, np.ndarray] = {}
    rows: list[ReportRow] = []
    for name, shape in shapes.items():
        row, value = _fit_one(name, tuple(shape), weights, name in copied, origin)
        rows.append(row)
        if value is not None:
            fitted[name] = value
    for name in weights:
        if name not in shapes:
            rows.append(_left_out(name, origin))
    for name in _HEAD:
        if name in weights and name in shapes and name not in fitted:
            rows.append(ReportRow(LEFT_OUT, name, _classes(weights["head.weight"].shape, shapes["head.weight"])))
    return fitted, LoadReport(tuple(rows))


def match_weights(
    weights: Mapping[str, np.ndarray], shapes: Mapping[str, Shape], origin: Path | str
) -> dict[str, np.ndarray]:
    """The network's parameters out of a checkpoint that is to be evaluated as it is: every one there, of its shape.

    Raises `UserError`, naming the first parameter that is not.
    """
    if "head.weight" in shapes and "head.weight" not in weights:
        raise UserError(
            f"{origin} is a pre-training checkpoint without a head: fine-tune it first (train.py --pretrained)"
        )
    for name, shape in shapes.items():
        if name not in weights:
            raise UserError(f"{origin} has no parameter '{name}', which the network has: {_advice(name)}")
        if weights[name].shape != tuple(shape):
            raise _shape_error(name, weights[name].shape, tuple(shape), origin)
    for name in weights:
        if name not in shapes and not is_pretraining_only(name):
            raise UserError(f"{origin} has a parameter '{name}', which the network lacks: {_advice(name)}")
    return {name: np.asarray(weights[name], np.float32) for name in shapes}


def _copy_shared_table(
    weights: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]
) -> tuple[dict[str, np.ndarray], set[str]]:
    """Where the network has a table in every block and the checkpoint one for all: a copy for each block.

    Returns the weights and the names of the copies. A shared table that the network has besides keeps its initial
    zeros, as with the authors: the bias would count twice.
    """
    tables = [name for name in shapes if _BLOCK_TABLE.fullmatch(name)]
    if not tables or SHARED_TABLE not in weights:
        return dict(weights), set()
    rest = {name: array for name, array in weights.items() if name != SHARED_TABLE}
    return rest | dict.fromkeys(tables, weights[SHARED_TABLE]), set(tables)


def _fit_one(
    name: str, shape: Shape, weights: Mapping[str, np.ndarray], copied: bool, origin: Path | str
) -> tuple[ReportRow, np.ndarray | None]:
    """The report's row for one parameter of the network, and its value (None: it keeps the initial one)."""
    if name not in weights:
        if name in _HEAD or name in _LAST_NORM:
            return ReportRow(KEPT, name, "not in the checkpoint"), None
        if name == SHARED_TABLE and any(_BLOCK_TABLE.fullmatch(other) for other in weights):
            return ReportRow(KEPT, name, "its values went into the blocks"), None
        raise UserError(f"{origin} has no parameter '{name}', which the network has: {_advice(name)}")
    value = np.asarray(weights[name], np.float32)
    reason = "copies of the table shared by all blocks" if copied else ""
    if value.shape == shape:
        return ReportRow(LOADED, name, reason), value
    if name in _HEAD and value.shape[1:] == shape[1:]:
        return ReportRow(KEPT, name, "the checkpoint's is of another size"), None
    resized = _resize(name, value, shape)
    if resized is None:
        raise _shape_error(name, value.shape, shape, origin)
    size = f"{_side(name, value.shape)} to {_side(name, shape)} patches along a side"
    return ReportRow(RESIZED, name, ", ".join(filter(None, (reason, size)))), resized


def _resize(name: str, value: np.ndarray, shape: Shape) -> np.ndarray | None:
    """A position table for the image size that `shape` is for; None where size is not all that differs."""
    if value.ndim != len(shape) or value.shape[-1] != shape[-1]:
        return None
    if name.endswith(TABLE) and grid_of_table(len(value)) >= SMALLEST_GRID:
        return resize_bias_table(value, grid_of_table(shape[0]))
    if name == "pos_embed":
        return resize_pos_embed(value, _side(name, shape))
    return None


def _side(name: str, shape: Shape) -> int:
    return grid_of_table(shape[0]) if name.endswith(TABLE) else round((shape[1] - 1) ** 0.5)


def _left_out(name: str, origin: Path | str) -> ReportRow:
    """The row for a parameter that the network has no place for; `UserError` where it ought to."""
    if is_pretraining_only(name):
        return ReportRow(LEFT_OUT, name, "for pre-training only")
    if name in _LAST_NORM:
        return ReportRow(LEFT_OUT, name, "the network pools in another way")
    raise UserError(f"{origin} has a parameter '{name}', which the network lacks: {_advice(name)}")


def _advice(name: str) -> str:
    """What to do when only one of checkpoint and network has a parameter of this name."""
    if name.endswith(("gamma_1", "gamma_2")):
        return "make layer_scale_init_value 0 if the checkpoint has no layer scale, above 0 if it has"
    if name.endswith(TABLE):
        return "set rel_pos_bias to what the checkpoint has"
    if name == "pos_embed":
        return "set abs_pos_emb to what the checkpoint has"
    if name in _LAST_NORM:
        return "set mean_pooling to what the checkpoint has"
    return "choose the arch of the checkpoint"


def _shape_error(name: str, found: Shape, wanted: Shape, origin: Path | str) -> UserError:
    return UserError(
        f"{origin} is of another architecture: parameter '{name}' has shape {found}, the network's {wanted}; "
        "choose the arch and patch size of the checkpoint"
    )


def _classes(found: Shape, wanted: Shape) -> str:
    return f"for {found[0]} classes, the network has {wanted[0]}"


def _short(names: list[str]) -> str:
    """Names with block numbers replaced by a star, each once, at most four."""
    short = list(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names))
    return ", ".join(short[:4]) + (f" and {len(short) - 4} more" if len(short) > 4 else "")

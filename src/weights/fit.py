"""Weights of a checkpoint fitted to a network for fine-tuning, as the authors' script does."""

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

# Parameters that may differ between two networks: a head, and between pre-training and fine-tuning the norm before it.
_HEAD = ("head.weight", "head.bias", "lm_head.weight", "lm_head.bias")
_LAST_NORM = ("norm.weight", "norm.bias", "fc_norm.weight", "fc_norm.bias")

_BLOCK_TABLE = re.compile(rf"blocks\.\d+\.attn\.{TABLE}")


@dataclass(frozen=True)
class ReportRow:
    """The action (one of `ACTIONS`) for one parameter, and its reason (may be empty)."""

    action: str
    name: str
    reason: str = ""


@dataclass(frozen=True)
class LoadReport:
    """The actions for all parameters of a checkpoint and of a network."""

    rows: tuple[ReportRow, ...]

    def table(self) -> str:
        """Return a table with a line per action and reason; blocks are joined as `blocks.*`."""
        groups: dict[tuple[str, str], list[str]] = {}
        for row in sorted(self.rows, key=lambda row: ACTIONS.index(row.action)):
            groups.setdefault((row.action, row.reason), []).append(row.name)
        lines = []
        for (action, reason), names in groups.items():
            text = reason if action == LOADED else _short(names) + (f": {reason}" if reason else "")
            lines.append(f"{action:<18} {len(names):>4}  {text}".rstrip())
        return "\n".join(lines)


def fit_weights(
    weights: Mapping[str, np.ndarray], shapes: Mapping[str, Shape], origin: Path | str
) -> tuple[dict[str, np.ndarray], LoadReport]:
    """Fit the weights of a checkpoint to a network that is to be fine-tuned, or pre-trained further.

    A head of another size is left out, and for fine-tuning so are parameters that only pre-training uses. A bias table
    shared by all blocks is copied to each block. Bias tables and the position embedding are resized to the network's
    image size. The norm before the head keeps its initial value where the checkpoint has the other one (`norm` of a
    pre-trained network, `fc_norm` of a classifier with mean pooling). Every other mismatch is an error.
    Source: unilm `beit/run_class_finetuning.py`, which prints and ignores other mismatches.

    Args:
        weights: of the checkpoint, under the authors' names.
        shapes: of every parameter of the network.
        origin: the file, for messages.

    Returns:
        The float32 values of the network's parameters, except those that keep their initial value, and the report.

    Raises `UserError`, naming the first parameter, for a checkpoint of another architecture or with other options, and
    for one that matches no parameter.
    """
    if not set(weights) & set(shapes):
        first = next(iter(weights), "none")
        raise UserError(f"{origin} matches no parameter of the network (its first is '{first}'): give one of BEiT")
    if "mask_token" in shapes and "mask_token" not in weights:
        raise UserError(f"{origin} has no mask_token: give a checkpoint of pretrain.py, or a published pt22k file")
    weights, copied = _copy_shared_table(weights, shapes)
    fitted: dict[str, np.ndarray] = {}
    rows: list[ReportRow] = []
    for name, shape in shapes.items():
        row, value = _fit_one(name, tuple(shape), weights, name in copied, origin)
        rows.append(row)
        if value is not None:
            fitted[name] = value
    rows += [_left_out(name, "mask_token" in shapes, origin) for name in weights if name not in shapes]
    for name in _HEAD:
        if name in weights and name in shapes and name not in fitted:
            kind = "outputs" if name.startswith("lm_head") else "classes"
            sizes = f"{len(weights[name])} {kind} in the checkpoint, {shapes[name][0]} in the network"
            rows.append(ReportRow(LEFT_OUT, name, sizes))
    return fitted, LoadReport(tuple(rows))


def _copy_shared_table(
    weights: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]
) -> tuple[dict[str, np.ndarray], set[str]]:
    """Copy a shared table to each block where the network has a table per block; return the names of the copies too.

    A shared table that the network has as well keeps its initial zeros, as in the authors' script: otherwise the bias
    would count twice.
    """
    tables = [name for name in shapes if _BLOCK_TABLE.fullmatch(name)]
    if not tables or SHARED_TABLE not in weights:
        return dict(weights), set()
    rest = {name: array for name, array in weights.items() if name != SHARED_TABLE}
    return rest | dict.fromkeys(tables, weights[SHARED_TABLE]), set(tables)


def _fit_one(
    name: str, shape: Shape, weights: Mapping[str, np.ndarray], copied: bool, origin: Path | str
) -> tuple[ReportRow, np.ndarray | None]:
    """Return the report row of a parameter of the network and its value (`None`: it keeps the initial one)."""
    if name not in weights:
        if name in _HEAD or name in _LAST_NORM:
            return ReportRow(KEPT, name, "not in the checkpoint"), None
        if name == SHARED_TABLE and any(_BLOCK_TABLE.fullmatch(other) for other in weights):
            return ReportRow(KEPT, name, "its values went to the blocks"), None
        raise UserError(f"{origin} has no parameter '{name}', but the network does: {_advice(name)}")
    value = np.asarray(weights[name], np.float32)
    reason = "copies of the table shared by all blocks" if copied else ""
    if value.shape == shape:
        return ReportRow(LOADED, name, reason), value
    if name in _HEAD and value.shape[1:] == shape[1:]:
        return ReportRow(KEPT, name, "the checkpoint has another size"), None
    resized = _resize(name, value, shape)
    if resized is None:
        raise UserError(
            f"{origin} has another architecture: parameter '{name}' has shape {value.shape}, but {shape} in the "
            "network; choose the arch and patch size of the checkpoint"
        )
    size = f"{_side(name, value.shape)} to {_side(name, shape)} patches along a side"
    return ReportRow(RESIZED, name, ", ".join(filter(None, (reason, size)))), resized


def _resize(name: str, value: np.ndarray, shape: Shape) -> np.ndarray | None:
    """Resize a position table to `shape`; `None` if more than the grid size differs."""
    if value.ndim != len(shape) or value.shape[-1] != shape[-1]:
        return None
    if name.endswith(TABLE) and grid_of_table(len(value)) >= SMALLEST_GRID:
        return resize_bias_table(value, grid_of_table(shape[0]))
    if name == "pos_embed":
        return resize_pos_embed(value, _side(name, shape))
    return None


def _side(name: str, shape: Shape) -> int:
    return grid_of_table(shape[0]) if name.endswith(TABLE) else round((shape[1] - 1) ** 0.5)


def _left_out(name: str, pretraining: bool, origin: Path | str) -> ReportRow:
    """Return the row of a parameter that the network does not have; `UserError` where it should."""
    if is_pretraining_only(name) and not pretraining:
        return ReportRow(LEFT_OUT, name, "for pre-training only")
    if name in _LAST_NORM:
        return ReportRow(LEFT_OUT, name, "the network pools differently")
    raise UserError(f"{origin} has a parameter '{name}', but the network does not: {_advice(name)}")


def _advice(name: str) -> str:
    """Return the fix where only the checkpoint or only the network has a parameter of this name."""
    if name.startswith("cls_pt_layers"):
        return "set head_layers as in the checkpoint (0 for BEiT, 2 for BEiT v2)"
    if name.endswith(("gamma_1", "gamma_2")):
        return "set layer_scale_init_value to 0 if the checkpoint has no layer scale, above 0 if it has one"
    if name.endswith(TABLE):
        return "set rel_pos_bias as in the checkpoint"
    if name == "pos_embed":
        return "set abs_pos_emb as in the checkpoint"
    return "choose the arch of the checkpoint"


def _short(names: list[str]) -> str:
    """Join at most four names, each once, with block numbers replaced by a star."""
    short = list(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names))
    return ", ".join(short[:4]) + (f" and {len(short) - 4} more" if len(short) > 4 else "")

"""Parameter names of the authors, of timm (the same, without index buffers) and of Hugging Face transformers.

Sources: unilm `beit/modeling_finetune.py`, `modeling_pretrain.py` of beit and beit2; timm `models/beit.py`;
transformers `models/beit/modeling_beit.py`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.errors import UserError

TABLE = "relative_position_bias_table"
SHARED_TABLE = f"rel_pos_bias.{TABLE}"
INDEX_BUFFER = "relative_position_index"

# Parameters that only pre-training uses: the token of masked patches, the head that predicts visual tokens, and the
# blocks of BEiT v2 that train the class token.
PRETRAINING_ONLY = ("mask_token", "lm_head.", "cls_pt_layers.", "cls_pt_norm.", "cls_pt_lm_head.")

_BLOCK = re.compile(r"(blocks|cls_pt_layers)\.(\d+)\.(.+)")


def _with_weight_and_bias(layers: Iterable[str]) -> list[str]:
    return [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


def is_pretraining_only(name: str) -> bool:
    """Return whether only pre-training uses the parameter."""
    return name.startswith(PRETRAINING_ONLY)


# The authors' names outside the blocks, and transformers'. Layers stand for their weight and bias.
_HF_OUTER = {
    "cls_token": "beit.embeddings.cls_token",
    "mask_token": "beit.embeddings.mask_token",
    "pos_embed": "beit.embeddings.position_embeddings",
}
_HF_OUTER_LAYERS = {
    "patch_embed.proj": "beit.embeddings.patch_embeddings.projection",
    "norm": "beit.layernorm",
    "fc_norm": "beit.pooler.layernorm",
    "head": "classifier",
    "lm_head": "lm_head",
}
# The authors' names in a block, transformers' in files (and in networks up to version 4), and in networks since 5.
_HF_BLOCK = {
    "gamma_1": ("lambda_1", "lambda_1"),
    "gamma_2": ("lambda_2", "lambda_2"),
    f"attn.{TABLE}": (f"attention.attention.relative_position_bias.{TABLE}", f"relative_position_bias.{TABLE}"),
    "attn.q_bias": ("attention.attention.query.bias", "attention.q_proj.bias"),
    "attn.v_bias": ("attention.attention.value.bias", "attention.v_proj.bias"),
    "attn.q.weight": ("attention.attention.query.weight", "attention.q_proj.weight"),
    "attn.k.weight": ("attention.attention.key.weight", "attention.k_proj.weight"),
    "attn.v.weight": ("attention.attention.value.weight", "attention.v_proj.weight"),
}
_HF_BLOCK_LAYERS = {
    "norm1": ("layernorm_before", "layernorm_before"),
    "norm2": ("layernorm_after", "layernorm_after"),
    "attn.proj": ("attention.output.dense", "attention.o_proj"),
    "mlp.fc1": ("intermediate.dense", "mlp.fc1"),
    "mlp.fc2": ("output.dense", "mlp.fc2"),
}
# The norm before the pre-training head, which transformers has outside the backbone.
_HF_PRETRAINING_NORM = {"norm.weight": "layernorm.weight", "norm.bias": "layernorm.bias"}


@dataclass(frozen=True)
class HuggingFaceLayout:
    """Names of transformers by the authors' names: `outer`, and `inner` of a block after the prefix `blocks`."""

    blocks: str
    outer: Mapping[str, str]
    inner: Mapping[str, str]


def _layout(blocks: str, shared_bias: str, column: int) -> HuggingFaceLayout:
    outer = {**_HF_OUTER, SHARED_TABLE: f"{shared_bias}.{TABLE}"}
    outer |= zip(_with_weight_and_bias(_HF_OUTER_LAYERS), _with_weight_and_bias(_HF_OUTER_LAYERS.values()))
    inner = {ours: theirs[column] for ours, theirs in _HF_BLOCK.items()}
    layers = [theirs[column] for theirs in _HF_BLOCK_LAYERS.values()]
    inner |= zip(_with_weight_and_bias(_HF_BLOCK_LAYERS), _with_weight_and_bias(layers))
    return HuggingFaceLayout(blocks, outer, inner)


HF_FILES = _layout("beit.encoder.layer", "beit.encoder.relative_position_bias", 0)
HF_NETWORK = _layout("beit.layers", "beit.shared_position_bias", 1)


def recognize(names: Iterable[str], path: Path) -> str:
    """Return the origin of the names: `unilm`, `timm` or `hf`. Raises `UserError` without names."""
    names = list(names)
    if not names:
        raise UserError(f"{path} has no parameters: give a file with the weights of a network")
    if any(name.startswith(("beit.", "embeddings.")) for name in names):
        return "hf"
    unilm = any(name.endswith(INDEX_BUFFER) or is_pretraining_only(name) for name in names)
    return "unilm" if unilm else "timm"


def to_authors(weights: Mapping[str, np.ndarray], source: str, path: Path) -> dict[str, np.ndarray]:
    """Translate weights of `source` (`unilm`, `timm` or `hf`) to the authors' names, without index buffers.

    Raises `UserError` for names of `hf` that BEiT does not have, and for incomplete ones.
    """
    weights = {name: array for name, array in weights.items() if not name.endswith(INDEX_BUFFER)}
    return _from_hugging_face(weights, path) if source == "hf" else weights


def to_hugging_face(weights: Mapping[str, np.ndarray], layout: HuggingFaceLayout) -> dict[str, np.ndarray]:
    """Translate weights from the authors' names to transformers', with query, key and value separated.

    Every parameter must satisfy `in_hugging_face`.
    """
    outer = layout.outer
    if "lm_head.weight" in weights:
        outer = {**outer, **_HF_PRETRAINING_NORM}
    result: dict[str, np.ndarray] = {}
    for name, array in weights.items():
        block = _BLOCK.fullmatch(name)
        if block is None:
            result[outer[name]] = array
        elif block[3] == "attn.qkv.weight":
            for part, rows in zip("qkv", np.split(array, 3)):
                result[f"{layout.blocks}.{block[2]}.{layout.inner[f'attn.{part}.weight']}"] = rows
        else:
            result[f"{layout.blocks}.{block[2]}.{layout.inner[block[3]]}"] = array
    return result


def in_hugging_face(name: str) -> bool:
    """Return whether transformers' networks have the parameter: all but BEiT v2's extra pre-training blocks."""
    return not name.startswith("cls_pt_")


def _from_hugging_face(weights: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    if not any(name.startswith("beit.") for name in weights):  # a file of the bare `BeitModel`
        weights = {f"beit.{name}": array for name, array in weights.items()}
    is_network = any(name.startswith(f"{HF_NETWORK.blocks}.") for name in weights)
    layout = HF_NETWORK if is_network else HF_FILES
    outer = {theirs: ours for names in (_HF_PRETRAINING_NORM, layout.outer) for ours, theirs in names.items()}
    inner = {theirs: ours for ours, theirs in layout.inner.items()}
    in_block = re.compile(re.escape(layout.blocks) + r"\.(\d+)\.(.+)")
    result: dict[str, np.ndarray] = {}
    for name, array in weights.items():
        block = in_block.fullmatch(name)
        ours = inner.get(block[2]) if block else outer.get(name)
        if ours is None:
            raise UserError(f"{path}: BEiT has no parameter '{name}'; give an image classifier of BEiT or BEiT v2")
        ours = f"blocks.{block[1]}.{ours}" if block else ours
        if ours in result:
            raise UserError(f"{path}: parameter '{name}' is a second '{ours}', of which BEiT has one; give a BEiT file")
        result[ours] = array
    return _join_qkv(result, path)


def _join_qkv(weights: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Stack the rows of query, key and value of each block into `attn.qkv.weight`."""
    result: dict[str, np.ndarray] = {}
    for name, array in weights.items():
        if not name.endswith((".attn.q.weight", ".attn.k.weight", ".attn.v.weight")):
            result[name] = array
            continue
        block = name.rsplit(".attn.", 1)[0]
        parts = [weights.get(f"{block}.attn.{part}.weight") for part in "qkv"]
        found = [part for part in parts if part is not None and part.shape == array.shape]
        if len(found) != len(parts):
            raise UserError(
                f"{path} is damaged: {block} has no query, key or value, or they differ in shape; download it again"
            )
        result[f"{block}.attn.qkv.weight"] = np.concatenate(found)
    return result

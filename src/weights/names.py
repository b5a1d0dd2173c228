"""Parameter names: the authors', timm's (the same, without the index buffers) and Hugging Face transformers'.

Sources: unilm `beit/modeling_finetune.py`, `modeling_pretrain.py` of beit and beit2; timm `models/beit.py`;
transformers `models/beit/modeling_beit.py`, in the layout of its files (up to version 4 the network's own, and still
what `save_pretrained` writes) and in the layout that the network has since version 5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.errors import UserError

TABLE = "relative_position_bias_table"
SHARED_TABLE = f"rel_pos_bias.{TABLE}"
INDEX_BUFFER = "relative_position_index"

# What only pre-training uses: the masked patches' token, the head that predicts visual tokens, and BEiT v2's extra
# blocks that train the class token.
PRETRAINING_ONLY = ("mask_token", "lm_head.", "cls_pt_layers.", "cls_pt_norm.", "cls_pt_lm_head.")

_BLOCK = re.compile(r"(blocks|cls_pt_layers)\.(\d+)\.(.+)")
_KINDS = ("weight", "bias")
_BLOCK_LAYERS = ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2")
_BLOCK_PARAMETERS = frozenset(
    ["gamma_1", "gamma_2", "attn.q_bias", "attn.v_bias", "attn.qkv.weight", f"attn.{TABLE}"]
    + [f"{layer}.{kind}" for layer in _BLOCK_LAYERS for kind in _KINDS]
)
_OUTER_LAYERS = ("patch_embed.proj", "norm", "fc_norm", "head", "lm_head", "cls_pt_norm", "cls_pt_lm_head")
_PARAMETERS = frozenset(
    ["cls_token", "mask_token", "pos_embed", SHARED_TABLE]
    + [f"{layer}.{kind}" for layer in _OUTER_LAYERS for kind in _KINDS]
)


def is_authors_name(name: str) -> bool:
    """Whether `name` is a parameter of the authors' networks (index buffers, which are no parameters, left aside)."""
    block = _BLOCK.fullmatch(name)
    return block[3] in _BLOCK_PARAMETERS if block else name in _PARAMETERS


def is_pretraining_only(name: str) -> bool:
    """Whether only pre-training uses the parameter."""
    return name.startswith(PRETRAINING_ONLY)


@dataclass(frozen=True)
class HuggingFaceLayout:
    """How transformers names the parts: prefixes of the shared table and of block N, and parts of a block."""

    shared_table: str
    blocks: str
    query: str
    key: str
    value: str
    attn_proj: str
    fc1: str
    fc2: str
    table: str

    def block_names(self) -> dict[str, str]:
        """Names within a block: the authors' (query, key and value apart) to transformers'."""
        names = {
            "gamma_1": "lambda_1",
            "gamma_2": "lambda_2",
            f"attn.{TABLE}": self.table,
            "attn.q_bias": f"{self.query}.bias",
            "attn.v_bias": f"{self.value}.bias",
            "attn.q.weight": f"{self.query}.weight",
            "attn.k.weight": f"{self.key}.weight",
            "attn.v.weight": f"{self.value}.weight",
        }
        layers = {
            "norm1": "layernorm_before",
            "norm2": "layernorm_after",
            "attn.proj": self.attn_proj,
            "mlp.fc1": self.fc1,
            "mlp.fc2": self.fc2,
        }
        return names | _with_weight_and_bias(layers)

    def outer_names(self) -> dict[str, str]:
        """Names outside the blocks: the authors' to transformers'."""
        names = {
            "cls_token": "beit.embeddings.cls_token",
            "mask_token": "beit.embeddings.mask_token",
            "pos_embed": "beit.embeddings.position_embeddings",
            SHARED_TABLE: f"{self.shared_table}.{TABLE}",
        }
        layers = {
            "patch_embed.proj": "beit.embeddings.patch_embeddings.projection",
            "norm": "beit.layernorm",
            "fc_norm": "beit.pooler.layernorm",
            "head": "classifier",
            "lm_head": "lm_head",
        }
        return names | _with_weight_and_bias(layers)


def _with_weight_and_bias(layers: Mapping[str, str]) -> dict[str, str]:
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in layers.items() for kind in _KINDS}


HF_FILES = HuggingFaceLayout(
    shared_table="beit.encoder.relative_position_bias",
    blocks="beit.encoder.layer",
    query="attention.attention.query",
    key="attention.attention.key",
    value="attention.attention.value",
    attn_proj="attention.output.dense",
    fc1="intermediate.dense",
    fc2="output.dense",
    table=f"attention.attention.relative_position_bias.{TABLE}",
)
HF_NETWORK = HuggingFaceLayout(
    shared_table="beit.shared_position_bias",
    blocks="beit.layers",
    query="attention.q_proj",
    key="attention.k_proj",
    value="attention.v_proj",
    attn_proj="attention.o_proj",
    fc1="mlp.fc1",
    fc2="mlp.fc2",
    table=f"relative_position_bias.{TABLE}",
)

# The norm before the pre-training head, which in transformers stands outside the backbone.
_HF_PRETRAINING_NORM = {"norm.weight": "layernorm.weight", "norm.bias": "layernorm.bias"}


def recognize(names: Iterable[str], path: Path) -> str:
    """Whose names these are: `unilm`, `timm` or `hf`. Raises `UserError` for names that are nobody's BEiT."""
    names = list(names)
    if not names:
        raise UserError(f"{path} holds no parameters: give a file with a network's weights")
    if any(name.startswith(("beit.", "embeddings.")) for name in names):
        return "hf"
    known = [name for name in names if is_authors_name(name) or name.endswith(INDEX_BUFFER)]
    if len(known) * 2 < len(names):
        stranger = next(name for name in names if name not in set(known))
        raise UserError(f"{path} is no BEiT: parameter '{stranger}' is unknown to it; give a BEiT checkpoint")
    unilm = any(name.endswith(INDEX_BUFFER) or is_pretraining_only(name) for name in names)
    return "unilm" if unilm else "timm"


def to_authors(weights: Mapping[str, np.ndarray], source: str, path: Path) -> dict[str, np.ndarray]:
    """Weights of `source` (`unilm`, `timm` or `hf`) under the authors' names, index buffers left out.

    Raises `UserError`, naming the first one, for parameters that BEiT does not have or that come in part.
    """
    weights = {name: array for name, array in weights.items() if not name.endswith(INDEX_BUFFER)}
    if source == "hf":
        weights = _from_hugging_face(weights, path)
    for name in weights:
        if not is_authors_name(name):
            raise UserError(f"{path}: parameter '{name}' is unknown to BEiT: give a checkpoint of BEiT or BEiT v2")
    return weights


def to_hugging_face(weights: Mapping[str, np.ndarray], layout: HuggingFaceLayout) -> dict[str, np.ndarray]:
    """Weights under the authors' names -> transformers' names; query, key and value are cut apart.

    What transformers has no place for (`has_place_in_hugging_face`) must not be among them.
    """
    outer, block = layout.outer_names(), layout.block_names()
    if "lm_head.weight" in weights:
        outer |= _HF_PRETRAINING_NORM
    result: dict[str, np.ndarray] = {}
    for name, array in weights.items():
        match = _BLOCK.fullmatch(name)
        if match and match[1] == "blocks" and match[3] == "attn.qkv.weight":
            for part, rows in zip("qkv", np.split(array, 3)):
                result[f"{layout.blocks}.{match[2]}.{block[f'attn.{part}.weight']}"] = rows
        elif match and match[1] == "blocks":
            result[f"{layout.blocks}.{match[2]}.{block[match[3]]}"] = array
        else:
            result[outer[name]] = array
    return result


def has_place_in_hugging_face(name: str) -> bool:
    """Whether transformers' networks have the parameter: all but BEiT v2's extra pre-training blocks."""
    return not name.startswith("cls_pt_")


def _from_hugging_face(weights: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    if not any(name.startswith("beit.") for name in weights):  # a file of the bare `BeitModel`
        weights = {f"beit.{name}": array for name, array in weights.items()}
    in_network_layout = any(name.startswith(f"{HF_NETWORK.blocks}.") for name in weights)
    layout = HF_NETWORK if in_network_layout else HF_FILES
    outer = {theirs: ours for ours, theirs in (layout.outer_names() | _HF_PRETRAINING_NORM).items()}
    outer |= {theirs: ours for ours, theirs in layout.outer_names().items()}
    inner = {theirs: ours for ours, theirs in layout.block_names().items()}
    in_block = re.compile(re.escape(layout.blocks) + r"\.(\d+)\.(.+)")
    result: dict[str, np.ndarray] = {}
    for name, array in weights.items():
        match = in_block.fullmatch(name)
        ours = inner.get(match[2]) if match else outer.get(name)
        if ours is None:
            raise UserError(f"{path}: parameter '{name}' is unknown to BEiT: give an image classifier's checkpoint")
        ours = f"blocks.{match[1]}.{ours}" if match else ours
        if ours in result:
            raise UserError(f"{path}: parameter '{name}' is a second '{ours}': BEiT has one")
        result[ours] = array
    return _join_qkv(result, path)


def _join_qkv(weights: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Query, key and value rows of each block, one above the other, as `attn.qkv.weight`."""
    result: dict[str, np.ndarray] = {}
    for name, array in weights.items():
        if not name.endswith((".attn.q.weight", ".attn.k.weight", ".attn.v.weight")):
            result[name] = array
            continue
        block = name.rsplit(".attn.", 1)[0]
        names = [f"{block}.attn.{part}.weight" for part in "qkv"]
        parts = [weights[name] for name in names if name in weights]
        if len(parts) != len(names) or any(part.shape != array.shape for part in parts):
            raise UserError(f"{path}: {block} lacks its query, key or value, or they differ in shape: it is damaged")
        result[f"{block}.attn.qkv.weight"] = np.concatenate(parts)
    return result

"""BEiT as an ONNX graph, written node by node from the weights.

The numbers are those of `src.vit.VisionTransformer`; the layout is chosen for ONNX Runtime on a CPU. For BEiT-base at
224 with batch 8, where 88% of the time is matrix multiplication, it is as fast as PyTorch's exports of timm's BEiT
(benchmarks/onnx_speed.py measures it):

- queries, keys and values are three multiplications, not one that is split: no Split, and less to transpose;
- keys are transposed together with their heads, so that no node transposes for the multiplication alone;
- the attention scale is folded into the query weights and the layer scale into the last matrix of each branch;
- the values' bias passes through attention, whose weights sum to one, and is folded into the projection's;
- the relative position bias is one stored tensor per block, the class token and position embedding one addition.

With `half` the multiplications, what lies between them and their weights are float16. The residual sum, layer norms,
softmax, pooling and head stay float32, as at the network's own AMP level O2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from src.layers.relative_position_bias import relative_position_index

INPUT = "image"
OUTPUT = "logits"
# Opset 20 is the first with Gelu as one node, and IR version 9 came with it: the oldest pair that serves.
OPSET = 20
IR_VERSION = 9
FIRST_PATCH = 1  # the token before it is the class token
# Folding the layer scale into a float16 matrix is refused where it costs more than this share of a row. Rounding to 11
# bits costs 3e-4; a layer scale of 1e-5, which BEiT-large starts from, pushes the values below the least that has them.
FOLDING_TOLERANCE = 1e-3


@dataclass(frozen=True)
class PixelInput:
    """An input of raw pixels, uint8 [batch, S, S, 3], that the graph normalizes: `mean` and `std` are of 0..1."""

    mean: Sequence[float]
    std: Sequence[float]


class GraphWriter:
    """A model in the making: nodes are added in the order in which they run.

    It writes into the model itself, since `onnx.helper` would copy all the constants twice.
    """

    def __init__(self, half: bool, layer_norm_eps: float) -> None:
        self._half = half
        self.layer_norm_eps = layer_norm_eps
        self.model = onnx.ModelProto(ir_version=IR_VERSION, opset_import=[helper.make_opsetid("", OPSET)])
        self.graph = self.model.graph
        self._stored: set[str] = set()

    def constant(
        self, name: str, values: np.ndarray | np.int64 | Sequence[int], kind: type[np.generic] = np.float32
    ) -> str:
        """Store an array (as `kind`) or integers (int64, as shapes and axes are); returns its name."""
        if name in self._stored:
            raise ValueError(f"the constant {name} is stored already")
        self._stored.add(name)
        if not isinstance(values, np.ndarray):
            kind = np.int64
        array = np.asarray(values, dtype=np.dtype(kind).newbyteorder("<"), order="C")
        data_type = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        self.graph.initializer.add(name=name, data_type=data_type, dims=array.shape, raw_data=array.tobytes())
        return name

    def factor(self, name: str, values: np.ndarray) -> str:
        """Store what multiplications, or what lies between them, work with: float16 in a half graph."""
        return self.constant(name, values, np.float16 if self._half else np.float32)

    def integers(self, values: Sequence[int]) -> str:
        """A stored list of integers, one constant for all nodes that use the same; returns its name."""
        name = "integers_" + "_".join(str(value) for value in values).replace("-", "minus")
        return name if name in self._stored else self.constant(name, values)

    def node(self, operator: str, name: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node with one output, which gets the node's name; returns it."""
        self.graph.node.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def narrow(self, x: str) -> str:
        """`x`, float32, as multiplications take it."""
        return self.node("Cast", f"{x}/half", [x], to=TensorProto.FLOAT16) if self._half else x

    def widen(self, x: str) -> str:
        """`x`, as multiplications give it, in float32."""
        return self.node("Cast", f"{x}/float", [x], to=TensorProto.FLOAT) if self._half else x

    def keeps(self, values: np.ndarray) -> bool:
        """Whether each row of `values` [out, in] is still itself when it is stored as a factor."""
        if not self._half:
            return True
        lost = np.linalg.norm(values.astype(np.float16).astype(np.float32) - values, axis=1)
        return bool((lost <= FOLDING_TOLERANCE * np.linalg.norm(values, axis=1)).all())


def beit_graph(
    weights: Mapping[str, np.ndarray],
    *,
    image_size: int,
    num_heads: int,
    approximate_gelu: bool,
    layer_norm_eps: float = 1e-6,
    half: bool = False,
    pixel_input: PixelInput | None = None,
) -> onnx.ModelProto:
    """The network that `weights` belong to, as an ONNX model.

    Args:
        weights: every parameter under the authors' name (`blocks.0.attn.q_bias`, ...). Which of them are there decides
            on position embedding, bias per block or shared, layer scale, mean pooling and depth.
        image_size: side of the input in pixels.
        num_heads: attention heads of a block.
        approximate_gelu: the tanh form of GELU instead of the exact one.
        layer_norm_eps: epsilon of every layer norm.
        half: float16 where it is safe (see the module).
        pixel_input: normalize inside the graph.

    Returns:
        A model with the input `image` float32 [batch, 3, image_size, image_size], normalized, or with `pixel_input`
        uint8 [batch, image_size, image_size, 3], and the output `logits` float32 [batch, num_classes], for any batch.

    Raises:
        KeyError: for a weight that every BEiT has and that is missing.
    """
    graph = GraphWriter(half, layer_norm_eps)
    if pixel_input is None:
        image = _value(INPUT, TensorProto.FLOAT, [3, image_size, image_size])
        patches = _cut_planes(graph, weights, image_size)
    else:
        image = _value(INPUT, TensorProto.UINT8, [image_size, image_size, 3])
        patches = _cut_pixels(graph, weights, image_size, pixel_input)
    x = _embed(graph, weights, image_size, patches)
    tokens = _grid(weights, image_size) ** 2 + 1
    shared_bias = _position_bias(graph, weights, "rel_pos_bias.", image_size)
    for block in range(block_count(weights)):
        prefix = f"blocks.{block}."
        bias = _position_bias(graph, weights, f"{prefix}attn.", image_size)
        biases = [name for name in (shared_bias, bias) if name is not None]
        x = _attention_branch(graph, weights, prefix, x, biases, tokens, num_heads)
        x = _mlp_branch(graph, weights, prefix, x, approximate_gelu)
    _classify(graph, weights, x)
    num_classes = weights["head.bias"].shape[0]
    graph.graph.name = "beit"
    graph.graph.input.append(image)
    graph.graph.output.append(_value(OUTPUT, TensorProto.FLOAT, [num_classes]))
    return graph.model


def _value(name: str, kind: int, shape: Sequence[int]) -> onnx.ValueInfoProto:
    """An input or output of any batch."""
    return helper.make_tensor_value_info(name, kind, ["batch", *shape])


def block_count(weights: Mapping[str, np.ndarray]) -> int:
    """How many transformer blocks the weights make up."""
    return len({name.split(".")[1] for name in weights if name.startswith("blocks.")})


def _grid(weights: Mapping[str, np.ndarray], image_size: int) -> int:
    """Patches along a side of the image."""
    return image_size // weights["patch_embed.proj.weight"].shape[-1]


def _cut_planes(graph: GraphWriter, weights: Mapping[str, np.ndarray], image_size: int) -> str:
    """The patches of a normalized image: [batch, patches, 3 * patch * patch]."""
    _, channels, patch, _ = weights["patch_embed.proj.weight"].shape
    grid = _grid(weights, image_size)
    x = graph.node("Reshape", "patches/cut", [INPUT, graph.integers([0, channels, grid, patch, grid, patch])])
    x = graph.node("Transpose", "patches/by_patch", [x], perm=[0, 2, 4, 1, 3, 5])
    return graph.node("Reshape", "patches", [x, graph.integers([0, grid * grid, channels * patch * patch])])


def _cut_pixels(graph: GraphWriter, weights: Mapping[str, np.ndarray], image_size: int, given: PixelInput) -> str:
    """The same of raw pixels. The three steps round as they do where an image is normalized outside."""
    _, channels, patch, _ = weights["patch_embed.proj.weight"].shape
    grid = _grid(weights, image_size)
    x = graph.node("Cast", "pixels", [INPUT], to=TensorProto.FLOAT)
    x = graph.node("Div", "pixels/of_one", [x, graph.constant("largest_pixel", np.array([255], np.float32))])
    x = graph.node("Sub", "pixels/centered", [x, graph.constant("mean", np.array(given.mean, np.float32))])
    x = graph.node("Div", "pixels/normalized", [x, graph.constant("std", np.array(given.std, np.float32))])
    x = graph.node("Reshape", "patches/cut", [x, graph.integers([0, grid, patch, grid, patch, channels])])
    x = graph.node("Transpose", "patches/by_patch", [x], perm=[0, 1, 3, 5, 2, 4])
    return graph.node("Reshape", "patches", [x, graph.integers([0, grid * grid, channels * patch * patch])])


def _embed(graph: GraphWriter, weights: Mapping[str, np.ndarray], image_size: int, patches: str) -> str:
    """Project the patches and put the class token first: [batch, tokens, dim].

    A row of zeros stands where the class token belongs while the patches are projected; one addition then brings
    class token, projection bias and position embedding. So nothing asks for the batch size at run time.
    """
    weight = weights["patch_embed.proj.weight"]
    dim, count = weight.shape[0], _grid(weights, image_size) ** 2
    x = graph.node("Pad", "patches/with_class_row", [patches, graph.integers([0, 1, 0, 0, 0, 0])])
    projection = graph.factor("patch_embed.proj.weight", weight.reshape(dim, -1).T)
    x = graph.widen(graph.node("MatMul", "patch_embed/multiply", [graph.narrow(x), projection]))
    rows = [weights["cls_token"], np.broadcast_to(weights["patch_embed.proj.bias"], (1, count, dim))]
    added = np.concatenate(rows, axis=1)
    if "pos_embed" in weights:
        added = added + weights["pos_embed"]
    return graph.node("Add", "patch_embed", [x, graph.constant("cls_token_and_positions", added)])


def _position_bias(graph: GraphWriter, weights: Mapping[str, np.ndarray], prefix: str, image_size: int) -> str | None:
    """The relative position bias [1, heads, tokens, tokens] that the table of `prefix` gives; `None` without one."""
    table = weights.get(f"{prefix}relative_position_bias_table")
    if table is None:
        return None
    grid = _grid(weights, image_size)
    bias = np.take(np.ascontiguousarray(table.T), relative_position_index(grid, grid), axis=1)
    return graph.factor(f"{prefix}relative_position_bias", bias[None])


def _attention_branch(
    graph: GraphWriter,
    weights: Mapping[str, np.ndarray],
    prefix: str,
    x: str,
    biases: Sequence[str],
    tokens: int,
    num_heads: int,
) -> str:
    """`x + gamma_1 * attn(norm1(x))`; `biases` name the constants to add to the scores."""
    attn = f"{prefix}attn."
    y = graph.narrow(_layer_norm(graph, weights, f"{prefix}norm1", x))
    dim = weights[f"{attn}q_bias"].shape[0]
    head_dim = dim // num_heads
    scale = np.float32(head_dim**-0.5)
    q_weight, k_weight, v_weight = np.split(weights[f"{attn}qkv.weight"], 3)
    q = _linear(graph, f"{attn}q", y, q_weight * scale, weights[f"{attn}q_bias"] * scale)
    k = _linear(graph, f"{attn}k", y, k_weight, None)
    v = _linear(graph, f"{attn}v", y, v_weight, None)
    by_head = graph.integers([0, tokens, num_heads, head_dim])
    q, k, v = (graph.node("Reshape", f"{name}/heads", [name, by_head]) for name in (q, k, v))
    q = graph.node("Transpose", f"{attn}queries", [q], perm=[0, 2, 1, 3])
    k = graph.node("Transpose", f"{attn}keys", [k], perm=[0, 2, 3, 1])
    v = graph.node("Transpose", f"{attn}values", [v], perm=[0, 2, 1, 3])
    scores = graph.node("MatMul", f"{attn}scores", [q, k])
    for number, bias in enumerate(biases):
        scores = graph.node("Add", f"{attn}scores/biased_{number}", [scores, bias])
    probabilities = graph.node("Softmax", f"{attn}probabilities", [graph.widen(scores)], axis=-1)
    y = graph.node("MatMul", f"{attn}weighted", [graph.narrow(probabilities), v])
    y = graph.node("Transpose", f"{attn}weighted/by_token", [y], perm=[0, 2, 1, 3])
    y = graph.node("Reshape", f"{attn}weighted/tokens", [y, graph.integers([0, tokens, dim])])
    proj_weight = weights[f"{attn}proj.weight"]
    proj_bias = weights[f"{attn}proj.bias"] + proj_weight @ weights[f"{attn}v_bias"]
    y = _scaled_linear(graph, f"{attn}proj", y, proj_weight, proj_bias, weights.get(f"{prefix}gamma_1"))
    return graph.node("Add", f"{prefix}with_attention", [x, y])


def _mlp_branch(
    graph: GraphWriter, weights: Mapping[str, np.ndarray], prefix: str, x: str, approximate_gelu: bool
) -> str:
    """`x + gamma_2 * mlp(norm2(x))`."""
    y = graph.narrow(_layer_norm(graph, weights, f"{prefix}norm2", x))
    y = _linear(graph, f"{prefix}mlp.fc1", y, weights[f"{prefix}mlp.fc1.weight"], weights[f"{prefix}mlp.fc1.bias"])
    y = graph.node("Gelu", f"{prefix}mlp.gelu", [y], approximate="tanh" if approximate_gelu else "none")
    fc2_weight, fc2_bias = weights[f"{prefix}mlp.fc2.weight"], weights[f"{prefix}mlp.fc2.bias"]
    y = _scaled_linear(graph, f"{prefix}mlp.fc2", y, fc2_weight, fc2_bias, weights.get(f"{prefix}gamma_2"))
    return graph.node("Add", f"{prefix}with_mlp", [x, y])


def _classify(graph: GraphWriter, weights: Mapping[str, np.ndarray], x: str) -> None:
    """The head on the mean of the patch tokens, or on the class token where there is no `fc_norm`."""
    if "fc_norm.weight" in weights:
        token_axis, end = graph.integers([1]), graph.integers([np.iinfo(np.int64).max])
        x = graph.node("Slice", "pooled/patches", [x, graph.integers([FIRST_PATCH]), end, token_axis])
        x = graph.node("ReduceMean", "pooled", [x, token_axis], keepdims=0)
        x = _layer_norm(graph, weights, "fc_norm", x)
    else:
        # each token is normalized on its own, so the others need not be
        x = graph.node("Gather", "pooled", [x, graph.constant("class_token", np.int64(0))], axis=1)
        x = _layer_norm(graph, weights, "norm", x)
    head = [graph.constant(f"head.{part}", weights[f"head.{part}"]) for part in ("weight", "bias")]
    graph.node("Gemm", OUTPUT, [x, *head], transB=1)


def _layer_norm(graph: GraphWriter, weights: Mapping[str, np.ndarray], name: str, x: str) -> str:
    parameters = [graph.constant(f"{name}.{part}", weights[f"{name}.{part}"]) for part in ("weight", "bias")]
    return graph.node("LayerNormalization", name, [x, *parameters], axis=-1, epsilon=graph.layer_norm_eps)


def _scaled_linear(
    graph: GraphWriter, name: str, x: str, weight: np.ndarray, bias: np.ndarray, gamma: np.ndarray | None
) -> str:
    """`gamma * (x W^T + b)` in float32; `weight` [out, in], `bias` [out], `gamma` [out] or no layer scale.

    The layer scale is folded into the matrix, unless its values would be lost there.
    """
    if gamma is None:
        return _linear(graph, name, x, weight, bias, wide=True)
    if graph.keeps(weight * gamma[:, None]):
        return _linear(graph, name, x, weight * gamma[:, None], bias * gamma, wide=True)
    y = _linear(graph, name, x, weight, bias, wide=True)
    return graph.node("Mul", f"{name}/scaled", [y, graph.constant(f"{name}.layer_scale", gamma)])


def _linear(
    graph: GraphWriter, name: str, x: str, weight: np.ndarray, bias: np.ndarray | None, wide: bool = False
) -> str:
    """`x W^T + b` with `weight` [out, in], stored transposed as MatMul wants it; `wide` adds and gives float32."""
    stored = graph.factor(f"{name}.weight", weight.T)
    if bias is None:
        return graph.node("MatMul", name, [x, stored])
    y = graph.node("MatMul", f"{name}/multiply", [x, stored])
    if wide:
        return graph.node("Add", name, [graph.widen(y), graph.constant(f"{name}.bias", bias)])
    return graph.node("Add", name, [y, graph.factor(f"{name}.bias", bias)])

"""BEiT as an ONNX graph, written node by node from its weights.

The numbers are those of `src.vit.VisionTransformer`; the layout is chosen for ONNX Runtime on a CPU. For BEiT-base at
224 pixels with batch 8, where matrix multiplication takes 88% of the time, it is as fast as PyTorch's exports of timm's
BEiT (measured by benchmarks/onnx_speed.py):

- query, key and value are three multiplications instead of one with a Split, which also saves a transposition;
- the keys' transpositions for the heads and for the multiplication are one node;
- the attention scale is folded into the query weights, and the layer scale into the last matrix of each branch;
- the value bias passes through attention, whose weights sum to one, and is folded into the projection bias;
- the relative position bias is one constant per block; class token and position embedding are one addition.

With `half`, multiplications with their weights and the operators between them are float16. The residual sum, layer
norms, softmax, pooling and head stay float32, as at the network's AMP level O2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from src.export.graph_writer import GraphWriter
from src.layers.relative_position_bias import relative_position_index
from src.model.model_config import ModelConfig
from src.model.variants import Variant, patch_grid

INPUT = "image"
OUTPUT = "logits"
CHANNELS = 3


@dataclass(frozen=True)
class PixelInput:
    """Input of raw pixels, uint8 [batch, S, S, 3], normalized in the graph; `mean` and `std` are for values in 0..1."""

    mean: Sequence[float]
    std: Sequence[float]


def beit_graph(
    weights: Mapping[str, np.ndarray],
    model: ModelConfig,
    variant: Variant,
    *,
    half: bool = False,
    pixel_input: PixelInput | None = None,
) -> onnx.ModelProto:
    """Return the network of `model` and `variant` with `weights` as an ONNX model.

    Args:
        weights: every parameter under the authors' name (`blocks.0.attn.q_bias`, ...).
        half: float16 where it is safe (see the module).
        pixel_input: normalize raw pixels inside the graph.

    Returns:
        A model with the input `image` float32 [batch, 3, S, S], normalized, or with `pixel_input` uint8
        [batch, S, S, 3], and the output `logits` float32 [batch, num_classes], for any batch.

    Raises `KeyError` for a missing weight.
    """
    return _BeitGraph(weights, model, variant, half).build(pixel_input)


class _BeitGraph(GraphWriter):
    """The nodes of a BEiT; methods take and return names of tensors."""

    def __init__(self, weights: Mapping[str, np.ndarray], model: ModelConfig, variant: Variant, half: bool) -> None:
        super().__init__(half)
        self.weights, self.config, self.variant = weights, model, variant
        self.grid = patch_grid(variant, model.image_size)
        self.tokens = self.grid**2 + 1

    def build(self, pixel_input: PixelInput | None) -> onnx.ModelProto:
        size = self.config.image_size
        if pixel_input is None:
            self.declare(self.graph.input, INPUT, TensorProto.FLOAT, [CHANNELS, size, size])
            x = self.embed(self.cut_planes())
        else:
            self.declare(self.graph.input, INPUT, TensorProto.UINT8, [size, size, CHANNELS])
            x = self.embed(self.cut_pixels(pixel_input))
        shared = [self.position_bias("rel_pos_bias.")] if self.config.shared_rel_pos_bias else []
        for block in range(self.variant.depth):
            prefix = f"blocks.{block}."
            own = [self.position_bias(f"{prefix}attn.")] if self.config.rel_pos_bias else []
            x = self.attention_branch(prefix, x, shared + own)
            x = self.mlp_branch(prefix, x)
        self.classify(x)
        self.declare(self.graph.output, OUTPUT, TensorProto.FLOAT, [self.config.num_classes])
        self.graph.name = "beit"
        return self.model

    def cut_planes(self) -> str:
        """Cut normalized images into patches: [batch, patches, 3 * patch * patch]."""
        grid, patch = self.grid, self.variant.patch_size
        x = self.node("Reshape", "patches/cut", [INPUT, self.integers(0, CHANNELS, grid, patch, grid, patch)])
        x = self.node("Transpose", "patches/by_patch", [x], perm=[0, 2, 4, 1, 3, 5])
        return self.node("Reshape", "patches", [x, self.integers(0, grid * grid, CHANNELS * patch * patch)])

    def cut_pixels(self, pixels: PixelInput) -> str:
        """Normalize raw pixels in the order of the image pipeline, so that they round alike, and cut them."""
        grid, patch = self.grid, self.variant.patch_size
        x = self.node("Cast", "pixels", [INPUT], to=TensorProto.FLOAT)
        x = self.node("Div", "pixels/of_one", [x, self.constant("largest_pixel", np.array([255]))])
        x = self.node("Sub", "pixels/centered", [x, self.constant("mean", np.array(pixels.mean))])
        x = self.node("Div", "pixels/normalized", [x, self.constant("std", np.array(pixels.std))])
        x = self.node("Reshape", "patches/cut", [x, self.integers(0, grid, patch, grid, patch, CHANNELS)])
        x = self.node("Transpose", "patches/by_patch", [x], perm=[0, 1, 3, 5, 2, 4])
        return self.node("Reshape", "patches", [x, self.integers(0, grid * grid, CHANNELS * patch * patch)])

    def embed(self, patches: str) -> str:
        """Project the patches and put the class token first: [batch, tokens, dim].

        The patches get a first row of zeros, and one addition brings class token, projection bias and position
        embedding: no node needs the batch size at run time.
        """
        weight = self.weights["patch_embed.proj.weight"]
        x = self.node("Pad", "patches/with_class_row", [patches, self.integers(0, 1, 0, 0, 0, 0)])
        projection = self.factor("patch_embed.proj.weight", weight.reshape(len(weight), -1).T)
        x = self.widen(self.node("MatMul", "patch_embed/multiply", [self.narrow(x), projection]))
        bias = np.broadcast_to(self.weights["patch_embed.proj.bias"], (1, self.grid**2, len(weight)))
        added = np.concatenate([self.weights["cls_token"], bias], axis=1)
        if self.config.abs_pos_emb:
            added = added + self.weights["pos_embed"]
        return self.node("Add", "patch_embed", [x, self.constant("cls_token_and_positions", added)])

    def position_bias(self, prefix: str) -> str:
        """Store the relative position bias [1, heads, tokens, tokens] of the table of `prefix`."""
        table = self.weights[f"{prefix}relative_position_bias_table"]
        bias = np.take(np.ascontiguousarray(table.T), relative_position_index(self.grid, self.grid), axis=1)
        return self.factor(f"{prefix}relative_position_bias", bias[None])

    def attention_branch(self, prefix: str, x: str, biases: Sequence[str]) -> str:
        """Return `x + gamma_1 * attn(norm1(x))`; `biases` name the constants to add to the scores."""
        attn = f"{prefix}attn."
        y = self.narrow(self.layer_norm(f"{prefix}norm1", x))
        dim, heads = self.variant.embed_dim, self.variant.num_heads
        scale = np.float32((dim // heads) ** -0.5)
        q_weight, k_weight, v_weight = np.split(self.weights[f"{attn}qkv.weight"], 3)
        q = self.linear(f"{attn}q", y, q_weight * scale, self.weights[f"{attn}q_bias"] * scale)
        k = self.linear(f"{attn}k", y, k_weight)
        v = self.linear(f"{attn}v", y, v_weight)
        by_head = self.integers(0, self.tokens, heads, dim // heads)
        q, k, v = (self.node("Reshape", f"{name}/heads", [name, by_head]) for name in (q, k, v))
        q = self.node("Transpose", f"{attn}queries", [q], perm=[0, 2, 1, 3])
        k = self.node("Transpose", f"{attn}keys", [k], perm=[0, 2, 3, 1])
        v = self.node("Transpose", f"{attn}values", [v], perm=[0, 2, 1, 3])
        scores = self.node("MatMul", f"{attn}scores", [q, k])
        for number, bias in enumerate(biases):
            scores = self.node("Add", f"{attn}scores/biased_{number}", [scores, bias])
        probabilities = self.node("Softmax", f"{attn}probabilities", [self.widen(scores)], axis=-1)
        y = self.node("MatMul", f"{attn}weighted", [self.narrow(probabilities), v])
        y = self.node("Transpose", f"{attn}weighted/by_token", [y], perm=[0, 2, 1, 3])
        y = self.node("Reshape", f"{attn}weighted/tokens", [y, self.integers(0, self.tokens, dim)])
        weight = self.weights[f"{attn}proj.weight"]
        proj_bias = self.weights[f"{attn}proj.bias"] + weight @ self.weights[f"{attn}v_bias"]
        y = self.scaled_linear(f"{attn}proj", y, weight, proj_bias, f"{prefix}gamma_1")
        return self.node("Add", f"{prefix}with_attention", [x, y])

    def mlp_branch(self, prefix: str, x: str) -> str:
        """Return `x + gamma_2 * mlp(norm2(x))`."""
        fc1, fc2 = f"{prefix}mlp.fc1", f"{prefix}mlp.fc2"
        y = self.narrow(self.layer_norm(f"{prefix}norm2", x))
        y = self.linear(fc1, y, self.weights[f"{fc1}.weight"], self.weights[f"{fc1}.bias"])
        kind = "tanh" if self.config.approximate_gelu else "none"
        y = self.node("Gelu", f"{prefix}mlp.gelu", [y], approximate=kind)
        y = self.scaled_linear(fc2, y, self.weights[f"{fc2}.weight"], self.weights[f"{fc2}.bias"], f"{prefix}gamma_2")
        return self.node("Add", f"{prefix}with_mlp", [x, y])

    def classify(self, x: str) -> None:
        """Add the head on the mean of the patch tokens or on the class token."""
        if self.config.mean_pooling:
            axis, end = self.integers(1), self.integers(np.iinfo(np.int64).max)
            x = self.node("Slice", "pooled/patches", [x, self.integers(1), end, axis])
            x = self.node("ReduceMean", "pooled", [x, axis], keepdims=0)
            x = self.layer_norm("fc_norm", x)
        else:
            # the norm treats each token separately, so only the class token needs it
            x = self.node("Gather", "pooled", [x, self.constant("class_token", np.array(0), np.int64)], axis=1)
            x = self.layer_norm("norm", x)
        head = [self.constant(name, self.weights[name]) for name in ("head.weight", "head.bias")]
        self.node("Gemm", OUTPUT, [x, *head], transB=1)

    def layer_norm(self, name: str, x: str) -> str:
        parameters = [self.constant(f"{name}.{part}", self.weights[f"{name}.{part}"]) for part in ("weight", "bias")]
        return self.node("LayerNormalization", name, [x, *parameters], axis=-1, epsilon=self.config.layer_norm_eps)

    def scaled_linear(self, name: str, x: str, weight: np.ndarray, bias: np.ndarray, gamma_name: str) -> str:
        """Return `gamma * (x W^T + b)` in float32, with `weight` [out, in] and `bias` [out].

        The layer scale is folded into the matrix unless float16 would lose its values there.
        """
        if not self.config.layer_scale:
            return self.linear(name, x, weight, bias, wide=True)
        gamma = self.weights[gamma_name]
        if self.keeps(weight * gamma[:, None]):
            return self.linear(name, x, weight * gamma[:, None], bias * gamma, wide=True)
        y = self.linear(name, x, weight, bias, wide=True)
        return self.node("Mul", f"{name}/scaled", [y, self.constant(f"{name}.layer_scale", gamma)])

    def linear(self, name: str, x: str, weight: np.ndarray, bias: np.ndarray | None = None, wide: bool = False) -> str:
        """Return `x W^T + b` with `weight` [out, in], stored transposed as MatMul takes it.

        With `wide`, the addition and the result are float32.
        """
        stored = self.factor(f"{name}.weight", weight.T)
        if bias is None:
            return self.node("MatMul", name, [x, stored])
        y = self.node("MatMul", f"{name}/multiply", [x, stored])
        if wide:
            return self.node("Add", name, [self.widen(y), self.constant(f"{name}.bias", bias)])
        return self.node("Add", name, [y, self.factor(f"{name}.bias", bias)])

"""The network for pre-training by masked image modeling, of BEiT (Bao et al. 2022) and BEiT v2 (Peng et al. 2022)."""

import math
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops

from src.encoder import Encoder, drop_path_rates, initialize
from src.layers.layers import Layers
from src.layers.precision import Precision
from src.model.model_config import ModelConfig, TrainingOptions
from src.model.variants import Variant

INITIAL_DEVIATION = 0.02


class MaskedImageModeling(Encoder):
    """BEiT with a head that predicts the content of masked patches.

    Parameter names and numbers are those of the authors' `modeling_pretrain.VisionTransformerForMaskedImageModeling`
    and, with `head_layers`, of BEiT v2's `VisionTransformerForMaskedImageModelingCLS` with a shared `lm_head`.
    Arguments and errors are those of `Encoder`; `model.early_layers` may be at most the depth.
    """

    def __init__(
        self,
        variant: Variant,
        model: ModelConfig,
        training: TrainingOptions,
        precision: Precision,
        layers: Layers,
    ) -> None:
        super().__init__(variant, model, training, precision, layers)
        dim, depth = variant.embed_dim, variant.depth
        self.mask_token = Parameter(Tensor(np.zeros((1, 1, dim)), precision.weight))
        self.early_layers = model.early_layers
        last = model.early_layers + model.head_layers
        rates = drop_path_rates(training.drop_path, max(depth, last))[model.early_layers : last]
        self.cls_pt_layers = self.make_blocks(rates, first=depth) if model.head_layers else None
        self.norm = layers.layer_norm(dim, model.layer_norm_eps, precision)
        self.lm_head = layers.linear(dim, model.lm_head_outputs, precision)
        initialize(self, training.seed, InitialValues(model.early_layers, dim, self.block_config.hidden_dim))

    def construct(
        self, image: Tensor, mask: Tensor, positions: Tensor, key: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Predict the content of masked patches.

        Args:
            image: float32 [B, 3, S, S].
            mask: float32 [B, N] over the N patches of an image, row by row: 1 where a patch is masked, else 0.
            positions: int32 [B, M], the patches to predict; a graph has a fixed number, so some may not be masked.
            key: int32 [B], one random number per sample, for `drop` or `drop_path` above 0.

        Returns:
            float32 [B, M, lm_head_outputs]: one tensor, and a second one of the `cls_pt_layers`.
        """
        x = self.with_class_token(self.replace_masked(self.patch_embed(image), mask), key)
        shared_bias = self.shared_bias()
        early = x
        for number, block in enumerate(self.blocks):
            x = block(x, shared_bias, key)
            if number + 1 == self.early_layers:
                early = x
        if self.cls_pt_layers is None:
            return (self.predict(x, positions),)
        y = ops.concat((x[:, :1], early[:, 1:]), 1)
        for block in self.cls_pt_layers:
            y = block(y, shared_bias, key)
        return self.predict(x, positions), self.predict(y, positions)

    def replace_masked(self, patches: Tensor, mask: Tensor) -> Tensor:
        """Put the mask token in the place of the masked patches of [B, N, embed_dim]."""
        mask = ops.broadcast_to(ops.expand_dims(mask, 2), patches.shape)
        token = ops.broadcast_to(ops.cast(self.mask_token, ms.float32), patches.shape)
        return patches * (1.0 - mask) + token * mask

    def predict(self, x: Tensor, positions: Tensor) -> Tensor:
        """Tokens [B, 1 + N, embed_dim] and positions int32 [B, M] -> float32 [B, M, lm_head_outputs]."""
        batch, tokens, dim = x.shape
        first = ops.expand_dims(ops.arange(0, batch * tokens, tokens), 1) + 1  # row of the first patch of each image
        rows = ops.reshape(ops.cast(first, ms.int32) + positions, (-1,))
        chosen = ops.gather(ops.reshape(x, (batch * tokens, dim)), rows, 0)
        return ops.cast(ops.reshape(self.lm_head(self.norm(chosen)), (batch, positions.shape[1], -1)), ms.float32)


@dataclass(frozen=True)
class InitialValues:
    """Draws the first values of a network for masked image modeling like the authors' code.

    Matrices, the patch projection, the tokens and the position embedding are normal with standard deviation 0.02,
    truncated at one standard deviation. BEiT v2's `cls_pt_layers` keep PyTorch's uniform distribution for linear
    layers, biases included, because the authors' code makes them after it has drawn the others. In both, the last
    matrix of each branch is divided by sqrt(2 * block number); the numbers of `cls_pt_layers` follow `early_layers`.

    Attributes:
        early_layers: the block whose patch tokens the `cls_pt_layers` see.
        dim, hidden_dim: width of a token, and of the hidden layer of a block.
    """

    early_layers: int
    dim: int
    hidden_dim: int

    def __call__(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray | None:
        """Return float32 of `shape`, or `None` for a parameter that starts constant."""
        matrix = name.endswith(".weight") and len(shape) > 1
        first = 1
        if name.startswith("cls_pt_layers."):
            if not matrix and not name.endswith((".proj.bias", ".fc1.bias", ".fc2.bias")):
                return None
            bound = 1.0 / math.sqrt(self.hidden_dim if ".fc2." in name else self.dim)
            value = rng.uniform(-bound, bound, shape).astype(np.float32)
            first += self.early_layers
        elif matrix or name in ("cls_token", "mask_token", "pos_embed"):
            value = _truncated_normal(shape, rng) * np.float32(INITIAL_DEVIATION)
        else:
            return None
        if name.endswith((".attn.proj.weight", ".mlp.fc2.weight")):
            value /= np.float32(math.sqrt(2.0 * (first + int(name.split(".")[1]))))
        return value


def _truncated_normal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw float32 values of the standard normal distribution in [-1, 1]; others are drawn again."""
    value = rng.standard_normal(shape, dtype=np.float32)
    while (outside := np.abs(value) > 1).any():
        value[outside] = rng.standard_normal(int(outside.sum()), dtype=np.float32)
    return value

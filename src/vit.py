"""The BEiT network for image classification (Bao et al. 2022), as its authors and timm build it."""

import math
from functools import partial

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from src.encoder import Encoder, initialize
from src.layers.custom_identity import Identity
from src.layers.layers import Layers
from src.layers.precision import Precision
from src.model.model_config import ModelConfig, TrainingOptions
from src.model.variants import Variant


class VisionTransformer(Encoder):
    """BEiT; parameter names and numbers are those of the authors' `modeling_finetune.VisionTransformer`.

    Arguments and errors are those of `Encoder`. `model` also decides classes and pooling, `training` the scale of the
    initial head and the seed of all initial weights.
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
        dim, eps = variant.embed_dim, model.layer_norm_eps
        self.mean_pooling = model.mean_pooling
        self.norm = Identity() if model.mean_pooling else layers.layer_norm(dim, eps, precision)
        self.fc_norm = layers.layer_norm(dim, eps, precision) if model.mean_pooling else Identity()
        self.head = layers.linear(dim, model.num_classes, precision)
        draw = partial(initial_value, self.patch_embed.proj.patch_features, training.init_scale)
        initialize(self, training.seed, draw)

    def construct(self, image: Tensor, key: Tensor | None = None) -> Tensor:
        """`image` float32 [B, 3, S, S] -> logits float32 [B, num_classes].

        `key` int32 [B], one random number per sample, is needed in training with `drop` or `drop_path` above 0.
        Raises `ValueError` for an image of another shape; in graph mode this happens at compile time.
        """
        x = self.embed(image, key)
        shared_bias = self.shared_bias()
        for block in self.blocks:
            x = block(x, shared_bias, key)
        return self.classify(x)

    def embed(self, image: Tensor, key: Tensor | None) -> Tensor:
        """`image` [B, 3, S, S] -> float32 tokens [B, 1 + patches, embed_dim], the class token first."""
        return self.with_class_token(self.patch_embed(image), key)

    def classify(self, x: Tensor) -> Tensor:
        """Tokens of the last block [B, N, embed_dim] -> logits float32 [B, num_classes]."""
        x = self.norm(x)
        cls_token, patches = ops.split(x, (1, x.shape[1] - 1), 1)
        pooled = ops.mean(patches, 1) if self.mean_pooling else ops.squeeze(cls_token, 1)
        return ops.cast(self.head(self.fc_norm(pooled)), ms.float32)


create_model = VisionTransformer.create


def initial_value(
    patch_features: int, init_scale: float, name: str, shape: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray | None:
    """Draw the first value of the parameter `name`, float32 of `shape`, like the authors' code.

    Matrices, class token and position embedding are normal with standard deviation 0.02 (the authors truncate at 100
    standard deviations, which removes nothing). The last matrix of each branch is divided by sqrt(2 * block number),
    and the head is multiplied by `init_scale`. The patch projection, of patches with `patch_features` values, keeps
    PyTorch's uniform distribution for convolutions, because the authors' rule covers only linear layers. All other
    parameters start constant (`None`).
    """
    if name.startswith("patch_embed.proj."):
        bound = 1.0 / math.sqrt(patch_features)
        return rng.uniform(-bound, bound, shape).astype(np.float32)
    if name not in ("cls_token", "pos_embed") and not (name.endswith(".weight") and len(shape) == 2):
        return None
    deviation = 0.02
    if name.endswith((".attn.proj.weight", ".mlp.fc2.weight")):
        deviation /= math.sqrt(2.0 * (int(name.split(".")[1]) + 1))
    if name == "head.weight":
        deviation *= init_scale
    value = rng.standard_normal(shape, dtype=np.float32)
    value *= np.float32(deviation)
    return value

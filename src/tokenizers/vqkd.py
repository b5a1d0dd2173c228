"""The tokenizer of BEiT v2 (Peng et al. 2022): a vision transformer whose patch tokens are looked up in a codebook.

Numbers and parameter names are those of unilm `beit2/modeling_vqkd.py` and `norm_ema_quantizer.py`. Its decoder, which
predicts the features of a teacher, is not needed.
"""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.encoder import Encoder, portable_layers
from src.layers.precision import AMP_LEVELS
from src.model.model_config import ModelConfig, TrainingOptions
from src.model.variants import Variant
from src.tokenizers.tokenizer import Tokenizer

NORM_EPS = 1e-12  # least length of a vector that is divided by its length, as in PyTorch


class VQKD(Tokenizer):
    """The encoder and the codebook.

    Args:
        variant: the sizes of the transformer; its image size is the tokenizer's.
        vocab_size: vectors in the codebook.
        code_dim: numbers of such a vector.
    """

    def __init__(self, variant: Variant, vocab_size: int, code_dim: int) -> None:
        super().__init__()
        self.vocab_size, self.image_size = vocab_size, variant.image_size
        self.encoder = PatchFeatures(variant)
        dim = variant.embed_dim
        self.encode_task_layer = nn.SequentialCell(Linear(dim, dim), nn.Tanh(), Linear(dim, code_dim))
        self.quantize = Codebook(vocab_size, code_dim)

    def construct(self, token_image: Tensor) -> Tensor:
        """`token_image` uint8 [B, 3, T, T] -> tokens int32 [B, N], row by row."""
        image = ops.cast(token_image, ms.float32) / 255.0
        return self.quantize(self.encode_task_layer(self.encoder(image * 255.0 / 127.5 - 1.0)))


class PatchFeatures(Encoder):
    """The transformer without position bias and layer scale; returns its normalized patch tokens."""

    def __init__(self, variant: Variant) -> None:
        model = ModelConfig(
            "", variant.image_size, 0, rel_pos_bias=False, abs_pos_emb=True, layer_scale=False, mean_pooling=True
        )
        layers, precision = portable_layers(), AMP_LEVELS["O0"]
        super().__init__(variant, model, TrainingOptions(), precision, layers)
        self.fc_norm = layers.layer_norm(variant.embed_dim, model.layer_norm_eps, precision)

    def construct(self, image: Tensor) -> Tensor:
        """Float32 [B, 3, T, T] in -1..1 -> float32 [B, N, embed_dim]."""
        x = self.with_class_token(self.patch_embed(image), None)
        for block in self.blocks:
            x = block(x, None, None)
        return self.fc_norm(x[:, 1:])


class Codebook(nn.Cell):
    """Vectors of length 1; a feature's token is the number of the nearest one."""

    def __init__(self, vocab_size: int, code_dim: int) -> None:
        super().__init__()
        self.embedding = Embedding(vocab_size, code_dim)

    def construct(self, features: Tensor) -> Tensor:
        """Float32 [B, N, code_dim] -> int32 [B, N]."""
        batch, count, code_dim = features.shape
        length = ops.sqrt(ops.square(features).sum(-1, keepdims=True))
        z = (features / ops.maximum(length, NORM_EPS)).reshape(-1, code_dim)
        codes = self.embedding.weight
        squares = ops.square(z).sum(1, keepdims=True) + ops.square(codes).sum(1)
        distances = squares - 2.0 * ops.matmul(z, codes.T)
        return ops.cast(ops.argmin(distances, 1), ms.int32).reshape(batch, count)


class Embedding(nn.Cell):
    """`weight` float32 [vocab_size, code_dim]."""

    def __init__(self, vocab_size: int, code_dim: int) -> None:
        super().__init__()
        self.weight = Parameter(Tensor(np.zeros((vocab_size, code_dim), np.float32)))


class Linear(nn.Cell):
    """A linear layer of float32 with `weight` [out, in] and `bias` [out]."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = Parameter(Tensor(np.zeros((out_features, in_features), np.float32)))
        self.bias = Parameter(Tensor(np.zeros(out_features, np.float32)))

    def construct(self, x: Tensor) -> Tensor:
        """[B, N, in] -> [B, N, out]."""
        batch, count, features = x.shape
        y = ops.matmul(x.reshape(-1, features), self.weight.T) + self.bias
        return y.reshape(batch, count, -1)

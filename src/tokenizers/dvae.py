"""A discrete VAE to train on one's own images: encoder, codebook and decoder.

Numbers and parameter names are those of the class `DiscreteVAE` of unilm `beit/modeling_discrete_vae.py`.
"""

import math
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.encoder import initialize
from src.tokenizers.tokenizer import Tokenizer

IMAGE_MEAN_STD = 0.5  # images are scaled from 0..1 to -1..1
LOG_EPS = 1e-10  # added to a probability before its logarithm


@dataclass(frozen=True)
class DvaeSizes:
    """Sizes of a discrete VAE.

    Attributes:
        num_tokens: size of the vocabulary.
        codebook_dim: numbers of a vector of the codebook.
        num_layers: convolutions that halve the image, so one token stands for 2^num_layers pixels along a side.
        hidden_dim: channels of the convolutions.
    """

    num_tokens: int = 8192
    codebook_dim: int = 512
    num_layers: int = 3
    hidden_dim: int = 256

    @property
    def patch(self) -> int:
        """Pixels along a side for one token."""
        return int(2**self.num_layers)


class DiscreteVAE(Tokenizer):
    """The network, for images of `image_size` pixels; its weights start like PyTorch's layers."""

    def __init__(self, sizes: DvaeSizes, image_size: int, seed: int = 0) -> None:
        super().__init__()
        self.vocab_size, self.image_size = sizes.num_tokens, image_size
        hidden = sizes.hidden_dim
        encoder: list[nn.Cell] = []
        decoder: list[nn.Cell] = []
        for layer in range(sizes.num_layers):
            encoder.append(nn.SequentialCell(Conv2d(3 if layer == 0 else hidden, hidden, 4, stride=2), nn.ReLU()))
            encoder.append(ResBlock(hidden))
            first = sizes.codebook_dim if layer == 0 else hidden
            decoder.append(nn.SequentialCell(ConvTranspose2d(first, hidden), nn.ReLU()))
            decoder.append(ResBlock(hidden))
        self.encoder = nn.SequentialCell(*encoder, Conv2d(hidden, sizes.num_tokens, 1))
        self.decoder = nn.SequentialCell(*decoder, Conv2d(hidden, 3, 1))
        self.codebook = Codebook(sizes.num_tokens, sizes.codebook_dim)
        fan_in = {name: math.prod(p.shape[1:]) for name, p in self.parameters_and_names() if name.endswith(".weight")}
        initialize(self, seed, lambda name, shape, rng: _initial_value(fan_in, name, shape, rng))

    def construct(self, token_image: Tensor) -> Tensor:
        """`token_image` uint8 [B, 3, T, T] -> tokens int32 [B, N], row by row."""
        logits = self.encoder(scaled(token_image))
        return ops.cast(ops.argmax(logits, 1), ms.int32).reshape(token_image.shape[0], -1)

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens int32 [B, N] -> images float32, in -1..1 where they are good, [B, 3, T, T]."""
        batch, count = tokens.shape
        side = int(count**0.5)
        codes = ops.gather(self.codebook.weight, tokens.reshape(-1), 0)
        return self.decoder(codes.reshape(batch, side, side, -1).transpose(0, 3, 1, 2))


def scaled(token_image: Tensor) -> Tensor:
    """Uint8 [B, 3, T, T] -> float32 in -1..1."""
    return (ops.cast(token_image, ms.float32) / 255.0 - IMAGE_MEAN_STD) / IMAGE_MEAN_STD


class Conv2d(nn.Cell):
    """A convolution with `weight` [out, in, kernel, kernel] and `bias` [out]; stride 1 keeps the size, 2 halves it."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.weight = Parameter(Tensor(np.zeros((out_channels, in_channels, kernel, kernel), np.float32)))
        self.bias = Parameter(Tensor(np.zeros(out_channels, np.float32)))
        self.conv = ops.Conv2D(out_channels, kernel, pad_mode="pad", pad=(kernel - 1) // 2, stride=stride)
        self.add_bias = ops.BiasAdd()

    def construct(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, H / stride, W / stride]."""
        return self.add_bias(self.conv(x, self.weight), self.bias)


class ConvTranspose2d(nn.Cell):
    """A transposed convolution of 4 x 4 that doubles the size, with `weight` [in, out, 4, 4] and `bias` [out]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = Parameter(Tensor(np.zeros((in_channels, out_channels, 4, 4), np.float32)))
        self.bias = Parameter(Tensor(np.zeros(out_channels, np.float32)))
        self.conv = ops.Conv2DTranspose(in_channels, 4, pad_mode="pad", pad=1, stride=2)
        self.add_bias = ops.BiasAdd()

    def construct(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, 2 H, 2 W]."""
        batch, _, height, width = x.shape
        size = (batch, self.weight.shape[1], 2 * height, 2 * width)
        return self.add_bias(self.conv(x, self.weight, size), self.bias)


class ResBlock(nn.Cell):
    """Input plus three convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        convolutions = (Conv2d(channels, channels, 3), Conv2d(channels, channels, 3), Conv2d(channels, channels, 1))
        self.net = nn.SequentialCell(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), convolutions[2])

    def construct(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> the same shape."""
        return self.net(x) + x


class Codebook(nn.Cell):
    """`weight` float32 [num_tokens, codebook_dim]."""

    def __init__(self, num_tokens: int, codebook_dim: int) -> None:
        super().__init__()
        self.weight = Parameter(Tensor(np.zeros((num_tokens, codebook_dim), np.float32)))


def _initial_value(
    fan_in: dict[str, int], name: str, shape: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray | None:
    """Draw the first value of a parameter like PyTorch: uniform in convolutions, standard normal in the codebook."""
    if name == "codebook.weight":
        return rng.standard_normal(shape, dtype=np.float32)
    # PyTorch takes the second axis of the weight for the inputs, also where a convolution is transposed
    bound = 1.0 / math.sqrt(fan_in[name.rsplit(".", 1)[0] + ".weight"])
    return rng.uniform(-bound, bound, shape).astype(np.float32)

"""DALL-E's discrete VAE (Ramesh et al. 2021): its encoder, the tokenizer of BEiT, and its decoder for pictures.

Numbers and parameter names are those of OpenAI's `dall_e` package, as in unilm `beit/dall_e`.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.tokenizers.tokenizer import Tokenizer

GROUPS = 4
PATCH = 2 ** (GROUPS - 1)  # pixels along a side for one token: all groups but the last halve the image
PIXEL_EPS = 0.1  # images are scaled from 0..1 to PIXEL_EPS..1 - PIXEL_EPS


@dataclass(frozen=True)
class DalleSizes:
    """Number of tokens, channels after the first convolution (of the decoder: before the last), blocks in a group.

    `first` is the number of channels after the first convolution of the decoder, 0 for an encoder.
    """

    vocab_size: int = 8192
    hidden: int = 256
    blocks: int = 2
    first: int = 0


class DalleEncoder(Tokenizer):
    """The encoder, for images of `image_size` pixels, a multiple of 8; one token for 8 x 8 pixels."""

    def __init__(self, sizes: DalleSizes, image_size: int) -> None:
        super().__init__()
        self.vocab_size, self.image_size = sizes.vocab_size, image_size
        widths = [sizes.hidden * factor for factor in (1, 1, 2, 4, 8)]
        parts: list[tuple[str, nn.Cell]] = [("input", Convolution(3, widths[0], 7))]
        for group in range(GROUPS):
            blocks = _group(widths[group], widths[group + 1], (3, 3, 3, 1), sizes.blocks)
            if group < GROUPS - 1:
                blocks.append(("pool", nn.MaxPool2d(2, 2)))
            parts.append((f"group_{group + 1}", nn.SequentialCell(OrderedDict(blocks))))
        parts.append(("output", _output(widths[-1], sizes.vocab_size)))
        self.blocks = nn.SequentialCell(OrderedDict(parts))

    def construct(self, token_image: Tensor) -> Tensor:
        """`token_image` uint8 [B, 3, T, T] -> tokens int32 [B, (T / 8)^2], row by row."""
        logits = self.logits(ops.cast(token_image, ms.float32) / 255.0)
        return ops.cast(ops.argmax(logits, 1), ms.int32).reshape(token_image.shape[0], -1)

    def logits(self, image: Tensor) -> Tensor:
        """Float32 [B, 3, T, T] in 0..1 -> float32 [B, vocab_size, T / 8, T / 8]."""
        return self.blocks((1.0 - 2.0 * PIXEL_EPS) * image + PIXEL_EPS)


class DalleDecoder(nn.Cell):
    """The decoder: tokens -> an image."""

    def __init__(self, sizes: DalleSizes) -> None:
        super().__init__()
        self.vocab_size = sizes.vocab_size
        widths = [sizes.first, *(sizes.hidden * factor for factor in (8, 4, 2, 1))]
        parts: list[tuple[str, nn.Cell]] = [("input", Convolution(sizes.vocab_size, widths[0], 1))]
        for group in range(GROUPS):
            blocks = _group(widths[group], widths[group + 1], (1, 3, 3, 3), sizes.blocks)
            if group < GROUPS - 1:
                blocks.append(("upsample", Enlargement()))
            parts.append((f"group_{group + 1}", nn.SequentialCell(OrderedDict(blocks))))
        parts.append(("output", _output(widths[-1], 6)))  # mean and scale of three colors
        self.blocks = nn.SequentialCell(OrderedDict(parts))

    def construct(self, tokens: Tensor) -> Tensor:
        """Tokens int32 [B, N] -> the most probable images, float32 [B, 3, T, T] in 0..1, with T = 8 sqrt(N)."""
        batch, count = tokens.shape
        side = int(count**0.5)
        codes = ops.one_hot(tokens, self.vocab_size, Tensor(1.0), Tensor(0.0))
        y = self.blocks(codes.reshape(batch, side, side, self.vocab_size).transpose(0, 3, 1, 2))
        return ops.clamp((ops.sigmoid(y[:, :3]) - PIXEL_EPS) / (1.0 - 2.0 * PIXEL_EPS), 0.0, 1.0)


class Convolution(nn.Cell):
    """A convolution that keeps the size of its input, with parameters `w` [out, in, kernel, kernel] and `b` [out]."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.w = Parameter(Tensor(np.zeros((out_channels, in_channels, kernel, kernel), np.float32)))
        self.b = Parameter(Tensor(np.zeros(out_channels, np.float32)))
        self.conv = ops.Conv2D(out_channels, kernel, pad_mode="pad", pad=kernel // 2)
        self.add_bias = ops.BiasAdd()

    def construct(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, H, W]."""
        return self.add_bias(self.conv(x, self.w), self.b)


class ResidualBlock(nn.Cell):
    """Input plus `post_gain` times four convolutions of the sizes `kernels`, each after a ReLU."""

    def __init__(self, channels: tuple[int, int], kernels: Sequence[int], post_gain: float) -> None:
        super().__init__()
        first, last = channels
        widths = (first, *[last // 4] * 3, last)
        self.id_path = Convolution(first, last, 1) if first != last else nn.Identity()
        path: list[tuple[str, nn.Cell]] = []
        for number, kernel in enumerate(kernels):
            path.append((f"relu_{number + 1}", nn.ReLU()))
            path.append((f"conv_{number + 1}", Convolution(widths[number], widths[number + 1], kernel)))
        self.res_path = nn.SequentialCell(OrderedDict(path))
        self.post_gain = post_gain

    def construct(self, x: Tensor) -> Tensor:
        """[B, channels[0], H, W] -> [B, channels[1], H, W]."""
        return self.id_path(x) + self.post_gain * self.res_path(x)


class Enlargement(nn.Cell):
    """Each pixel becomes 2 x 2 pixels."""

    def construct(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, 2 H, 2 W]."""
        return ops.repeat_elements(ops.repeat_elements(x, 2, 2), 2, 3)


def _group(first: int, last: int, kernels: Sequence[int], blocks: int) -> list[tuple[str, nn.Cell]]:
    gain = 1.0 / (GROUPS * blocks) ** 2
    pairs = ((first if number == 0 else last, last) for number in range(blocks))
    return [(f"block_{number + 1}", ResidualBlock(pair, kernels, gain)) for number, pair in enumerate(pairs)]


def _output(in_channels: int, out_channels: int) -> nn.Cell:
    return nn.SequentialCell(OrderedDict([("relu", nn.ReLU()), ("conv", Convolution(in_channels, out_channels, 1))]))

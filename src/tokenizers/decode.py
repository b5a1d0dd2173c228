"""Pictures of visual tokens, for people to look at."""

from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor

from src.tokenizers.dvae import IMAGE_MEAN_STD, DiscreteVAE
from src.tokenizers.load import build_dalle_decoder
from src.tokenizers.tokenizer import Tokenizer
from src.tokenizers.tokenizer_file import DALLE, TokenizerFile, read_dalle_decoder

DALLE_DECODER = "decoder.pkl"  # beside encoder.pkl

Decode = Callable[[np.ndarray], np.ndarray]
"""Tokens int32 [B, N] -> RGB values in 0..1, float32 [B, 3, T, T]."""


def decoder_of(file: TokenizerFile, tokenizer: Tokenizer) -> Decode | None:
    """Return the decoder of `tokenizer`, which was built from `file`; None without one.

    A discrete VAE has its own. DALL-E's is the file `decoder.pkl` beside its encoder. VQ-KD decodes to features, not to
    pixels. Raises `UserError` for a damaged decoder.
    """
    if isinstance(tokenizer, DiscreteVAE):
        return lambda tokens: _in_unit_range(tokenizer.decode(Tensor(tokens, ms.int32)).asnumpy())
    path = file.path.with_name(DALLE_DECODER)
    if file.kind != DALLE or not path.is_file():
        return None
    decoder = build_dalle_decoder(read_dalle_decoder(path))
    return lambda tokens: decoder(Tensor(tokens, ms.int32)).asnumpy()


def tokens_of(tokenizer: Tokenizer, token_image: np.ndarray) -> np.ndarray:
    """Return the tokens int32 [B, N] of images uint8 [B, 3, T, T]."""
    return tokenizer(Tensor(token_image)).asnumpy()


def _in_unit_range(images: np.ndarray) -> np.ndarray:
    return (images * IMAGE_MEAN_STD + IMAGE_MEAN_STD).clip(0, 1)

"""Compute of a training image: the multiplications of matrix products and convolutions, forward and backward.

A backward pass has twice the multiplications of the forward pass. Activations, norms and the optimizer are not counted.
"""

from __future__ import annotations

from src.model.variants import Variant
from src.tokenizers.dvae import DvaeSizes

FORWARD_AND_BACKWARD = 3


def fine_tuning(variant: Variant, grid: int, num_classes: int) -> int:
    """Return the multiplications for one image of `grid` x `grid` patches."""
    return FORWARD_AND_BACKWARD * (encoder(variant, grid) + variant.embed_dim * num_classes)


def pixels(variant: Variant, grid: int, masked: int) -> int:
    """Return those of pre-training that predicts the pixels of `masked` patches."""
    return FORWARD_AND_BACKWARD * (encoder(variant, grid) + masked * variant.embed_dim * 3 * variant.patch_size**2)


def tokens(variant: Variant, grid: int, masked: int, sizes: DvaeSizes) -> int:
    """Return those of pre-training that predicts the tokens of `masked` patches; the tokenizer has no backward pass."""
    head = masked * variant.embed_dim * sizes.num_tokens
    return FORWARD_AND_BACKWARD * (encoder(variant, grid) + head) + tokenizer_encoder(sizes, grid)


def tokenizer(sizes: DvaeSizes, grid: int) -> int:
    """Return those of training the tokenizer."""
    codebook = grid**2 * sizes.num_tokens * sizes.codebook_dim
    return FORWARD_AND_BACKWARD * (tokenizer_encoder(sizes, grid) + codebook + tokenizer_decoder(sizes, grid))


def encoder(variant: Variant, grid: int) -> int:
    """Return the multiplications of BEiT's forward pass up to the last block."""
    dim, sequence = variant.embed_dim, grid**2 + 1
    matrices = (4 + 2 * variant.mlp_ratio) * dim**2 * sequence  # query, key, value, projection; two of the MLP
    attention = 2 * sequence**2 * dim
    return round(grid**2 * 3 * variant.patch_size**2 * dim + variant.depth * (matrices + attention))


def tokenizer_encoder(sizes: DvaeSizes, grid: int) -> int:
    """Return the multiplications of the forward pass from the image to the logits of the tokens."""
    total, side, channels = grid**2 * sizes.hidden_dim * sizes.num_tokens, grid * sizes.patch, 3
    for _ in range(sizes.num_layers):
        side //= 2
        total += side**2 * (16 * channels * sizes.hidden_dim + residual_block(sizes))
        channels = sizes.hidden_dim
    return total


def tokenizer_decoder(sizes: DvaeSizes, grid: int) -> int:
    """Return the multiplications of the forward pass from the mean of the codebook to the image."""
    total, side, channels = 0, grid, sizes.codebook_dim
    for _ in range(sizes.num_layers):
        total += side**2 * 16 * channels * sizes.hidden_dim  # a transposed convolution, per pixel of its input
        side, channels = 2 * side, sizes.hidden_dim
        total += side**2 * residual_block(sizes)
    return total + side**2 * sizes.hidden_dim * 3


def residual_block(sizes: DvaeSizes) -> int:
    """Return the multiplications per pixel: two convolutions of 3 x 3 and one of 1 x 1."""
    return (9 + 9 + 1) * sizes.hidden_dim**2

"""The objective of training a discrete VAE: reconstruct images through random visual tokens."""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops

from src.layers.counter_based_random import random_bits
from src.tokenizers.dvae import LOG_EPS, DiscreteVAE, scaled
from src.trainer.task import Metric, Objective

RECONSTRUCTION = Metric("reconstruction", "reconstruction", ".6f", ".5f")
STREAM = 0  # of the random numbers; the network has no other
UNIFORM_STEPS = 2.0**24  # values of a random number


class Reconstruction(Objective):
    """Reconstruction error plus `kl_loss_weight` times the divergence of the tokens from the uniform distribution.

    Tokens are drawn by Gumbel softmax (Jang et al. 2017). As in the authors' code, the error is the mean over all
    pixels, but the divergence is the sum over images and positions: it grows with the batch. The metric is the error.

    State: `optimizer.codes_used`, float32 [vocab_size], 1 for every token that was the most probable one of a position
    since it was set to 0.

    Args:
        straight_through: decode the drawn token alone, instead of the weighted mean of the codebook.
        smooth_l1: the error is smooth L1 instead of the square.
    """

    metrics = (RECONSTRUCTION,)

    def __init__(
        self, network: DiscreteVAE, kl_loss_weight: float, *, straight_through: bool = False, smooth_l1: bool = False
    ) -> None:
        super().__init__(auto_prefix=False)  # a prefix would rename the network's parameters
        self.network = network
        self.kl_loss_weight = kl_loss_weight
        self.straight_through, self.smooth_l1 = straight_through, smooth_l1
        used = Tensor(np.zeros(network.vocab_size, np.float32))
        self.codes_used = Parameter(used, name="optimizer.codes_used", requires_grad=False)

    def construct(self, token_image: Tensor, key: Tensor, temperature: Tensor) -> Tensor:
        """Images uint8 [B, 3, T, T], key int32 [B], temperature float32 [B], all equal -> float32 [2]: loss, error."""
        image = scaled(token_image)
        logits = self.network.encoder(image)
        tokens = ops.cast(ops.argmax(logits, 1), ms.int32).reshape(-1)
        ops.scatter_update(self.codes_used, tokens, ops.ones(tokens.size, ms.float32))
        noise = gumbel(key, logits.shape)
        error, divergence = self.terms(image, logits, noise, temperature[0])
        return ops.stack((error + self.kl_loss_weight * divergence, error))

    def terms(self, image: Tensor, logits: Tensor, noise: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        """Return error and divergence for `noise` of the shape of `logits`, [B, vocab_size, H, W]."""
        shares = ops.softmax((logits + noise) / temperature, 1)
        if self.straight_through:
            hard = ops.one_hot(ops.argmax(shares, 1), shares.shape[1], Tensor(1.0), Tensor(0.0), 1)
            shares = ops.stop_gradient(hard - shares) + shares
        batch, vocab, height, width = shares.shape
        rows = shares.transpose(0, 2, 3, 1).reshape(-1, vocab)
        codes = ops.matmul(rows, self.network.codebook.weight).reshape(batch, height, width, -1)
        output = self.network.decoder(codes.transpose(0, 3, 1, 2))
        difference = ops.abs(output - image)
        if self.smooth_l1:
            error = ops.where(difference < 1.0, 0.5 * ops.square(difference), difference - 0.5).mean()
        else:
            error = ops.square(difference).mean()
        probability = ops.softmax(logits, 1)
        log_probability = ops.log(probability + LOG_EPS)
        # the divergence from 1 / vocab_size; the authors weight with the exponential of this logarithm
        divergence = (ops.exp(log_probability) * (log_probability + float(np.log(vocab)))).sum()
        return error, divergence


def gumbel(key: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Draw Gumbel noise, float32 of `shape` [B, ...], from `key` int32 [B]."""
    positions = 1
    for side in shape[1:]:
        positions *= side
    uniform = (ops.cast(random_bits(key, STREAM, positions), ms.float32) + 0.5) / UNIFORM_STEPS
    return -ops.log(-ops.log(uniform)).reshape(shape)

"""The objectives of pre-training: predict the visual tokens, or the pixels, of masked patches."""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.trainer.task import Metric, Objective

ACCURACY = Metric("accuracy", "accuracy", line_format=".4f")
CLASS_TOKEN_ACCURACY = Metric("cls_pt_accuracy", "cls_pt accuracy", line_format=".4f")  # of BEiT v2's second head
PIXEL_EPS = 1e-6  # added to the variance of a patch, as in MAE


class TokenPrediction(Objective):
    """Cross entropy of the visual tokens of masked patches, summed over the heads of `network`; BEiT and BEiT v2.

    The mean is over all masked patches of the batch. The metrics are the shares of masked patches whose token is the
    most probable one, by head. The tokenizer is part of the graph and is not trained.

    State: `optimizer.codes_used`, float32 [vocab_size], 1 for every token that an image had since it was set to 0.
    """

    def __init__(self, network: nn.Cell, tokenizer: nn.Cell) -> None:
        super().__init__(auto_prefix=False)  # a prefix would rename the network's parameters
        self.network, self.tokenizer = network, tokenizer
        self.metrics = (ACCURACY, CLASS_TOKEN_ACCURACY)[: 2 if network.cls_pt_layers is not None else 1]
        used = Tensor(np.zeros(tokenizer.vocab_size, np.float32))
        self.codes_used = Parameter(used, name="optimizer.codes_used", requires_grad=False)
        self.log_softmax = ops.LogSoftmax(-1)

    def construct(
        self, image: Tensor, mask: Tensor, positions: Tensor, weights: Tensor, key: Tensor, token_image: Tensor
    ) -> Tensor:
        """The fields of `src.data.masked_images.TokenBatch` -> float32 [1 + heads]: the loss, and the accuracies."""
        tokens = ops.stop_gradient(self.tokenizer(token_image))
        ops.scatter_update(self.codes_used, tokens.reshape(-1), ops.ones(tokens.size, ms.float32))
        labels = ops.gather_elements(tokens, 1, positions)
        shares = weights / ops.sum(weights)
        heads = self.network(image, mask, positions, key)
        loss, accuracy = self.score(heads[0], labels, shares)
        if len(heads) == 1:
            return ops.stack((loss, accuracy))
        second_loss, second_accuracy = self.score(heads[1], labels, shares)
        return ops.stack((loss + second_loss, accuracy, second_accuracy))

    def score(self, logits: Tensor, labels: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, M, vocab_size], labels int32 [B, M] and shares [B, M] with sum 1 -> mean loss and accuracy."""
        log_probability = ops.gather_elements(self.log_softmax(logits), 2, ops.expand_dims(labels, 2))
        right = ops.cast(ops.equal(ops.argmax(logits, 2), labels), ms.float32)
        return -ops.sum(ops.squeeze(log_probability, 2) * shares), ops.sum(right * shares)


class PixelRegression(Objective):
    """Mean squared error of the pixels of masked patches, each patch normalized by its own mean and deviation.

    The loss of MAE (He et al. 2022) with `norm_pix_loss`. A patch has the pixels of `lm_head` row by row, each with its
    three colors.
    """

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.patch_size = network.patch_embed.patch_size

    def construct(self, image: Tensor, mask: Tensor, positions: Tensor, weights: Tensor, key: Tensor) -> Tensor:
        """The fields of `src.data.masked_images.MaskedBatch` -> the loss, float32 [1]."""
        (prediction,) = self.network(image, mask, positions, key)
        target = ops.stop_gradient(normalized_patches(image, self.patch_size))
        indices = ops.broadcast_to(ops.expand_dims(positions, 2), prediction.shape)
        errors = ops.square(prediction - ops.gather_elements(target, 1, indices)).mean(2)
        return (ops.sum(errors * weights) / ops.sum(weights)).reshape(1)


def normalized_patches(image: Tensor, patch_size: int) -> Tensor:
    """Cut images into patches and normalize each, with the unbiased variance.

    Float32 [B, 3, S, S] -> float32 [B, (S / patch)^2, patch * patch * 3], patches and pixels row by row.
    """
    batch, channels, side, _ = image.shape
    grid = side // patch_size
    patches = image.reshape(batch, channels, grid, patch_size, grid, patch_size).transpose(0, 2, 4, 3, 5, 1)
    patches = patches.reshape(batch, grid * grid, -1)
    centered = patches - patches.mean(2, keep_dims=True)
    variance = ops.square(centered).sum(2, keepdims=True) / (patches.shape[2] - 1)
    return centered / ops.sqrt(variance + PIXEL_EPS)

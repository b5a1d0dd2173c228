"""What every image tokenizer offers."""

from mindspore import Tensor, nn


class Tokenizer(nn.Cell):
    """Maps an image to visual tokens, one for each patch of the network that is pre-trained.

    Attributes:
        vocab_size: number of different tokens.
        image_size: side in pixels of the images that it takes.
    """

    vocab_size: int
    image_size: int

    def construct(self, token_image: Tensor) -> Tensor:
        """`token_image` uint8 [B, 3, T, T] with T = `image_size` -> tokens int32 [B, N], row by row."""
        raise NotImplementedError

"""The kernels of kernels.cpp for a training step's update: one call takes the tensors of all weights."""

from mindspore import Tensor, nn, ops

from src.layers.kernel import kernel, kernel_in_place


class SquareSum(nn.Cell):
    """Sum of the squared elements of all `tensors`, float32 []."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = kernel("square_sum", lambda *shapes: (1,))

    def construct(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """Return infinity or NaN if an element is not finite, or if the sum exceeds float32."""
        return ops.reshape(self.sum(*tensors), ())


def adamw(count: int) -> ops.Custom:
    """Return AdamW for `count` float32 weights as an operator; its inputs are listed in kernels.cpp.

    It multiplies the gradients by a factor, and changes weights and moments in place or not at all.
    """
    return kernel_in_place("adamw", read=8, written=3 * count, read_after=count)

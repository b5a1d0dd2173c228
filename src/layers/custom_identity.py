"""The identity, which replaces an absent layer norm, drop path or dropout."""

from mindspore import Tensor, nn


class Identity(nn.Cell):
    """Return the first argument; the second one has the place of the random key of drop path and dropout."""

    def construct(self, x: Tensor, key: Tensor | None = None) -> Tensor:
        """`x` -> `x`."""
        return x

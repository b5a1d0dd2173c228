"""What stands where BEiT has no layer: no normalization, no drop path, no dropout."""

from __future__ import annotations

from mindspore import Tensor, nn


class Identity(nn.Cell):
    """Gives its first argument back; takes a second one so that it can stand for drop path and dropout."""

    def construct(self, x: Tensor, key: Tensor | None = None) -> Tensor:
        """`x` -> `x`."""
        return x

"""Relative position bias (section 2.2 of the BEiT paper, after Raffel et al. 2020): one table row per offset."""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops


def num_relative_distances(height: int, width: int) -> int:
    """Rows of the bias table of a `height` x `width` grid.

    One row for every offset between two patches, and three for the class token (class to patch, patch to class, class
    to class).
    """
    return (2 * height - 1) * (2 * width - 1) + 3


def relative_position_index(height: int, width: int) -> np.ndarray:
    """Row of the bias table for each pair of tokens.

    Args:
        height, width: patches per column and per row of the image.

    Returns:
        int32 [N, N] with N = height * width + 1, the class token first. Entry [i, j] is the row for query i and key j.
        The offset (dy, dx) from key to query has the row (dy + height - 1) * (2 * width - 1) + dx + width - 1; the last
        three rows are class to patch, patch to class, class to class.
    """
    y, x = np.divmod(np.arange(height * width), width)
    dy, dx = y[:, None] - y, x[:, None] - x
    rows = num_relative_distances(height, width)
    index = np.empty((height * width + 1, height * width + 1), np.int32)
    index[1:, 1:] = (dy + height - 1) * (2 * width - 1) + dx + width - 1
    index[0, :] = rows - 3
    index[:, 0] = rows - 2
    index[0, 0] = rows - 1
    return index


class RelativePositionBias(nn.Cell):
    """A bias table shared by all blocks, as in BEiT's self-supervised checkpoints.

    `index` is int32 [N * N], the flattened `relative_position_index`; one tensor serves the whole network.
    """

    def __init__(self, grid: int, num_heads: int, index: Tensor, dtype: ms.dtype = ms.float32) -> None:
        super().__init__()
        self.relative_position_bias_table = Parameter(bias_table(grid, num_heads, dtype))
        self.tokens = grid * grid + 1
        self.index = index

    def construct(self) -> Tensor:
        """-> [num_heads, N, N], in the type of the table."""
        return gather_bias(self.relative_position_bias_table, self.index, self.tokens)


def bias_table(grid: int, num_heads: int, dtype: ms.dtype = ms.float32) -> Tensor:
    """A table of zeros [num_relative_distances, num_heads]: every head starts without a preference."""
    return Tensor(np.zeros((num_relative_distances(grid, grid), num_heads)), dtype)


def gather_bias(table: Tensor, index: Tensor, tokens: int) -> Tensor:
    """Read `table` [rows, heads] at `index` int32 [tokens * tokens] -> [heads, tokens, tokens]."""
    gathered = ops.gather(ops.transpose(table, (1, 0)), index, 1)
    return ops.reshape(gathered, (table.shape[1], tokens, tokens))

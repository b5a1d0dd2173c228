"""That all ranks of a run have the same weights: before its first step, and after each epoch."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable

from mindspore import nn

from src.errors import RunError
from src.trainer.loop import Callback, RunState

logger = logging.getLogger("beit")


def weights_checksum(network: nn.Cell) -> int:
    """The CRC-32 of all parameters."""
    checksum = 0
    for parameter in network.get_parameters():
        checksum = zlib.crc32(parameter.asnumpy().tobytes(), checksum)
    return checksum


class SameWeights(Callback):
    """After each epoch, before anything is saved, all ranks must have the same weights; on every rank.

    Args:
        ranks: how many there are.
        checksum: of this rank's weights, 32 bits.
        differing: the first rank with another checksum than rank 0, None where there is none; all ranks call it.
    """

    def __init__(self, ranks: int, checksum: Callable[[], int], differing: Callable[[int], int | None]) -> None:
        self._ranks, self._checksum, self._differing = ranks, checksum, differing

    def on_epoch_end(self, state: RunState) -> None:
        """Say that they agree; raises `RunError` where they do not."""
        checksum = self._checksum()
        rank = self._differing(checksum)
        if rank is not None:
            raise RunError(
                f"after epoch {state.epoch + 1} rank {rank} has other weights than rank 0, so a device or the network "
                f"between them is faulty: start again from an earlier checkpoint (--resume auto)"
            )
        logger.info("epoch %d/%d weights %08x on all %d ranks", state.epoch + 1, state.epochs, checksum, self._ranks)

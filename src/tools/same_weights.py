"""Checks that all ranks of a run have the same weights: before the first step, and after each epoch."""

import json
import logging
import zlib
from collections.abc import Mapping
from typing import Any

from mindspore import nn

from src.data.image_folder import ImageFolder
from src.errors import RunError, UserError
from src.runtime.distributed import Ranks, first_difference
from src.tools.cell import weights_checksum
from src.trainer.loop import Callback, RunState

logger = logging.getLogger("beit")


def require_same_start(ranks: Ranks, network: nn.Cell, options: Mapping[str, Any], images: ImageFolder) -> None:
    """Raise `UserError` unless all ranks, which may run on hosts with their own disks, start from the same state."""
    checksums = {
        "options": zlib.crc32(json.dumps(options, sort_keys=True).encode()),
        "training images": zlib.crc32(repr(images.classes).encode(), zlib.crc32(images.labels.tobytes())),
        "weights": weights_checksum(network),
    }
    difference = first_difference(ranks, checksums)
    if difference is not None:
        name, rank = difference
        raise UserError(f"rank {rank} has other {name} than rank 0; give all hosts the same files and options")


class SameWeights(Callback):
    """Check after each epoch, before anything is saved, that all ranks have the same weights. Add it on every rank."""

    def __init__(self, ranks: Ranks, network: nn.Cell) -> None:
        self._ranks, self._network = ranks, network

    def on_epoch_end(self, state: RunState) -> None:
        """Print the common checksum; raises `RunError` if the ranks differ."""
        checksum = weights_checksum(self._network)
        difference = first_difference(self._ranks, {"weights": checksum})
        if difference is not None:
            raise RunError(
                f"after epoch {state.epoch + 1} rank {difference[1]} has other weights than rank 0: a device or the "
                f"network between them is faulty; start again from an earlier checkpoint (--resume auto)"
            )
        logger.info(f"{state.epoch_text} weights {checksum:08x} on all {self._ranks.size} ranks")

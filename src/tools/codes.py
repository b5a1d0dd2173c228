"""How many visual tokens the images of an epoch have: a tokenizer that uses few has collapsed."""

import logging

import numpy as np
from mindspore import Parameter, Tensor

from src.runtime.distributed import Ranks, SumOverRanks
from src.trainer.task import Metric

logger = logging.getLogger("beit")

CODES = Metric("codes", "codes in use", csv_format=".0f", line_format=".0f")
COLLAPSED = 0.01  # share of the vocabulary below which a line warns


class CodesInUse:
    """How many visual tokens the images of an epoch had, over all ranks; starts anew with each call."""

    def __init__(self, used: Parameter, ranks: Ranks) -> None:
        self._used = used  # float32 [vocab_size]; see TokenPrediction
        self._sum = SumOverRanks() if ranks.size > 1 else None

    def __call__(self, batches: int | None) -> dict[str, float]:
        """Return the number under the name of `CODES`, and warn if it is small; `batches` changes nothing."""
        used = self._used if self._sum is None else self._sum(self._used)
        count, vocabulary = int(np.count_nonzero(used.asnumpy())), self._used.size
        self._used.set_data(Tensor(np.zeros(vocabulary, np.float32)))
        if 0 < count < COLLAPSED * vocabulary:  # 0: no step since the last call, as in a dry run
            logger.warning(
                f"the images have only {count} of {vocabulary} visual tokens: if they are not all alike, the tokenizer "
                "has collapsed; train another, or set target to pixels"
            )
        return {CODES.name: count}

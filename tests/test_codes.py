"""The number of visual tokens in use."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from mindspore import Parameter, Tensor

from src.runtime.distributed import Ranks
from src.tools.codes import CodesInUse


@pytest.mark.parametrize(("used", "warns"), [(0, False), (1, True), (9, True), (10, False), (1000, False)])
def test_the_codes_of_an_epoch_are_counted_and_few_are_a_warning(used, warns, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("beit"), "propagate", True)
    seen = Parameter(Tensor((np.arange(1000) < used).astype(np.float32)), name="seen")
    count = CodesInUse(seen, Ranks())
    with caplog.at_level(logging.WARNING, logger="beit"):
        assert count(None) == {"codes": used}
        messages = {record.getMessage() for record in caplog.records}
        assert len(messages) == warns
        assert all(message.startswith(f"the images have only {used} of 1000 visual tokens") for message in messages)
        assert count(None) == {"codes": 0}  # of the next epoch; no step was taken, so nothing has collapsed
    assert len({record.getMessage() for record in caplog.records}) == warns

"""The feed: which micro-batches a step gets, from the host and as the data set of the device's queue."""

from __future__ import annotations

from typing import NamedTuple

import mindspore
import numpy as np
import pytest
from mindspore import Tensor

from src.trainer.feed import host_steps, sink_steps


class Batch(NamedTuple):
    """The batch of a task in the manner of masked image modeling: not the fields of classification."""

    image: np.ndarray
    mask: np.ndarray
    tokens: np.ndarray


class Loader:
    """Two micro-batches in each of three steps; `tokens` identifies them as epoch, step and part."""

    steps_per_epoch, accumulation_steps, global_batch = 3, 2, 4

    def epoch(self, epoch: int, start_step: int = 0):
        for step in range(start_step, self.steps_per_epoch):
            for part in range(self.accumulation_steps):
                place = np.array([epoch, step, part], np.int32)
                yield Batch(np.zeros((2, 3, 4, 4), np.float32), np.ones((2, 4), np.float32), place)


def places(start: tuple[int, int], epochs: int) -> list[list[int]]:
    every = [[epoch, step, part] for epoch in range(epochs) for step in range(3) for part in range(2)]
    return [place for place in every if tuple(place[:2]) >= start]


def test_the_host_passes_the_fields_of_a_batch_in_order_and_yields_once_per_step():
    calls = []

    def step(*batch):
        calls.append(batch)
        return None if len(calls) % 2 else (Tensor([1.0]), Tensor(False), Tensor(1.0))

    outputs = list(host_steps(step, Loader())(1, 1))
    assert [tensor.shape for tensor in calls[0]] == [(2, 3, 4, 4), (2, 4), (3,)]
    assert [tokens.asnumpy().tolist() for _, _, tokens in calls] == [p for p in places((1, 1), 2) if p[0] == 1]
    assert [output[3].tokens.tolist() for output in outputs] == [[1, 1, 1], [1, 2, 1]]  # the last of each step


@pytest.mark.parametrize("start", [(0, 0), (1, 2)])
def test_the_queue_holds_the_rest_of_the_run_under_the_names_of_the_fields(start, monkeypatch):
    queues = []

    def data_sink(function, dataset):
        """Like `mindspore.data_sink`, which has no CPU kernel: each call takes a row of the data set."""
        rows = list(dataset.create_dict_iterator(num_epochs=1))
        assert dataset.get_dataset_size() == len(rows)
        assert list(rows[0]) == ["image", "mask", "tokens"]
        queues.append(rows)
        return lambda: function(*queues[0].pop(0).values())

    monkeypatch.setattr(mindspore, "data_sink", data_sink)
    calls = []

    def step(image, mask, tokens):
        calls.append(tokens.asnumpy().tolist())
        return None if len(calls) % 2 else (Tensor([1.0]), Tensor(False), Tensor(1.0))

    steps = sink_steps(step, Loader(), Batch._fields, epochs=2)
    epoch, start_step = start
    for number in range(epoch, 2):
        outputs = list(steps(number, start_step if number == epoch else 0))
        assert all(output[3] is None for output in outputs)
        assert len(outputs) == 3 - (start_step if number == epoch else 0)
    assert calls == places(start, 2)
    assert queues == [[]]  # one queue, and it is used up

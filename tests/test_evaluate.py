"""Evaluation counts every image once, with the results of PyTorch's cross-entropy and top-k."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor

from src.data.imagenet import EvalBatch
from src.evaluation.classification import Counts, EvalResult, evaluate
from src.runtime import distributed
from src.runtime.distributed import Ranks, gather


def test_loss_and_accuracy_of_a_hand_calculated_batch():
    logits = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.25, 0.25, 0.5]], np.float32))
    counts = Counts()
    counts.add(logits, np.array([0, 1, 2]))
    result = counts.result()
    assert result.loss == pytest.approx((np.log(2) + np.log(5) + np.log(2)) / 3, abs=1e-7)
    assert result.top1 == pytest.approx(200 / 3)
    assert (result.top5, result.images) == (100.0, 3)


def test_equal_logits_rank_by_index_and_nan_is_never_right():
    counts = Counts()
    counts.add(np.zeros((1, 7), np.float32), np.array([0]))
    assert (counts.top1, counts.top5) == (1, 1)
    counts.add(np.zeros((1, 7), np.float32), np.array([5]))
    assert (counts.top1, counts.top5) == (1, 1)
    counts.add(np.full((1, 7), np.nan, np.float32), np.array([0]))
    assert (counts.top1, counts.top5) == (1, 1)


def test_large_logits_do_not_overflow():
    counts = Counts()
    counts.add(np.array([[1e4, -1e4]], np.float32), np.array([1]))
    assert counts.result().loss == pytest.approx(2e4)


@settings(max_examples=60, deadline=None)
@given(
    images=st.integers(1, 40),
    classes=st.integers(1, 12),
    batch=st.integers(1, 9),
    ranks=st.integers(1, 4),
    seed=st.integers(0, 2**16),
)
def test_any_split_over_batches_and_ranks_gives_the_same_counts(images, classes, batch, ranks, seed):
    rng = np.random.default_rng(seed)
    logits = rng.integers(-3, 4, (images, classes)).astype(np.float32)  # with many equal ones
    labels = rng.integers(0, classes, images)
    whole = Counts()
    whole.add(logits, labels)
    parts = []
    for rank in range(ranks):
        part = Counts()
        mine = np.arange(rank, images, ranks)
        for begin in range(0, len(mine), batch):
            part.add(logits[mine[begin : begin + batch]], labels[mine[begin : begin + batch]])
        parts.append(part)
    assert sum(p.images for p in parts) == images
    assert sum(p.top1 for p in parts) == whole.top1
    assert sum(p.top5 for p in parts) == whole.top5
    assert sum(p.loss for p in parts) == pytest.approx(whole.loss, rel=1e-12)
    order = np.argsort(-logits, axis=1, kind="stable")
    assert whole.top1 == (order[:, 0] == labels).sum()
    assert whole.top5 == (order[:, :5] == labels[:, None]).any(1).sum()


class FakeSum:
    """The sum over ranks that run one after the other in this process: call it once per rank, then read the sum."""

    def __init__(self):
        self.total = 0

    def __call__(self):
        return lambda values: self.add(values)

    def add(self, values):
        self.total = self.total + values.asnumpy()
        return Tensor(self.total)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.floats(allow_nan=False), min_size=3, max_size=3), min_size=2, max_size=16))
def test_values_of_all_ranks_are_gathered_exactly(rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "SumOverRanks", FakeSum())
        for rank, row in enumerate(rows):
            gathered = gather(Ranks(rank, len(rows)), np.array(row))
    assert gathered.tobytes() == np.array(rows).tobytes()


def test_counts_of_all_ranks_are_added():
    total = Counts(images=10**12 + 1, top1=5000, top5=3, loss=0.1).over_ranks(Ranks())
    assert (total.images, total.top1, total.top5, total.loss) == (10**12 + 1, 5000, 3, 0.1)


def test_padding_of_the_last_batch_is_not_counted():
    image = np.zeros((4, 3, 2, 2), np.float32)
    batches = [EvalBatch(image, np.array([0, 1, 0, 1], np.int32), 4), EvalBatch(image, np.array([1, -1, -1, -1]), 1)]
    result = evaluate(lambda image: Tensor(np.tile([0.0, 1.0], (len(image), 1)).astype(np.float32)), batches)
    assert result.images == 5
    assert result.top1 == 60.0


def test_eval_prints_the_three_names_of_the_model_zoos_document():
    printed = EvalResult(loss=0.1234567, top1=81.90004, top5=95.5, images=3).as_printed()
    assert str(printed) == "{'Loss': 0.123457, 'Top1-Acc': 81.9, 'Top5-Acc': 95.5}"


def test_evaluating_nothing_is_an_error():
    with pytest.raises(ValueError, match="no image was evaluated"):
        Counts().result()

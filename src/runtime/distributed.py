"""Meeting of the ranks that mpirun has started, and what they agree on.

MindSpore's CPU back end cannot meet through MPI itself; its own dynamic cluster serves CPU, GPU and Ascend alike. It
wants one more process, a scheduler, whose address every rank knows. src/runtime/launcher.py runs this file as that
process, on a free port, while mpirun runs, and passes its address to all ranks in `MS_SCHED_HOST` and `MS_SCHED_PORT`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import mindspore
import numpy as np
from mindspore import Tensor, communication, nn, ops

from src.errors import UserError
from src.runtime.launcher import end_with_parent


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run: `rank` of `size`, `local_rank` on its own machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes what all share."""
        return self.rank == 0


def launched_ranks(environment: Mapping[str, str], device_num: int) -> Ranks:
    """The place that mpirun gave this process, or a single rank without mpirun.

    Raises `UserError` where the number of processes is not `device_num`.
    """
    if "OMPI_COMM_WORLD_SIZE" not in environment:
        if device_num > 1:
            raise UserError(
                f"device_num is {device_num} and this is one process: "
                f"start it with scripts/run_distribute_train_gpu.sh CONFIG --num_devices {device_num}"
            )
        return Ranks()
    size = int(environment["OMPI_COMM_WORLD_SIZE"])
    if size != device_num:
        raise UserError(f"device_num is {device_num} and mpirun started {size} processes: make them equal")
    return Ranks(int(environment["OMPI_COMM_WORLD_RANK"]), size, int(environment["OMPI_COMM_WORLD_LOCAL_RANK"]))


def join(ranks: Ranks) -> None:
    """Connect this process with the other ranks; no-op for a single one. Call after the device is chosen.

    Raises `UserError` where the launcher named no meeting place.
    """
    if ranks.size == 1:
        return
    if "MS_SCHED_HOST" not in os.environ or "MS_SCHED_PORT" not in os.environ:
        raise UserError(
            "mpirun started several ranks without MS_SCHED_HOST and MS_SCHED_PORT: "
            "use scripts/run_distribute_train_gpu.sh, which sets them"
        )
    end_with_parent()
    os.environ.update(MS_ROLE="MS_WORKER", MS_WORKER_NUM=str(ranks.size), MS_NODE_ID=str(ranks.rank))
    communication.init()


class SumOverRanks(nn.Cell):
    """The sum of a float32 tensor over all ranks, after `join`; on the CPU, AllReduce takes no whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.all_reduce = ops.AllReduce()

    def construct(self, values: Tensor) -> Tensor:
        """Any shape, the same on all ranks."""
        return self.all_reduce(values)


class StopVote:
    """Has all ranks stop after the same step, whichever of them was asked to and when the signal reached it.

    Every rank calls it at the same places. The answer is that to the call `VOTES_AHEAD` calls before, which is there by
    now: so no step waits for it.
    """

    VOTES_AHEAD = 2

    def __init__(self) -> None:
        self._sum = SumOverRanks()
        self._pending: deque[Tensor] = deque()

    def __call__(self, asked: bool) -> bool:
        """Whether any rank was `asked` by the time of that earlier call."""
        self._pending.append(self._sum(Tensor([float(asked)], mindspore.float32)))
        if len(self._pending) <= self.VOTES_AHEAD:
            return False
        return bool(self._pending.popleft().asnumpy()[0] > 0)


def wait_for_all(ranks: Ranks) -> None:
    """Return when every rank has come here: a rank that ended before would take those that still write with it."""
    if ranks.size > 1:
        SumOverRanks()(Tensor([0.0], mindspore.float32)).asnumpy()


def gather(ranks: Ranks, values: np.ndarray) -> np.ndarray:
    """Gather the float64 `values` [N] of every rank, exactly: [ranks, N]. All ranks call this at the same place."""
    if ranks.size == 1:
        return values[None]
    parts = np.zeros((ranks.size, 4 * len(values)), np.float32)  # 16 bits each, which float32 represents exactly
    parts[ranks.rank] = values.view(np.uint16)
    return SumOverRanks()(Tensor(parts)).asnumpy().astype(np.uint16).view(np.float64)


def total_over_ranks(ranks: Ranks, number: int) -> int:
    """The sum of every rank's `number`; all ranks call it at the same place. Exact up to 2 ** 24."""
    if ranks.size == 1:
        return number
    return int(SumOverRanks()(Tensor([float(number)], mindspore.float32)).asnumpy()[0])


def first_difference(ranks: Ranks, things: Mapping[str, int]) -> tuple[str, int] | None:
    """The first of the `things`, checksums of 32 bits by name, of which a rank has another than rank 0; and that rank.

    All ranks call it at the same place and get the same answer; None where all agree.
    """
    halves = np.zeros((ranks.size, len(things), 2), np.float32)  # 16 bits each, which float32 holds exactly
    halves[ranks.rank] = [(value >> 16, value & 0xFFFF) for value in things.values()]
    total = SumOverRanks()(Tensor(halves)).asnumpy()
    for index, name in enumerate(things):
        for rank in range(1, ranks.size):
            if not np.array_equal(total[rank, index], total[0, index]):
                return name, rank
    return None


def require_agreement(ranks: Ranks, things: Mapping[str, int]) -> None:
    """Raise `UserError`, on all ranks, unless all have the same `things`: a checksum of 32 bits for each name."""
    if ranks.size == 1:
        return
    difference = first_difference(ranks, things)
    if difference is not None:
        name, rank = difference
        raise UserError(f"rank {rank} has other {name} than rank 0: give all hosts the same files and options")


if __name__ == "__main__":
    mindspore.set_device("CPU")  # the scheduler computes nothing
    communication.init()  # returns once all have met; the process then ends after the last rank has left

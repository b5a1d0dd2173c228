"""Joining the ranks that mpirun has started, and reaching agreement among them.

MindSpore's CPU backend cannot meet through MPI; MindSpore's dynamic cluster serves CPU, GPU and Ascend alike. It needs
one more process, a scheduler, whose address all ranks know. src/runtime/launcher.py runs this file as that process, on
a free port, while mpirun runs, and passes the address to all ranks in `MS_SCHED_HOST` and `MS_SCHED_PORT`.
"""

import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import mindspore
import numpy as np
from mindspore import Tensor, communication, nn, ops

from src.errors import UserError


@dataclass(frozen=True)
class Ranks:
    """The place of this process in the run: `rank` of `size`, `local_rank` on its own machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this rank writes the shared files and prints the results."""
        return self.rank == 0


def launched_ranks(environment: Mapping[str, str], device_num: int) -> Ranks:
    """Return the place that mpirun gave this process; a single rank without mpirun.

    Raises `UserError` unless the number of processes is `device_num`.
    """
    if "OMPI_COMM_WORLD_SIZE" not in environment:
        if device_num > 1:
            raise UserError(
                f"device_num is {device_num} but this is one process; "
                f"start it with scripts/run_distribute_train_gpu.sh CONFIG --num_devices {device_num}, "
                "or run_distribute_pretrain_gpu.sh to pre-train"
            )
        return Ranks()
    size = int(environment["OMPI_COMM_WORLD_SIZE"])
    if size != device_num:
        raise UserError(f"device_num is {device_num} but mpirun started {size} processes; make them equal")
    return Ranks(int(environment["OMPI_COMM_WORLD_RANK"]), size, int(environment["OMPI_COMM_WORLD_LOCAL_RANK"]))


def join(ranks: Ranks) -> None:
    """Connect this process with the other ranks; a no-op for a single one. Call it after the device is chosen.

    Raises `UserError` if the launcher has set no meeting place.
    """
    if ranks.size == 1:
        return
    if "MS_SCHED_HOST" not in os.environ or "MS_SCHED_PORT" not in os.environ:
        raise UserError(
            f"mpirun started {ranks.size} ranks without MS_SCHED_HOST and MS_SCHED_PORT; "
            "start them with scripts/run_distribute_train_gpu.sh or run_distribute_pretrain_gpu.sh, which set both"
        )
    os.environ.update(MS_ROLE="MS_WORKER", MS_WORKER_NUM=str(ranks.size), MS_NODE_ID=str(ranks.rank))
    communication.init()


class SumOverRanks(nn.Cell):
    """The sum of a float32 tensor over all ranks, after `join`. On the CPU, AllReduce has no integer kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.all_reduce = ops.AllReduce()

    def construct(self, values: Tensor) -> Tensor:
        """Sum `values`, of any shape that is the same on all ranks."""
        return self.all_reduce(values)


class StopVote:
    """A vote that stops all ranks after the same step, although the signal to stop reaches them at different times.

    All ranks call it at the same places. Each call returns the result of the vote `VOTES_AHEAD` calls earlier, which
    has arrived by then, so no step waits for it.
    """

    VOTES_AHEAD = 2

    def __init__(self) -> None:
        self._sum = SumOverRanks()
        self._pending: deque[Tensor] = deque()

    def __call__(self, asked: bool) -> bool:
        """Cast this rank's vote, `asked`, and return whether any rank voted to stop `VOTES_AHEAD` calls earlier."""
        self._pending.append(self._sum(Tensor([float(asked)], mindspore.float32)))
        if len(self._pending) <= self.VOTES_AHEAD:
            return False
        return bool(self._pending.popleft().asnumpy()[0] > 0)


def gather(ranks: Ranks, values: np.ndarray) -> np.ndarray:
    """Gather the float64 `values` [N] of every rank, exactly: [ranks, N]. All ranks call this at the same place."""
    if ranks.size == 1:
        return values[None]
    parts = np.zeros((ranks.size, 4 * len(values)), np.float32)  # 16 bits each, which float32 represents exactly
    parts[ranks.rank] = values.view(np.uint16)
    return SumOverRanks()(Tensor(parts)).asnumpy().astype(np.uint16).view(np.float64)


def wait_for_all(ranks: Ranks) -> None:
    """Wait until every rank has called this: mpirun ends all ranks when one ends with an error or after a signal."""
    gather(ranks, np.zeros(1))


def total_over_ranks(ranks: Ranks, number: int) -> int:
    """Sum `number` over all ranks, which call this at the same place."""
    return int(gather(ranks, np.array([number], np.float64)).sum())


def first_difference(ranks: Ranks, checksums: Mapping[str, int]) -> tuple[str, int] | None:
    """Return the first name whose 32-bit checksum differs from rank 0's on some rank, and that rank; None if all agree.

    All ranks call this at the same place and get the same result.
    """
    found = gather(ranks, np.array(list(checksums.values()), np.float64))
    for name, column in zip(checksums, found.T):
        for rank in np.flatnonzero(column != column[0]):
            return name, int(rank)
    return None


if __name__ == "__main__":
    mindspore.set_device("CPU")  # the scheduler computes nothing
    communication.init()  # returns when all ranks have joined and left again

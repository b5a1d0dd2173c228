"""Meeting of the ranks that mpirun has started.

MindSpore's CPU back end cannot meet through MPI itself; its own dynamic cluster serves CPU, GPU and Ascend alike. It
wants one more process, a scheduler, whose address every rank knows: scripts/run_distribute_train_gpu.sh runs this file
as that process, on a free port, for as long as mpirun runs, and hands its address to all ranks in `MS_SCHED_HOST` and
`MS_SCHED_PORT`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import mindspore
from mindspore import communication

from src.errors import UserError


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
    os.environ.update(MS_ROLE="MS_WORKER", MS_WORKER_NUM=str(ranks.size), MS_NODE_ID=str(ranks.rank))
    communication.init()


if __name__ == "__main__":
    mindspore.set_device("CPU")  # the scheduler computes nothing
    communication.init()  # returns once all have met; the process then ends after the last rank has left

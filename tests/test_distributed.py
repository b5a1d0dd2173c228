"""The place of a process among those that mpirun started."""

from __future__ import annotations

import pytest

from src.errors import UserError
from src.runtime.distributed import Ranks, join, launched_ranks

SECOND_OF_TWO = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}


def test_without_mpirun_there_is_one_rank():
    ranks = launched_ranks({}, device_num=1)
    assert ranks == Ranks(rank=0, size=1, local_rank=0)
    assert ranks.is_first


def test_the_rank_is_mpiruns():
    ranks = launched_ranks(SECOND_OF_TWO, device_num=2)
    assert ranks == Ranks(rank=1, size=2, local_rank=1)
    assert not ranks.is_first


def test_the_local_rank_is_that_on_its_machine():
    environment = {"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
    assert launched_ranks(environment, device_num=8).local_rank == 1


def test_several_devices_in_one_process_are_refused():
    expected = (
        r"^device_num is 4 and this is one process: start it with scripts/run_distribute_train_gpu.sh CONFIG --num"
    )
    with pytest.raises(UserError, match=expected):
        launched_ranks({}, device_num=4)


def test_a_number_of_processes_other_than_device_num_is_refused():
    with pytest.raises(UserError, match=r"^device_num is 4 and mpirun started 2 processes: make them equal$"):
        launched_ranks(SECOND_OF_TWO, device_num=4)


def test_ranks_without_a_meeting_place_are_told_what_sets_it(monkeypatch):
    monkeypatch.delenv("MS_SCHED_HOST", raising=False)
    with pytest.raises(
        UserError, match=r"without MS_SCHED_HOST and MS_SCHED_PORT: use scripts/run_distribute_train_gpu"
    ):
        join(Ranks(rank=0, size=2))


def test_a_single_rank_meets_nobody():
    join(Ranks())

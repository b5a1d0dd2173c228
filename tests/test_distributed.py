"""The place of a process among the ranks that mpirun started."""

from __future__ import annotations

import os

import pytest

from src.errors import UserError
from src.runtime import distributed
from src.runtime.distributed import Ranks, first_difference, join, launched_ranks, total_over_ranks, wait_for_all

SECOND_OF_TWO = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}


def test_without_mpirun_there_is_one_rank():
    ranks = launched_ranks({}, device_num=1)
    assert ranks == Ranks(rank=0, size=1, local_rank=0)
    assert ranks.is_first


def test_rank_and_size_come_from_mpirun():
    ranks = launched_ranks(SECOND_OF_TWO, device_num=2)
    assert ranks == Ranks(rank=1, size=2, local_rank=1)
    assert not ranks.is_first


def test_the_local_rank_counts_the_ranks_of_one_machine():
    environment = {"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
    assert launched_ranks(environment, device_num=8).local_rank == 1


def test_several_devices_in_one_process_are_refused():
    with pytest.raises(UserError, match=r"device_num is 4 .*run_distribute_train_gpu.sh CONFIG --num_devices 4"):
        launched_ranks({}, device_num=4)


def test_a_number_of_processes_other_than_device_num_is_refused():
    with pytest.raises(UserError, match=r"device_num is 4 .* 2 processes.*equal"):
        launched_ranks(SECOND_OF_TWO, device_num=4)


@pytest.mark.parametrize("missing", ["MS_SCHED_HOST", "MS_SCHED_PORT"])
def test_ranks_without_a_meeting_place_are_refused_with_the_script_that_sets_it(monkeypatch, missing):
    monkeypatch.setenv("MS_SCHED_HOST", "127.0.0.1")
    monkeypatch.setenv("MS_SCHED_PORT", "1")
    monkeypatch.delenv(missing)
    with pytest.raises(UserError, match=r"MS_SCHED_HOST and MS_SCHED_PORT.*scripts/run_distribute_train_gpu.sh"):
        join(Ranks(rank=0, size=2))


def test_a_single_rank_needs_no_cluster_and_no_collective(monkeypatch):
    def fail(*args: object) -> None:
        raise AssertionError("a single rank must not communicate")

    monkeypatch.setattr(distributed.communication, "init", fail)
    monkeypatch.setattr(distributed, "SumOverRanks", fail)
    environment = dict(os.environ)
    join(Ranks())
    wait_for_all(Ranks())
    assert first_difference(Ranks(), {"weights": 7}) is None
    assert total_over_ranks(Ranks(), 21) == 21
    assert dict(os.environ) == environment


def test_several_ranks_join_as_workers_under_their_own_number(monkeypatch):
    joined = []
    monkeypatch.setattr(distributed.communication, "init", lambda: joined.append(True))
    for name in ("MS_ROLE", "MS_WORKER_NUM", "MS_NODE_ID"):
        monkeypatch.setenv(name, "")  # so that it is restored
    monkeypatch.setenv("MS_SCHED_HOST", "127.0.0.1")
    monkeypatch.setenv("MS_SCHED_PORT", "1")
    join(Ranks(rank=1, size=3))
    assert joined == [True]
    assert [os.environ[name] for name in ("MS_ROLE", "MS_WORKER_NUM", "MS_NODE_ID")] == ["MS_WORKER", "3", "1"]

"""The folders of a run: its own, writable, large enough."""

from __future__ import annotations

import shutil
from collections import namedtuple

import pytest

from src.errors import UserError
from src.tools.run_folder import (
    make_run_folder,
    require_no_earlier_run,
    require_space,
    size_of_checkpoints,
    take_folder,
    write_class_names,
)

Usage = namedtuple("Usage", "total used free")


def test_a_folder_is_made_with_all_above_it_and_left_empty(tmp_path):
    folder = make_run_folder(str(tmp_path / "a" / "b"), "run")
    assert folder == tmp_path / "a" / "b" / "run"
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/run: cannot be written \(Not a directory\): choose another folder"):
        make_run_folder(str(tmp_path / "file"), "run")


def test_a_folder_with_an_earlier_runs_checkpoints_is_refused(tmp_path):
    require_no_earlier_run(tmp_path)
    (tmp_path / "a-1_2.ckpt").touch()
    with pytest.raises(UserError, match="holds checkpoints of an earlier run: continue it with --resume auto, give"):
        require_no_earlier_run(tmp_path)


def test_a_folder_with_an_earlier_runs_metrics_is_refused_but_not_one_that_ended_before_its_first_epoch(tmp_path):
    (tmp_path / "rank_0.log").write_text("begun\n")
    (tmp_path / "metrics.csv").write_text("epoch,loss\n")
    require_no_earlier_run(tmp_path)
    (tmp_path / "metrics.csv").write_text("epoch,loss\n1,0.5\n")
    with pytest.raises(UserError, match="holds the metrics of an earlier run: continue it with --resume auto"):
        require_no_earlier_run(tmp_path)


def test_one_run_at_a_time_writes_into_a_folder(tmp_path):
    lock = take_folder(tmp_path)
    with pytest.raises(UserError, match=r"^another run is writing into .*: wait for it to end, or give this one"):
        take_folder(tmp_path)
    lock.close()
    take_folder(tmp_path).close()


def test_what_a_killed_run_left_unfinished_is_removed(tmp_path):
    for name in (".a-1_2.ckpt.77.partial", "a-1_1.ckpt", ".other"):
        (tmp_path / name).touch()
    take_folder(tmp_path).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".other", "a-1_1.ckpt"]


def test_a_disk_that_is_too_small_for_the_checkpoints_of_all_its_folders_is_refused(tmp_path, monkeypatch):
    current, best = (make_run_folder(str(tmp_path), name) for name in ("current", "best"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**12, 0, 5 * 10**9))
    require_space({current: 4 * 10**9, best: 10**9})
    with pytest.raises(UserError) as error:
        require_space({current: 4 * 10**9, best: 10**9 + 1})
    assert str(error.value) == (
        f"{current} and {best} may take 5 GB of checkpoints and their disk has 5 GB left: "
        f"free some, choose another disk, or lower ckpt_keep_num or best_ckpt_num"
    )


def test_checkpoints_that_are_there_count_as_theirs(tmp_path):
    (tmp_path / "a-1_2.ckpt").write_bytes(b"12345")
    (tmp_path / "class_names.txt").write_bytes(b"123")
    assert size_of_checkpoints(tmp_path) == 5


def test_class_names_are_written_a_line_each(tmp_path):
    write_class_names(tmp_path, ("cat", "dog and cat"))
    assert (tmp_path / "class_names.txt").read_text() == "cat\ndog and cat\n"

"""The folders of a run are its own, writable and large enough."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from dataclasses import replace

import pytest

from src.config import Config
from src.errors import UserError
from src.runtime.distributed import Ranks
from src.tools import get_misc
from src.tools.get_misc import start_logs
from src.tools.run_folder import (
    make_folders,
    make_run_folder,
    require_new_folders,
    require_no_earlier_run,
    require_space,
    size_of_checkpoints,
    take_folder,
    write_class_names,
)
from tests.tiny_project import ARCH

Usage = namedtuple("Usage", "total used free")


def test_a_folder_is_made_with_its_parents_and_left_empty(tmp_path):
    folder = make_run_folder(str(tmp_path / "a" / "b"), "run")
    assert folder == tmp_path / "a" / "b" / "run"
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/run .*\(Not a directory\): choose another folder"):
        make_run_folder(str(tmp_path / "file"), "run")


def test_a_folder_with_checkpoints_of_an_earlier_run_is_refused(tmp_path):
    require_no_earlier_run(tmp_path)
    (tmp_path / "a-1_2.ckpt").touch()
    with pytest.raises(UserError, match=r"checkpoints of an earlier run: .*--resume auto, .*--model_postfix"):
        require_no_earlier_run(tmp_path)


def test_a_folder_with_metrics_of_an_earlier_run_is_refused_but_a_header_alone_is_not(tmp_path):
    (tmp_path / "rank_0.log").write_text("begun\n")
    (tmp_path / "metrics.csv").write_text("epoch,loss\n")
    require_no_earlier_run(tmp_path)
    (tmp_path / "metrics.csv").write_text("epoch,loss\n1,0.5\n")
    with pytest.raises(UserError, match=r"metrics of an earlier run: .*--resume auto, .*--model_postfix"):
        require_no_earlier_run(tmp_path)


def test_only_one_run_at_a_time_may_use_a_folder(tmp_path):
    lock = take_folder(tmp_path)
    with pytest.raises(UserError, match=r"^another run .*: wait for it to end, or .*--model_postfix"):
        take_folder(tmp_path)
    lock.close()
    take_folder(tmp_path).close()


def test_a_lock_that_is_no_regular_file_is_refused_and_its_target_stays_as_it_is(tmp_path):
    precious = tmp_path / "precious"
    precious.write_bytes(b"thesis")
    lock = tmp_path / ".lock"
    for target in (precious, tmp_path / "new", "/dev/null"):
        lock.symlink_to(target)
        with pytest.raises(UserError, match=r"\.lock is a symbolic link, .*; remove it$"):
            take_folder(tmp_path)
        lock.unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
    os.mkfifo(lock)
    with pytest.raises(UserError, match=r"\.lock is a named pipe"):
        take_folder(tmp_path)
    lock.unlink()
    precious.rename(lock)
    take_folder(tmp_path).close()
    assert lock.read_bytes() == b"thesis"


def not_permitted(*arguments, **named):
    raise PermissionError(13, "Permission denied")


def test_a_lock_of_somebody_else_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "open", not_permitted)
    with pytest.raises(UserError, match=r"\.lock cannot be written \(Permission denied\): choose another folder"):
        take_folder(tmp_path)


def test_the_check_for_write_access_follows_no_link(tmp_path):
    (tmp_path / "precious").write_bytes(b"thesis")
    for name in (".writable", ".writable.partial"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    make_run_folder(str(tmp_path), ".")
    assert (tmp_path / "precious").read_bytes() == b"thesis"


def test_a_log_that_is_no_regular_file_or_is_somebody_elses_is_refused(tmp_path, monkeypatch):
    config = Config(arch=ARCH, logs_root_dir=str(tmp_path))
    monkeypatch.setattr(get_misc, "start_logging", lambda *arguments, **named: pytest.fail("it would block"))
    log = tmp_path / f"{ARCH}_0" / "rank_0.log"
    log.parent.mkdir()
    os.mkfifo(log)
    with pytest.raises(UserError, match=r"rank_0\.log is a named pipe"):
        start_logs(config, Ranks())
    log.unlink()
    monkeypatch.setattr(get_misc, "open_regular", not_permitted)
    with pytest.raises(UserError, match=r"rank_0\.log cannot be written \(Permission denied\)"):
        start_logs(config, Ranks())


@pytest.mark.parametrize("shared", ["ckpt", "best_ckpt", "logs", "summary"])
def test_runs_that_share_one_folder_do_not_mix(tmp_path, shared):
    first, second = roots(tmp_path / "first"), roots(tmp_path / "second")
    second[f"{shared}_root_dir"] = first[f"{shared}_root_dir"]
    folders = make_folders(Config(arch=ARCH, **first), Ranks())
    with pytest.raises(UserError, match=rf"^another run is writing into {tmp_path}/first/{shared}/{ARCH}_0"):
        make_folders(Config(arch=ARCH, **second), Ranks())
    for lock in folders.locks:
        lock.close()
    assert make_folders(Config(arch=ARCH, **second), Ranks()) is not None


def test_the_folders_of_a_run_may_be_one_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    one = dict.fromkeys(roots(tmp_path), str(tmp_path)) | {"logs_root_dir": str(tmp_path / "link")}
    folders = make_folders(Config(arch=ARCH, **one), Ranks())
    assert len(folders.locks) == 1


def test_only_files_of_killed_runs_are_removed(tmp_path):
    folder = tmp_path / f"{ARCH}_0"
    (folder / ".odd.partial").mkdir(parents=True)
    (folder / ".a.partial").symlink_to(folder / "precious")
    (folder / "precious").touch()
    assert make_folders(Config(arch=ARCH, **dict.fromkeys(roots(tmp_path), str(tmp_path))), Ranks())
    assert sorted(path.name for path in folder.iterdir()) == [".lock", ".odd.partial", "precious"]


def roots(tmp_path) -> dict[str, str]:
    return {f"{name}_root_dir": str(tmp_path / name) for name in ("ckpt", "best_ckpt", "logs", "summary")}


def test_a_run_cleans_and_locks_its_folders_and_a_new_run_refuses_those_of_another(tmp_path):
    config = Config(arch=ARCH, model_postfix="1", **roots(tmp_path))
    best = tmp_path / "best_ckpt" / f"{ARCH}_1"
    best.mkdir(parents=True)
    for name in (".best.ckpt.77.partial", "best.ckpt", ".other"):
        (best / name).touch()
    with pytest.raises(UserError, match=rf"best_ckpt/{ARCH}_1 .*--resume auto"):
        make_folders(config, Ranks())
    folders = make_folders(replace(config, resume="auto"), Ranks())
    with pytest.raises(UserError, match=rf"best_ckpt/{ARCH}_1 .*--resume auto"):  # nothing was found to resume
        require_new_folders(config, folders)
    for continued in ({"start_epoch": 3}, {"exclude_epoch_state": False}):
        require_new_folders(replace(config, **continued), folders)
    assert sorted(path.name for path in best.iterdir()) == [".lock", ".other", "best.ckpt"]
    with pytest.raises(UserError, match="another run"):
        make_folders(config, Ranks())
    for lock in folders.locks:
        lock.close()
    assert make_folders(config, Ranks(rank=1, size=2)) is None


def test_a_disk_too_small_for_the_checkpoints_of_all_its_folders_is_refused(tmp_path, monkeypatch):
    current, best = (make_run_folder(str(tmp_path), name) for name in ("current", "best"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**12, 0, 5 * 10**9))
    require_space({current: 4 * 10**9, best: 10**9})
    with pytest.raises(UserError) as error:
        require_space({current: 4 * 10**9, best: 10**9 + 1})
    for part in (str(current), str(best), "5 GB", "ckpt_keep_num", "best_ckpt_num"):
        assert part in str(error.value)


def test_the_size_of_checkpoints_counts_a_file_with_two_names_once(tmp_path):
    (tmp_path / "a-1_2.ckpt").write_bytes(b"12345")
    (tmp_path / "best.ckpt").hardlink_to(tmp_path / "a-1_2.ckpt")
    (tmp_path / "class_names.txt").write_bytes(b"123")
    assert size_of_checkpoints(tmp_path) == 5
    (tmp_path / "dangling.ckpt").symlink_to("gone")
    assert size_of_checkpoints(tmp_path) == 5 + len("gone")


def test_class_names_are_written_one_per_line(tmp_path):
    write_class_names(tmp_path, ("cat", "dog and cat"))
    assert (tmp_path / "class_names.txt").read_text() == "cat\ndog and cat\n"

"""The folders that a run writes into: made, shown to be its own, writable and large enough before training begins."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from src.errors import UserError
from src.files.atomic_file import TEMPORARY_SUFFIX, write_atomically

CLASS_NAMES_FILE = "class_names.txt"
LOCK_FILE = ".lock"


def make_run_folder(root: str, run: str) -> Path:
    """The folder of `run` inside `root`, made where it is missing; `UserError` where it cannot be written."""
    folder = Path(root) / run
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_bytes(b"a full disk makes an empty file, but nothing in it")
        probe.unlink()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}): choose another folder") from None
    return folder


def require_no_earlier_run(folder: Path) -> None:
    """Refuse a folder with another run's checkpoints or metrics: they would be mixed up, and old ones removed."""
    metrics = folder / "metrics.csv"
    has_rows = metrics.is_file() and len(metrics.read_text(encoding="utf-8", errors="replace").splitlines()) > 1
    if has_rows or next(folder.glob("*.ckpt"), None) is not None:
        raise UserError(
            f"{folder} holds {'the metrics' if has_rows else 'checkpoints'} of an earlier run: continue it with "
            f"--resume auto, give this run another --model_postfix, or move that folder away"
        )


def take_folder(folder: Path) -> IO[str]:
    """Keep other runs out of `folder` for as long as the returned file is open and this process lives.

    Also removes the unfinished files of a run that was killed while it wrote. Raises `UserError` where another run
    works in the folder.
    """
    lock = (folder / LOCK_FILE).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise UserError(
            f"another run is writing into {folder}: wait for it to end, or give this one another --model_postfix"
        ) from None
    except OSError:
        pass  # a network disk that knows no locks
    for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)
    return lock


def require_space(needs: Mapping[Path, int]) -> None:
    """Refuse to start where a disk has less free space than `needs`, bytes by folder, ask of it.

    Raises `UserError`, naming the folders on that disk and both sizes.
    """
    by_disk: dict[int, list[Path]] = {}
    for folder in needs:
        by_disk.setdefault(folder.stat().st_dev, []).append(folder)
    for folders in by_disk.values():
        needed, free = sum(needs[folder] for folder in folders), shutil.disk_usage(folders[0]).free
        if needed > free:
            raise UserError(
                f"{' and '.join(map(str, folders))} may take {_gigabytes(needed)} of checkpoints and their disk has "
                f"{_gigabytes(free)} left: free some, choose another disk, or lower ckpt_keep_num or best_ckpt_num"
            )


def size_of_checkpoints(folder: Path) -> int:
    """Bytes of the checkpoints that are in `folder` already."""
    return sum(path.stat().st_size for path in folder.glob("*.ckpt"))


def write_class_names(folder: Path, class_names: tuple[str, ...]) -> None:
    """One name a line, in the order of the logits."""
    text = "".join(f"{name}\n" for name in class_names)
    write_atomically(folder / CLASS_NAMES_FILE, lambda file: file.write(text.encode()))


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"

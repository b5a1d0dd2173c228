"""The folders of a run: created, locked, and checked for write access and space before training begins."""

import contextlib
import fcntl
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mindspore import nn

from src.config import RunConfig
from src.errors import UserError
from src.files.atomic_file import TEMPORARY_SUFFIX, write_atomically
from src.files.regular_file import IrregularFile, open_regular
from src.files.writable_folder import make_folder
from src.runtime.distributed import Ranks
from src.trainer.accumulation import TrainStep

CLASS_NAMES_FILE = "class_names.txt"
LOCK_FILE = ".lock"


@dataclass(frozen=True)
class Folders:
    """The folders of a run; `locks` keep other runs out until it ends."""

    logs: Path
    checkpoints: Path
    best: Path
    summaries: Path
    locks: tuple[IO[bytes], ...]


def run_name(config: RunConfig) -> str:
    """Return the name of the run's folders."""
    return f"{config.arch}_{config.model_postfix}"


def make_folders(config: RunConfig, ranks: Ranks) -> Folders | None:
    """Make and lock the folders of the run before anything is written; None on ranks that do not write.

    Raises `UserError` if a folder cannot be written, another run uses it, or it holds an earlier run and the option
    `resume` is not given.
    """
    if not ranks.is_first:
        return None
    run = run_name(config)
    checkpoints, best, logs, summaries = (
        make_run_folder(root, run)
        for root in (config.ckpt_root_dir, config.best_ckpt_root_dir, config.logs_root_dir, config.summary_root_dir)
    )
    folders = Folders(logs, checkpoints, best, summaries, take_folders((checkpoints, best, logs, summaries)))
    if config.resume is None:
        require_new_folders(config, folders)
    for folder in (checkpoints, best, logs):
        for unfinished in folder.glob(f".*{TEMPORARY_SUFFIX}"):  # of a run that was killed while it wrote
            with contextlib.suppress(OSError):  # a folder, or a file of somebody else
                unfinished.unlink()
    return folders


def require_new_folders(config: RunConfig, folders: Folders | None) -> None:
    """Raise `UserError` if the folders hold an earlier run and `config` does not continue its epochs."""
    if folders is not None and config.start_epoch == 0 and config.exclude_epoch_state:
        for folder in (folders.checkpoints, folders.best, folders.logs):
            require_no_earlier_run(folder)


def make_run_folder(root: str, run: str) -> Path:
    """Make the folder of `run` inside `root`; raises `UserError` if it cannot be written."""
    return make_folder(Path(root) / run)


def require_no_earlier_run(folder: Path) -> None:
    """Raise `UserError` if `folder` holds checkpoints or metrics of another run, which would be mixed or deleted."""
    metrics = folder / "metrics.csv"
    has_rows = metrics.is_file() and len(metrics.read_text(encoding="utf-8", errors="replace").splitlines()) > 1
    if has_rows or next(folder.glob("*.ckpt"), None) is not None:
        raise UserError(
            f"{folder} holds the {'metrics' if has_rows else 'checkpoints'} of an earlier run: continue it with "
            f"--resume auto, give this run another --model_postfix, or move that folder away"
        )


def take_folders(folders: Iterable[Path]) -> tuple[IO[bytes], ...]:
    """Lock `folders`, of which several may be the same, against other runs while the returned files are open.

    Raises `UserError` if another run holds one of them, or if its lock file cannot be used.
    """
    locks: dict[tuple[int, int], IO[bytes]] = {}
    try:
        for folder in folders:
            status = folder.stat()
            if (status.st_dev, status.st_ino) not in locks:
                locks[status.st_dev, status.st_ino] = take_folder(folder)
    except UserError:
        for lock in locks.values():
            lock.close()
        raise
    return tuple(locks.values())


def take_folder(folder: Path) -> IO[bytes]:
    """Lock `folder` while the returned file is open; raises `UserError` as `take_folders` does."""
    path = folder / LOCK_FILE
    try:
        lock = open_regular(path, "a+b", follow=False)
    except IrregularFile as error:
        raise UserError(f"{path} {error.reason}, but runs lock the folder with it; remove it") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): choose another folder") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise UserError(
            f"another run is writing into {folder}: wait for it to end, or give this run another --model_postfix"
        ) from None
    except OSError:
        pass  # a network disk without locks
    return lock


def check_space(config: RunConfig, folders: Folders | None, network: nn.Cell, step: TrainStep) -> None:
    """Raise `UserError` if the checkpoints would not fit on the disk. One more than is kept exists for a moment."""
    if folders is None:
        return
    weights = sum(parameter.size * 4 for parameter in network.get_parameters())
    whole = weights + sum(parameter.nbytes for parameter in step.state().values())
    best = weights if step.ema is None else 2 * weights
    require_space(
        {folders.checkpoints: (config.ckpt_keep_num + 1) * whole, folders.best: (config.best_ckpt_num + 1) * best}
    )


def require_space(needs: Mapping[Path, int]) -> None:
    """Raise `UserError` if a disk has too little free space; `needs` maps folders to the bytes of their checkpoints."""
    for disk in {folder.stat().st_dev for folder in needs}:
        folders = [folder for folder in needs if folder.stat().st_dev == disk]
        needed = sum(needs[folder] - size_of_checkpoints(folder) for folder in folders)
        free = shutil.disk_usage(folders[0]).free
        if needed > free:
            raise UserError(
                f"{' and '.join(map(str, folders))} need up to {needed / 1e9:.3g} GB for checkpoints, but their disk "
                f"has {free / 1e9:.3g} GB left: free some, choose another disk, or lower ckpt_keep_num or best_ckpt_num"
            )


def size_of_checkpoints(folder: Path) -> int:
    """Return the bytes of the checkpoints in `folder`; a file with two names counts once."""
    files = [path.lstat() for path in folder.glob("*.ckpt")]
    return sum({file.st_ino: file.st_size for file in files}.values())


def write_class_names(folder: Path, class_names: tuple[str, ...]) -> None:
    """Write one name per line, in the order of the logits."""
    text = "".join(f"{name}\n" for name in class_names)
    write_atomically(folder / CLASS_NAMES_FILE, lambda file: file.write(text.encode()))

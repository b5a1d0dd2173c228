"""When a run writes checkpoints, under what names, and which ones it keeps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from src.checkpoint import Checkpoint, save_checkpoint
from src.data.imagenet import TrainBatch
from src.errors import UserError
from src.trainer.loop import Callback, RunState

logger = logging.getLogger("beit")

CLASS_NAMES_FILE = "class_names.txt"


class CurrentCheckpoints(Callback):
    """The run's whole state, written after each epoch and, if asked, every so many steps or seconds.

    Args:
        folder: where the files go, as ARCH-EPOCH_STEP.ckpt: epochs begun and steps done in the last of them.
        keep: how many to keep; the oldest goes when one more is written.
        every_steps, every_seconds: 0 for none between epochs.
        snapshot: gives the state to write.
    """

    def __init__(
        self,
        folder: Path,
        arch: str,
        keep: int,
        every_steps: int,
        every_seconds: int,
        snapshot: Callable[[], Checkpoint],
    ) -> None:
        self._folder, self._arch, self._keep = folder, arch, keep
        self._every_steps, self._every_seconds = every_steps, every_seconds
        self._snapshot = snapshot
        self._written: list[Path] = []
        self._last = time.monotonic()

    def on_train_begin(self, state: RunState) -> None:
        """Start the clock, and count what an earlier part of this run has left, so that it is rotated too."""
        self._written = sorted(self._folder.glob(f"{self._arch}-*.ckpt"), key=lambda path: path.stat().st_mtime)
        self._last = time.monotonic()

    def on_step_end(self, state: RunState, batch: TrainBatch | None) -> None:
        """Write between epochs where a number of steps or seconds says so."""
        if state.step == state.steps_per_epoch:
            return  # the end of the epoch writes one, with its evaluation done
        by_steps = self._every_steps and state.iteration % self._every_steps == 0
        by_time = self._every_seconds and time.monotonic() - self._last >= self._every_seconds
        if by_steps or by_time:
            self._write(state)

    def on_epoch_end(self, state: RunState) -> None:
        """Write after each epoch."""
        self._write(state)

    def on_train_end(self, state: RunState) -> None:
        """Write where the run was stopped in the middle of an epoch."""
        if state.stop_requested and state.step:
            path = self._write(state)
            logger.info("stopped at epoch %d step %d; saved %s", state.epoch + 1, state.step, path)

    def _write(self, state: RunState) -> Path:
        path = self._folder / f"{self._arch}-{state.epoch + 1}_{state.step}.ckpt"
        save_checkpoint(path, self._snapshot())
        if path in self._written:
            self._written.remove(path)
        self._written.append(path)
        while len(self._written) > self._keep:
            self._written.pop(0).unlink(missing_ok=True)
        self._last = time.monotonic()
        return path


class BestCheckpoints(Callback):
    """The `keep` best weights by top-1, as ARCH-[ema-]best-EPOCH_top1_X.ckpt; of equal ones the earlier stays.

    Args:
        ema: whether this is about the moving average's weights instead of the raw ones.
        snapshot: gives the weights to write.
    """

    def __init__(
        self, folder: Path, arch: str, keep: int, snapshot: Callable[[], Checkpoint], *, ema: bool = False
    ) -> None:
        self._folder, self._keep, self._snapshot, self._ema = folder, keep, snapshot, ema
        self._prefix = f"{arch}-ema-best-" if ema else f"{arch}-best-"
        self._best: list[tuple[float, int, Path]] = []  # top-1, minus the epoch, file

    def on_train_begin(self, state: RunState) -> None:
        """Take up the files that an earlier part of this run has left."""
        for path in self._folder.glob(f"{self._prefix}*_top1_*.ckpt"):
            epoch, _, top1 = path.stem.removeprefix(self._prefix).partition("_top1_")
            self._best.append((float(top1), -int(epoch), path))

    def on_epoch_end(self, state: RunState) -> None:
        """Write the weights where they are among the best so far, and remove the one that no longer is."""
        result = state.ema_result if self._ema else state.result
        if result is None:
            return
        path = self._folder / f"{self._prefix}{state.epoch + 1}_top1_{result.top1:.4f}.ckpt"
        entry = (round(result.top1, 4), -(state.epoch + 1), path)
        best = sorted([*(known for known in self._best if known[2] != path), entry], reverse=True)
        if entry in best[: self._keep]:
            save_checkpoint(path, self._snapshot())
        for _, _, dropped in best[self._keep :]:
            dropped.unlink(missing_ok=True)
        self._best = best[: self._keep]


def make_run_folder(root: str, run: str, *, continues: bool) -> Path:
    """The folder of `run` inside `root`, made where it is missing and shown to be writable.

    Raises `UserError` where it cannot be written, or where it holds checkpoints of another run and this one does not
    continue it: they would be mixed up, and old ones removed.
    """
    folder = Path(root) / run
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}): choose another folder") from None
    if not continues and next(folder.glob("*.ckpt"), None) is not None:
        raise UserError(
            f"{folder} holds the checkpoints of an earlier run: give this one another --model_postfix, "
            f"or move or remove that folder"
        )
    return folder


def write_class_names(folder: Path, class_names: tuple[str, ...]) -> None:
    """One name a line, in the order of the logits."""
    (folder / CLASS_NAMES_FILE).write_text("".join(f"{name}\n" for name in class_names), encoding="utf-8")

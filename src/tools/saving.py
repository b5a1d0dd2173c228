"""When a run writes checkpoints, under what names, and which ones it keeps."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from src.data.imagenet import TrainBatch
from src.trainer.loop import Callback, RunState
from src.weights.checkpoint import Checkpoint, save_checkpoint

logger = logging.getLogger("beit")


def checkpoint_place(path: Path, arch: str) -> tuple[int, ...]:
    """Epochs begun and steps done in the last of them, from the name of a current checkpoint; () for other files."""
    match = re.fullmatch(rf"{re.escape(arch)}-(\d+)_(\d+)\.ckpt", path.name)
    return (int(match[1]), int(match[2])) if match else ()


def current_checkpoints(folder: Path, arch: str) -> list[Path]:
    """The current checkpoints in `folder`, from the first to the last of their run."""
    places = {path: checkpoint_place(path, arch) for path in folder.glob("*.ckpt")}
    return sorted(filter(places.get, places), key=places.__getitem__)


def best_checkpoint(folder: Path, arch: str) -> Path | None:
    """The best of the best checkpoints in `folder`, the earliest of equal ones; None where there is none."""
    best: list[tuple[float, int, str, Path]] = []
    for path in folder.glob(f"{arch}-*_top1_*.ckpt"):
        match = re.fullmatch(rf"{re.escape(arch)}-((?:ema-)?best)-(\d+)_top1_([\d.]+)", path.stem)
        if match:
            best.append((-float(match[3]), int(match[2]), match[1], path))
    return min(best)[-1] if best else None


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
        """Start the clock, and count what an earlier part of this run has left, so that it is rotated too.

        What lies beyond the place where the run was taken up was damaged, or it would have been taken up there: that
        goes first.
        """
        here = (state.epoch + 1, state.step)
        left = current_checkpoints(self._folder, self._arch)
        self._written = sorted(left, key=lambda path: checkpoint_place(path, self._arch) <= here)
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
        """Write where the run was stopped in the middle of an epoch, and say where it stands."""
        if not state.stopping:
            return
        if state.step:
            self._write(state)
        epoch, step = (state.epoch + 1, state.step) if state.step else (state.epoch, state.steps_per_epoch)
        logger.info("stopped at epoch %d step %d; saved %s", epoch, step, self._written[-1])

    def _write(self, state: RunState) -> None:
        path = self._folder / f"{self._arch}-{state.epoch + 1}_{state.step}.ckpt"
        save_checkpoint(path, self._snapshot())
        if path in self._written:
            self._written.remove(path)
        self._written.append(path)
        while len(self._written) > self._keep:
            self._written.pop(0).unlink(missing_ok=True)
        self._last = time.monotonic()


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
        """Take up the files that an earlier part of this run has left, and the one that a kill kept it from writing."""
        for path in self._folder.glob(f"{self._prefix}*_top1_*.ckpt"):
            epoch, _, top1 = path.stem.removeprefix(self._prefix).partition("_top1_")
            self._best.append((float(top1), -int(epoch), path))
        missing = -state.epoch not in {epoch for _, epoch, _ in self._best}
        if state.history and state.step == 0 and missing:
            self._consider(state)
        else:
            self._keep_best(self._best)

    def on_epoch_end(self, state: RunState) -> None:
        """Write the weights where they are among the best so far, and remove the one that no longer is."""
        self._consider(state)

    def _consider(self, state: RunState) -> None:
        record = state.history[-1]
        name = "ema_top1" if self._ema else "top1"
        if name not in record:
            return
        epoch, top1 = int(record["epoch"]), record[name]
        path = self._folder / f"{self._prefix}{epoch}_top1_{top1:.4f}.ckpt"
        entry = (round(top1, 4), -epoch, path)
        # an epoch that is trained again (on another device, say) replaces what it was
        known = [entry, *(other for other in self._best if other[1] != -epoch)]
        if entry in sorted(known, reverse=True)[: self._keep]:
            save_checkpoint(path, self._snapshot())
        self._keep_best(known)

    def _keep_best(self, known: Sequence[tuple[float, int, Path]]) -> None:
        best = sorted(known, reverse=True)[: self._keep]
        for dropped in {*self._best, *known}.difference(best):
            dropped[2].unlink(missing_ok=True)
        self._best = best

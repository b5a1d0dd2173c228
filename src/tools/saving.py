"""The checkpoints that a run writes: when, under which names, and which of them it keeps."""

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from src.config import RunConfig
from src.files.atomic_file import link_atomically
from src.trainer.loop import Callback, RunState
from src.trainer.task import Batch, Metric
from src.weights.checkpoint import Checkpoint, save_checkpoint

logger = logging.getLogger("beit")

BEST_FILE = "best.ckpt"

Snapshot = Callable[[], Checkpoint]


def current_checkpoints(folder: Path, arch: str) -> dict[Path, tuple[int, int]]:
    """Return the files ARCH-EPOCH_STEP.ckpt in `folder` with epoch and step, in this order."""
    matches = ((path, re.fullmatch(rf"{re.escape(arch)}-(\d+)_(\d+)\.ckpt", path.name)) for path in folder.glob("*"))
    places = {path: (int(match[1]), int(match[2])) for path, match in matches if match}
    return {path: places[path] for path in sorted(places, key=places.__getitem__)}


class CurrentCheckpoints(Callback):
    """The whole state of the run, written after each epoch and, if asked for, every few steps or seconds.

    The files are ARCH-EPOCH_STEP.ckpt in `folder`: epochs begun, and steps done in the last of them. The oldest is
    deleted after one more than `ckpt_keep_num` is written. `snapshot` returns the state to write.
    """

    def __init__(self, config: RunConfig, folder: Path, snapshot: Snapshot) -> None:
        self._config, self._folder, self._snapshot = config, folder, snapshot

    def on_train_begin(self, state: RunState) -> None:
        """Start the clock, and list the files of an earlier part of this run, so that they are rotated too.

        Files beyond the place of a resumed run are damaged, else it would have resumed there: they are deleted first.
        """
        here = (state.epoch + 1, state.step)
        places = current_checkpoints(self._folder, self._config.arch)
        self._written = sorted(places, key=lambda path: places[path] <= here)
        self._last = time.monotonic()

    def on_step_end(self, state: RunState, batch: Batch | None) -> None:
        """Write between epochs if the number of steps or seconds is reached."""
        if state.step == state.steps_per_epoch:
            return  # the end of the epoch writes one, after its evaluation
        steps, seconds = self._config.ckpt_save_every_step, self._config.ckpt_save_every_seconds
        if (steps and state.iteration % steps == 0) or (seconds and time.monotonic() - self._last >= seconds):
            self._write(state)

    def on_epoch_end(self, state: RunState) -> None:
        self._write(state)

    def on_train_end(self, state: RunState) -> None:
        """Write if the run was stopped in the middle of an epoch, and print its place."""
        if not state.stopping:
            return
        if state.step:
            self._write(state)
        epoch, step = (state.epoch + 1, state.step) if state.step else (state.epoch, state.steps_per_epoch)
        logger.info("stopped at epoch %d step %d; saved %s", epoch, step, self._written[-1])

    def on_exception(self, state: RunState) -> None:
        """Write the state after the last step, unless a file holds it already."""
        epoch, step = state.epoch + 1, state.step
        if step and self._folder / f"{self._config.arch}-{epoch}_{step}.ckpt" not in self._written[-1:]:
            self._write(state)
            logger.info("saved %s before the run ends with an error", self._written[-1])

    def _write(self, state: RunState) -> None:
        path = self._folder / f"{self._config.arch}-{state.epoch + 1}_{state.step}.ckpt"
        save_checkpoint(path, self._snapshot())
        self._written = [other for other in self._written if other != path] + [path]
        while len(self._written) > self._config.ckpt_keep_num:
            self._written.pop(0).unlink(missing_ok=True)
        self._last = time.monotonic()


@dataclass(frozen=True, order=True)
class BestFile:
    """A file of best weights. The smallest is the best: highest value, then first epoch, then raw before averaged."""

    negated: float  # the value times -1, for the order
    epoch: int
    averaged: bool
    path: Path


class BestCheckpoints(Callback):
    """The `keep` best weights by a metric, raw and averaged weights apart, and the best of them all as best.ckpt.

    Args:
        folder: place of the files ARCH-[ema-]best-EPOCH_METRIC_VALUE.ckpt.
        metric: higher is better.
        snapshots: return the weights to write, by the prefix of their metric: "" and, with EMA, "ema_".
    """

    def __init__(self, folder: Path, arch: str, keep: int, metric: Metric, snapshots: Mapping[str, Snapshot]) -> None:
        self._folder, self._arch, self._keep, self._metric = folder, arch, keep, metric
        self._snapshots = snapshots

    def on_train_begin(self, state: RunState) -> None:
        """Finish the work that a kill prevented."""
        if state.history and state.step == 0:
            self._write(state.history[-1], again=False)
        self._update()

    def on_epoch_end(self, state: RunState) -> None:
        """Write the weights if they are among the best, and delete the file that no longer is."""
        self._write(state.history[-1], again=True)
        self._update()

    def on_train_end(self, state: RunState) -> None:
        for best in self._files()[:1]:
            text = f"{'EMA ' if best.averaged else ''}{self._metric.text(-best.negated)}, epoch {best.epoch}"
            logger.info("best weights: %s (%s)", self._folder / BEST_FILE, text)

    def _files(self) -> list[BestFile]:
        """Return the files of this run, the best first."""
        name = rf"{re.escape(self._arch)}-(ema-)?best-(\d+)_{self._metric.name}_(-?[\d.]+)\.ckpt"
        matches = ((re.fullmatch(name, path.name), path) for path in self._folder.glob("*.ckpt"))
        return sorted(BestFile(-float(m[3]), int(m[2]), bool(m[1]), path) for m, path in matches if m)

    def _write(self, record: Mapping[str, float], *, again: bool) -> None:
        """Write the weights of the epoch of `record` if they are among the best, then delete its earlier file.

        An epoch that is trained again, on another device for example, has an earlier file. `again` also writes a file
        that exists already.
        """
        epoch = int(record["epoch"])
        for prefix, snapshot in self._snapshots.items():
            kind, value = "ema-best" if prefix else "best", record[prefix + self._metric.name]
            path = self._folder / f"{self._arch}-{kind}-{epoch}_{self._metric.name}_{value:.4f}.ckpt"
            new = BestFile(-round(value, 4), epoch, bool(prefix), path)
            files = [file for file in self._files() if file.averaged == new.averaged]
            wanted = sum(file < new for file in files if file.epoch != epoch) < self._keep
            if wanted and (again or not path.exists()):
                save_checkpoint(path, snapshot())
            for file in files:
                if file.epoch == epoch and not (wanted and file.path == path):
                    file.path.unlink()

    def _update(self) -> None:
        """Point best.ckpt to the best file, then delete the files beyond `keep`."""
        files = self._files()
        if files:
            link_atomically(files[0].path, self._folder / BEST_FILE)
        for averaged in (False, True):
            for file in [file for file in files if file.averaged == averaged][self._keep :]:
                file.path.unlink()


class LastCheckpoint(Callback):
    """The weights of the last epoch as best.ckpt, for a task that no metric ranks."""

    def __init__(self, folder: Path, snapshot: Snapshot) -> None:
        self._path, self._snapshot = folder / BEST_FILE, snapshot

    def on_train_begin(self, state: RunState) -> None:
        """Write the weights of a run that resumes after an epoch; a kill may have prevented that."""
        if state.history and state.step == 0:
            self.on_epoch_end(state)

    def on_epoch_end(self, state: RunState) -> None:
        save_checkpoint(self._path, self._snapshot())

    def on_train_end(self, state: RunState) -> None:
        if state.history:
            logger.info("best weights: %s (the last, epoch %d)", self._path, int(state.history[-1]["epoch"]))

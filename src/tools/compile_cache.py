"""Compiled training graphs kept on disk, so that the same run starts in seconds when it starts again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from types import TracebackType

import mindspore

from src.config import MODEL, OPTIMIZER, TRAINING, Config

# Where a run begins, and with what weights, is no part of its graph.
NOT_IN_THE_GRAPH = frozenset({"resume", "pretrained", "start_epoch", "exclude_epoch_state", "num_parallel_workers"})
SOURCES = Path(__file__).resolve().parents[1]
_ENABLE, _PATH = "MS_COMPILER_CACHE_ENABLE", "MS_COMPILER_CACHE_PATH"


class CompileCache:
    """Within its `with` block MindSpore takes compiled graphs from `folder` and leaves new ones there.

    MindSpore numbers its files by the order of compilation and does not look whether a graph is the one that is asked
    for: with another drop path rate it takes the old one without a word. So `folder` must be of one training step
    alone (see `cache_key`), and nothing else may be compiled inside the block.
    """

    def __init__(self, folder: Path) -> None:
        self._values = {_ENABLE: "1", _PATH: str(folder)}
        self._before: dict[str, str | None] = {}

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in self._values}
        os.environ.update(self._values)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def cache_key(config: Config, steps: int, ranks: int) -> str:
    """A name for the graphs of a run's training step, which changes with all that they may depend on.

    That is the options of network, optimizer and training, the device, the number of `steps` and `ranks`, the
    project's own code and MindSpore's version.
    """
    options = {
        entry.name: getattr(config, entry.name)
        for entry in dataclasses.fields(Config)
        if entry.metadata["group"] in (MODEL, OPTIMIZER, TRAINING) and entry.name not in NOT_IN_THE_GRAPH
    }
    rest = [config.device_target, steps, ranks, mindspore.__version__]
    digest = hashlib.sha256(json.dumps([options, rest], sort_keys=True).encode())
    for path in sorted(SOURCES.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]

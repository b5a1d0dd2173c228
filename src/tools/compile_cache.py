"""Compiled training graphs kept on disk, so that the same run starts in seconds the next time."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import mindspore
from mindspore import Tensor

from src.config import MODEL, OPTIMIZER, TRAINING, RunConfig
from src.runtime.kernel_library import kernel_library
from src.trainer.feed import Step

# Options of the start of a run, which its graph does not depend on.
NOT_IN_THE_GRAPH = frozenset(
    {"resume", "pretrained", "start_epoch", "exclude_epoch_state", "num_parallel_workers", "dry_run"}
)
SOURCES = Path(__file__).resolve().parents[1]


def cached_step(step: Step, config: RunConfig, steps: int, ranks: int) -> Step:
    """Return `step` with its graphs in the folder of the option `compile_cache`, or as it is without that option.

    MindSpore numbers its files in the order of compilation and does not check that a graph is the right one: with
    another drop path rate it silently reuses the stale graph. So the folder of a step is its own (see `cache_key`), and
    the cache is off while anything else is compiled.
    """
    if config.compile_cache is None:
        return step
    folder = Path(config.compile_cache).absolute() / cache_key(config, steps, ranks)
    values = {"MS_COMPILER_CACHE_ENABLE": "1", "MS_COMPILER_CACHE_PATH": str(folder)}

    def cached(*batch: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        before = {name: os.environ[name] for name in values if name in os.environ}
        os.environ.update(values)
        try:
            return step(*batch)
        finally:
            for name in values:
                del os.environ[name]
            os.environ.update(before)

    return cached


def cache_key(config: RunConfig, steps: int, ranks: int) -> str:
    """Return a name for the graphs of a run's training step that changes with everything they may depend on.

    These are the options of network, optimizer and training, the device, the number of `steps` and `ranks`, the code of
    this project, the compiled kernels and the version of MindSpore.
    """
    options = {
        entry.name: getattr(config, entry.name)
        for entry in dataclasses.fields(config)
        if entry.metadata["group"] in (MODEL, OPTIMIZER, TRAINING) and entry.name not in NOT_IN_THE_GRAPH
    }
    compiled = config.device_target == "CPU" and config.amp_level == "O0"
    library = kernel_library() if compiled else None  # its path, which the graph contains, is a hash of its content
    rest = [config.device_target, steps, ranks, mindspore.__version__, str(library)]
    digest = hashlib.sha256(json.dumps([options, rest], sort_keys=True).encode())
    for path in sorted(SOURCES.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]

"""Compiled training graphs kept on disk, so that the same run starts in seconds the next time."""

import dataclasses
from pathlib import Path

from mindspore import Tensor

from src.config import MODEL, OPTIMIZER, TRAINING, RunConfig
from src.runtime.graph_cache import compile_cache_in, graph_key
from src.trainer.feed import Step

# Options of the start of a run, which its graph does not depend on.
NOT_IN_THE_GRAPH = frozenset(
    {"resume", "pretrained", "start_epoch", "exclude_epoch_state", "num_parallel_workers", "dry_run"}
)


def cached_step(step: Step, config: RunConfig, steps: int, ranks: int) -> Step:
    """Return `step` with its graphs in the folder of the option `compile_cache`, or as it is without that option."""
    if config.compile_cache is None:
        return step
    folder = Path(config.compile_cache).absolute() / cache_key(config, steps, ranks)

    def cached(*batch: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        with compile_cache_in(folder):
            return step(*batch)

    return cached


def cache_key(config: RunConfig, steps: int, ranks: int) -> str:
    """Return a name for the graphs of a run's training step that changes with everything they may depend on.

    These are the options of network, optimizer and training, the device, the number of `steps` and `ranks`, and what
    `graph_key` adds.
    """
    options = {
        entry.name: getattr(config, entry.name)
        for entry in dataclasses.fields(config)
        if entry.metadata["group"] in (MODEL, OPTIMIZER, TRAINING) and entry.name not in NOT_IN_THE_GRAPH
    }
    on_cpu = config.device_target == "CPU"
    return graph_key([options, config.device_target, steps, ranks], compiled_kernels=on_cpu)

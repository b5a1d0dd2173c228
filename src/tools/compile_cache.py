"""Compiled training graphs kept on disk, so that the same run starts in seconds the next time."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from mindspore import Tensor

from src.config import MASKING, MODEL, OPTIMIZER, TRAINING, RunConfig
from src.runtime.graph_cache import compile_cache_in, graph_key
from src.trainer.accumulation import AccumulatedStep, TrainStep
from src.trainer.feed import Step

# Options of the start of a run, which its graph does not depend on.
NOT_IN_THE_GRAPH = frozenset(
    {"resume", "pretrained", "start_epoch", "exclude_epoch_state", "num_parallel_workers", "dry_run", "tokenizer"}
)


def cached_step(step: TrainStep, config: RunConfig, steps: int, ranks: int) -> Step:
    """Return `step` with its graphs in the folder of the option `compile_cache`, or as it is without that option."""
    if config.compile_cache is None:
        return step
    cell = step.add.step if isinstance(step, AccumulatedStep) else step
    shapes = {parameter.name: list(parameter.shape) for parameter in cell.get_parameters()}
    folder = Path(config.compile_cache).absolute() / cache_key(config, steps, ranks, shapes)

    def cached(*batch: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        with compile_cache_in(folder):
            return step(*batch)

    return cached


def cache_key(config: RunConfig, steps: int, ranks: int, shapes: Mapping[str, list[int]]) -> str:
    """Return a name for the graphs of a run's training step that changes with everything they may depend on.

    These are the options of network, objective, optimizer and training, the device, the number of `steps` and `ranks`,
    the `shapes` of all parameters by name, a tokenizer's among them, and what `graph_key` adds.
    """
    options = {
        entry.name: getattr(config, entry.name)
        for entry in dataclasses.fields(config)
        if entry.metadata["group"] in (MASKING, MODEL, OPTIMIZER, TRAINING) and entry.name not in NOT_IN_THE_GRAPH
    }
    on_cpu = config.device_target == "CPU"
    return graph_key([options, shapes, config.device_target, steps, ranks], compiled_kernels=on_cpu)

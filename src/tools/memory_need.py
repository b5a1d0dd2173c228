"""The memory that a run needs at least, compared with the machine's before any of it is allocated.

A lower bound, so that no run that fits is refused: a training step of BEiT-base with 8 images of 224 pixels is
estimated at 1.9 GB and takes 3.8 GB. Imports no MindSpore.
"""

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from src.config import RunConfig
from src.errors import UserError
from src.model.model_config import ModelConfig
from src.model.variants import get_variant

FLOAT = 4  # bytes
# Limits of a container: version 2 and version 1 of control groups.
CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Need:
    """The memory of a network on this machine.

    Attributes:
        model: the network.
        width: bytes of a value of weights and activations.
        copies: the weights and, in training, the optimizer's moments and the moving average.
        training: whether the activations of every block are kept for the gradients.
        network: whether this machine computes the network, not a GPU or an NPU.
    """

    model: ModelConfig
    width: int = FLOAT
    copies: int = 1
    training: bool = False
    network: bool = True

    def bytes(self, batch_size: int, image_size: int) -> int:
        """Return the least bytes for a batch of images of `image_size` pixels."""
        variant = get_variant(self.model.arch)
        tokens = (image_size // variant.patch_size) ** 2 + 1
        dim, depth, ratio = variant.embed_dim, variant.depth, int(variant.mlp_ratio)
        # int32 [N, N]: the index of the relative position bias
        fixed = FLOAT * tokens**2
        image = self.width * 3 * image_size**2
        if self.network:
            outputs = self.model.num_classes + self.model.lm_head_outputs
            weights = depth * (4 + 2 * ratio) * dim**2 + (3 * variant.patch_size**2 + outputs) * dim
            fixed += self.width * self.copies * weights
            hidden, attention = ratio * tokens * dim, variant.num_heads * tokens**2
            # for the gradients at least: queries, keys, values, attention, and the MLP's hidden layer twice
            kept = depth * (3 * tokens * dim + attention + 2 * hidden) if self.training else max(hidden, attention)
            image += self.width * kept
        return fixed + batch_size * image


def need_of(config: RunConfig, model: ModelConfig) -> Need:
    """Return the need of the network `model` with the options of a run that only computes its outputs."""
    width = FLOAT if config.amp_level == "O0" else FLOAT // 2
    return Need(model, width=width, network=config.device_target == "CPU")


def training_need(config: RunConfig, model: ModelConfig, *, average: bool) -> Need:
    """Return the need of training the network `model`, with a moving average of its weights if `average`."""
    moments = 1 if config.optimizer == "momentum" else 2
    return replace(need_of(config, model), copies=1 + moments + average, training=True)


def require_memory(need: Need, batch_size: int) -> None:
    """Raise `UserError`, with the largest value that may fit, if a batch needs more memory than the machine has."""
    memory, image_size, arch = machine_memory(), need.model.image_size, need.model.arch
    needed = need.bytes(batch_size, image_size)
    if needed <= memory:
        return
    without, one = need.bytes(0, image_size), need.bytes(1, image_size)
    needs = f"needs at least {_gigabytes(needed)}, but this machine has {_gigabytes(memory)}"
    if one <= memory:
        most = (memory - without) // (one - without)
        raise UserError(f"batch_size is {batch_size}, which {needs} (image_size {image_size}); set at most {most}")
    patch = get_variant(arch).patch_size
    sizes = [size for size in range(patch, image_size, patch) if need.bytes(1, size) <= memory]
    if sizes:
        raise UserError(f"image_size is {image_size}, which {needs}; set at most {sizes[-1]}, and batch_size 1")
    raise UserError(f"arch is {arch}, which {needs}; choose a smaller one")


def require_memory_for_steps(epochs: int, steps_per_epoch: int) -> None:
    """Raise `UserError` if the learning rates of all steps, float64, need more memory than the machine has."""
    memory, epoch = machine_memory(), 8 * steps_per_epoch
    if epochs * epoch > memory:
        raise UserError(
            f"epochs is {epochs}, and the learning rates of {steps_per_epoch} steps in each need at least "
            f"{_gigabytes(epochs * epoch)}, but this machine has {_gigabytes(memory)}; set at most {memory // epoch}"
        )


def machine_memory() -> int:
    """Return the bytes that this process may use: those of the machine, or a lower limit set for it."""
    return min(_memory_limits())


def _memory_limits() -> Iterator[int]:
    yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        yield limit
    for path in CONTAINER_LIMITS:
        try:
            yield int(Path(path).read_text())
        except (OSError, ValueError):  # no control groups of this version, or "max"
            continue


def _gigabytes(count: int) -> str:
    return f"{float(f'{count / 1e9:.3g}'):g} GB"

"""The parts of `benchmarks/growth.py`: what grows, the growth expected, and one measurement of both sides."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.comparison.benchmarks import OURS, THEIRS, Settings, ours, theirs
from benchmarks.comparison.driver import alternate, run_to_end
from benchmarks.comparison.linked_images import linked_images
from benchmarks.comparison.reckoning import Sizes, forward_work
from benchmarks.comparison.this_project import CONFIG
from src.model.variants import get_variant

FORWARD_ARCH, IMAGE_SIZE = "beit_tiny_patch16_224", 224
SIZE_BATCH = 2
LEAST_IMAGES = 8  # of a repetition
LOADER_BATCH = 64
RANK_ARCH, RANK_IMAGE_SIZE, GLOBAL_BATCH, RANK_STEPS = "beit_micro_patch8_32", 64, 64, 13
SECONDS, LIST_SECONDS, PEAK = "seconds", "list_seconds", "peak_bytes"

Measured = dict[str, dict[str, float]]
"""The quantities of each side."""


@dataclass(frozen=True)
class Part:
    """A quantity that grows.

    Attributes:
        title: name of the quantity, for the table and the chart.
        work: what is measured at each value.
        times: what each measured time means.
        expected: relation of the times and of the added memory to the value, in words.
        factor: the growth of the first time that is expected between two values.
        measure: one measurement of both sides at a value. Seconds are per image except those of a folder.
    """

    title: str
    work: str
    values: tuple[int, ...]
    times: Mapping[str, str]
    expected: str
    factor: Callable[[int, int], float]
    measure: Callable[[Settings, int], Measured]


def network_options(arch: str, image_size: int) -> dict[str, Any]:
    """Return the options of both sides for a network of `arch`; timm has no BEiT of that size and gets its sizes."""
    variant = get_variant(arch)
    sizes = {
        "img_size": image_size,
        "patch_size": variant.patch_size,
        "embed_dim": variant.embed_dim,
        "depth": variant.depth,
        "num_heads": variant.num_heads,
    }
    return {"arch": arch, "image_size": image_size, "timm_sizes": sizes}


def measure_batch(settings: Settings, batch: int) -> Measured:
    return measure_forward(settings, batch, IMAGE_SIZE)


def measure_image_size(settings: Settings, image_size: int) -> Measured:
    return measure_forward(settings, SIZE_BATCH, image_size)


def measure_forward(settings: Settings, batch: int, image_size: int) -> Measured:
    """Run forward passes of both sides in turns; the seconds are the minimum of the rounds."""
    settings = replace(settings, batch_size=batch)
    repeats = max(1, LEAST_IMAGES // batch)
    options = network_options(FORWARD_ARCH, image_size) | {"repeats": repeats}
    with ours(settings, "forward", **options) as our_side, theirs(settings, "forward", **options) as their_side:
        sides = {OURS: our_side, THEIRS: their_side}
        seconds = alternate(sides, settings.rounds, warm_up=1)
        return {
            name: {SECONDS: min(seconds[name]) / repeats / batch, PEAK: side.peak_bytes} for name, side in sides.items()
        }


def forward_factor(smaller: int, larger: int) -> float:
    """Return the ratio of the operations of an image of two sizes in pixels."""
    variant = get_variant(FORWARD_ARCH)
    sizes = Sizes(variant.embed_dim, variant.depth, variant.num_heads, variant.patch_size, smaller, num_classes=1000)
    return forward_work(replace(sizes, image_size=larger), 1).flops / forward_work(sizes, 1).flops


def measure_folder(settings: Settings, count: int) -> Measured:
    """List a folder and get the first batch, in a new process of each side."""
    settings = replace(settings, batch_size=LOADER_BATCH)
    found: Measured = {}
    with linked_images(settings.images, count):
        for name, start in ((OURS, ours), (THEIRS, theirs)):
            with start(settings, "first_batch", images=str(settings.images.resolve())) as side:
                found[name] = {key: float(side.facts[key]) for key in (LIST_SECONDS, SECONDS, PEAK)}
    return found


def measure_ranks(settings: Settings, ranks: int) -> Measured:
    """Train on `ranks` processes with the same global batch; the memory is that of the first rank."""
    options = network_options(RANK_ARCH, RANK_IMAGE_SIZE) | {
        "batch_size": GLOBAL_BATCH // ranks,
        "device_num": ranks,
        "steps": RANK_STEPS,
    }
    arguments = ["rank_steps", json.dumps(options)]
    launcher = [sys.executable, "scripts/launch_ranks.py", "--config", CONFIG, "--num_devices", str(ranks), "--"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"]
    commands = {
        OURS: [*launcher, sys.executable, "-m", "benchmarks.comparison.this_project", *arguments],
        THEIRS: [str(settings.reference), *torchrun, "benchmarks.comparison.reference", *arguments],
    }
    measured = {name: run_to_end(command) for name, command in commands.items()}
    return {name: {SECONDS: facts[SECONDS] / GLOBAL_BATCH, PEAK: facts[PEAK]} for name, facts in measured.items()}


def constant(smaller: int, larger: int) -> float:
    return 1.0


def linear(smaller: int, larger: int) -> float:
    return larger / smaller


PER_IMAGE = "per image"
PARTS: Mapping[str, Part] = {
    "batch": Part(
        title="batch size",
        work=f"forward pass, {FORWARD_ARCH}",
        values=(1, 2, 4, 8, 16, 32),
        times={SECONDS: PER_IMAGE},
        expected="time per image constant, added memory in proportion to the batch",
        factor=constant,
        measure=measure_batch,
    ),
    "image_size": Part(
        title="image size, pixels",
        work=f"forward pass, {FORWARD_ARCH}, batch {SIZE_BATCH}",
        values=(224, 384, 512),
        times={SECONDS: PER_IMAGE},
        expected="products with weights linear in the tokens (197, 577, 1025), attention quadratic",
        factor=forward_factor,
        measure=measure_image_size,
    ),
    "folder": Part(
        title="images in the folder",
        work=f"listing, and the first training batch of {LOADER_BATCH}",
        values=(1_000, 10_000, 100_000, 1_000_000),
        times={LIST_SECONDS: "listing", SECONDS: "first batch"},
        expected="listing and memory linear, the rest of the first batch constant",
        factor=linear,
        measure=measure_folder,
    ),
    "ranks": Part(
        title="ranks",
        work=f"training step, {RANK_ARCH} at {RANK_IMAGE_SIZE} pixels, global batch {GLOBAL_BATCH}",
        values=(1, 2, 4),
        times={SECONDS: PER_IMAGE},
        expected=f"constant while ranks share {len(os.sched_getaffinity(0))} hardware thread(s), plus the all-reduce",
        factor=constant,
        measure=measure_ranks,
    ),
}

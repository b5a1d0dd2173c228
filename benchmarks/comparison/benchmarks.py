"""The benchmarks. Each runs both sides and returns a `Result`."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparison.driver import Side, SideFailed, alternate, time_command
from benchmarks.comparison.images import make_images
from benchmarks.comparison.instructions import caps, caps_of_kernels
from benchmarks.comparison.reckoning import (
    Machine,
    Ratio,
    Sizes,
    forward_work,
    ratio_of,
    step_memory,
    step_work,
)

OURS, THEIRS, COMPILED = "this project", "timm", "timm compiled"
BASE = Sizes(embed_dim=768, depth=12, num_heads=12, patch_size=16, image_size=224, num_classes=1000)
LOADER_BATCH = 64
WORKERS = 2
COMPILE_CACHE = "compile_cache"
SECONDS, BYTES, IMAGES = "s", "GB", "images/s"


@dataclass(frozen=True)
class Settings:
    """Settings of a comparison."""

    reference: Path
    device_target: str
    batch_size: int
    rounds: int
    images: Path
    image_count: int
    isa: str
    compiled: bool


@dataclass(frozen=True)
class Result:
    """Result of a benchmark.

    Attributes:
        values: median of each side, in `unit`.
        samples: all measurements of each side.
        ratio: relative to the reference; larger is better unless `smaller_is_better`.
        floor: least value that the machine allows.
    """

    name: str
    work: str
    unit: str
    values: dict[str, float]
    samples: dict[str, list[float]]
    ratio: Ratio | None = None
    target: str = ""
    target_ratio: float | None = None
    smaller_is_better: bool = False
    floor: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return all fields, for the JSON file."""
        return asdict(self)


def ours(settings: Settings, task: str, **options: Any) -> Side:
    """Start this project's side in the current interpreter."""
    environment = caps(settings.isa) | caps_of_kernels(settings.isa)
    return Side(Path(sys.executable), "this_project", task, common(settings) | options, environment)


def theirs(settings: Settings, task: str, **options: Any) -> Side:
    """Start the reference's side."""
    return Side(settings.reference, "reference", task, common(settings) | options, caps(settings.isa))


def common(settings: Settings) -> dict[str, Any]:
    return {"batch_size": settings.batch_size, "device_target": settings.device_target, "isa": settings.isa}


def measure_machine(settings: Settings) -> tuple[Machine, dict[str, Any]]:
    """Return the rates for the floors: the faster library's matrix product, and the reference's copy."""
    with ours(settings, "machine") as our_side:
        facts = {OURS: our_side.facts}
    with theirs(settings, "machine") as their_side:
        facts[THEIRS] = their_side.facts
    products = {name: float(side["flops"]) for name, side in facts.items()}
    return Machine(max(products.values()), float(facts[THEIRS]["bytes_per_second"]), products), facts


def forward(settings: Settings, machine: Machine) -> Result:
    work = f"logits of {settings.batch_size} images, BEiT-base 224, float32, exact GELU"
    floor = forward_work(BASE, settings.batch_size).floor(machine)
    return computation(settings, machine, "forward", "forward", work, floor)


def step(settings: Settings, machine: Machine) -> Result:
    work = f"{settings.batch_size} images: forward, backward, clipping, AdamW with layer decay, drop path 0.1"
    floor = step_work(BASE, settings.batch_size).floor(machine)
    return computation(settings, machine, "step", "training step", work, floor)


def computation(settings: Settings, machine: Machine, task: str, name: str, work: str, floor: float) -> Result:
    """Compare this project, timm and, if chosen, timm compiled by torch.

    If timm cannot be compiled, a note has the reason.
    """
    notes = {"products": ", ".join(f"{side} {flops / 1e9:.0f} GFLOP/s" for side, flops in machine.products.items())}
    with ours(settings, task) as our_side, theirs(settings, task) as their_side, ExitStack() as third:
        sides = {OURS: our_side, THEIRS: their_side}
        try:
            if settings.compiled:
                sides[COMPILED] = third.enter_context(theirs(settings, task, compiled=True))
        except SideFailed as error:
            notes[COMPILED] = f"not measured: {reason_of(error)}"
        samples = alternate(sides, settings.rounds, warm_up=1)
    if COMPILED in samples:
        middle, low, high = ratio_of(samples[OURS], samples[COMPILED])
        notes[f"ratio to {COMPILED}"] = f"{middle:.2f} ({low:.2f} to {high:.2f})"
    return Result(
        name=name,
        work=work,
        unit=SECONDS,
        values=medians(samples),
        samples=samples,
        ratio=ratio_of(samples[OURS], samples[THEIRS]),
        target="at least 1.0 times as fast",
        target_ratio=1.0,
        floor=floor,
        notes=notes,
    )


def reason_of(error: SideFailed) -> str:
    """Return the line of a side's output that names an error, or the last one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if re.match(r"[\w.]*(Error|Exception)\b", line)), lines[-1])


def memory(settings: Settings, machine: Machine) -> Result:
    """Measure the peak memory of a training process of each side, one after the other."""
    samples: dict[str, list[float]] = {}
    for name, start in ((OURS, ours), (THEIRS, theirs)):
        with start(settings, "step") as side:
            side.repeat()
            samples[name] = [side.peak_bytes / 1e9]
    return Result(
        name="memory of a step",
        work="peak resident memory of a training process, including libraries and compilation",
        unit=BYTES,
        values=medians(samples),
        samples=samples,
        ratio=ratio_of(samples[THEIRS], samples[OURS]),
        target="at most 1.25 times the reference's",
        target_ratio=1.25,
        smaller_is_better=True,
        floor=step_memory(BASE, settings.batch_size) / 1e9,
    )


def compilation(settings: Settings, machine: Machine) -> Result:
    """Measure the first step minus a later one: without a compile cache, writing one, and reading one."""
    with tempfile.TemporaryDirectory() as cache:
        seconds = {}
        for name, options in (
            ("first", {}),
            ("first, cache written", {COMPILE_CACHE: cache}),
            ("again, from the cache", {COMPILE_CACHE: cache}),
        ):
            with ours(settings, "step", **options) as side:
                seconds[name] = side.facts["compile_seconds"]
    return Result(
        name="compile training graph",
        work="first training step minus the second; the reference runs eagerly and does not compile",
        unit=SECONDS,
        values=seconds,
        samples={name: [value] for name, value in seconds.items()},
        target="15 s, and 5 s from the cache",
    )


def train_pipeline(settings: Settings, machine: Machine) -> Result:
    return pipeline(
        settings,
        "train_pipeline",
        "train pipeline",
        "decode, crop bicubic, flip, rand-m9-mstd0.5-inc1, erase, mixup or cutmix; 2 workers, batches of 64",
        1.5,
    )


def eval_pipeline(settings: Settings, machine: Machine) -> Result:
    return pipeline(
        settings,
        "eval_pipeline",
        "eval pipeline",
        "decode, resize bicubic to 248, center crop, normalize; 2 workers, batches of 64",
        2.0,
    )


def pipeline(settings: Settings, task: str, name: str, work: str, target: float) -> Result:
    make_images(settings.images, settings.image_count)
    options = {"images": str(settings.images.resolve()), "batch_size": LOADER_BATCH}
    with ours(settings, "pillow", **options) as side:
        floor = side.facts["decode"] + side.facts[task.removesuffix("_pipeline")]
    with ours(settings, task, **options) as our_side, theirs(settings, task, **options) as their_side:
        sides = {OURS: our_side, THEIRS: their_side}
        seconds = alternate(sides, settings.rounds, warm_up=1)
        images = {name: int(side.facts["images"]) for name, side in sides.items()}
    samples = {name: [images[name] / taken for taken in seconds[name]] for name in sides}
    return Result(
        name=name,
        work=f"JPEG files of 500 x 375: {work}",
        unit=IMAGES,
        values=medians(samples),
        samples=samples,
        ratio=ratio_of([1 / v for v in samples[OURS]], [1 / v for v in samples[THEIRS]]),
        target=f"at least {target} times as many",
        target_ratio=target,
        floor=WORKERS / floor,
        notes={"floor": f"{1000 * floor:.2f} ms per image for Pillow's decoding and resizing, on {WORKERS} cores"},
    )


def help_text(settings: Settings, machine: Machine) -> Result:
    seconds = [time_command([sys.executable, "train.py", "--help"]) for _ in range(settings.rounds)]
    return Result(
        name="train.py --help",
        work="duration of the process",
        unit=SECONDS,
        values={OURS: float(np.median(seconds))},
        samples={OURS: seconds},
        target="under 0.5 s",
    )


BENCHMARKS: Mapping[str, Callable[[Settings, Machine], Result]] = {
    "forward": forward,
    "step": step,
    "memory": memory,
    "compile": compilation,
    "train_pipeline": train_pipeline,
    "eval_pipeline": eval_pipeline,
    "help": help_text,
}


def medians(samples: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: float(np.median(values)) for name, values in samples.items()}

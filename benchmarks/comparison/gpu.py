"""The benchmarks on a GPU: images per second, memory, and share of the card's half-precision peak."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.comparison.benchmarks import BASE, BYTES, IMAGES, OURS, Result, Settings, medians, ours, theirs
from benchmarks.comparison.driver import Side, alternate
from benchmarks.comparison.reckoning import Machine, forward_work, ratio_of, step_work

GPU_BATCH = 64
REPEATS = 20  # per timed repetition, so that the launch of the first is negligible
LEVELS = ("O0", "O2")
EAGER, COMPILED = "timm eager", "timm compiled"
# Dense half-precision operations per second (NVIDIA's data sheets), by a part of the card's name.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "A10": 125e12, "L40": 181e12, "V100": 125e12, "T4": 65e12}


def gpu_missing(settings: Settings) -> str | None:
    """Return the reason why no GPU can be measured, or None if both sides find one."""
    probe = "import mindspore, sys; sys.exit(not mindspore.hal.is_available('GPU'))"
    if subprocess.run([sys.executable, "-c", probe], capture_output=True).returncode:
        return "MindSpore finds no GPU on this machine"
    probe = "import torch, sys; sys.exit(not torch.cuda.is_available())"
    if subprocess.run([settings.reference, "-c", probe], capture_output=True).returncode:
        return "the reference's torch finds no GPU on this machine"
    return None


def gpu_forward(settings: Settings, machine: Machine) -> list[Result]:
    return [measure(settings, "forward", level, forward_work(BASE, GPU_BATCH).flops) for level in LEVELS]


def gpu_step(settings: Settings, machine: Machine) -> list[Result]:
    return [measure(settings, "step", level, step_work(BASE, GPU_BATCH).flops) for level in LEVELS]


def measure(settings: Settings, task: str, level: str, flops: float) -> Result:
    """Run one task at one precision, alternating this project, torch eager and torch compiled."""
    options: dict[str, Any] = {
        "device_target": "GPU",
        "batch_size": GPU_BATCH,
        "amp_level": level,
        "repeats": REPEATS,
    }
    with (
        ours(settings, task, **options) as our_side,
        theirs(settings, task, **options) as eager,
        theirs(settings, task, **options, compiled=True) as compiled,
    ):
        sides: dict[str, Side] = {OURS: our_side, EAGER: eager, COMPILED: compiled}
        seconds = alternate(sides, settings.rounds, warm_up=2)
        memory = {name: side.facts.get("device_bytes", 0) / 1e9 for name, side in sides.items()}
        card = str(eager.facts.get("device", ""))
    samples = {name: [GPU_BATCH * REPEATS / taken for taken in seconds[name]] for name in sides}
    rates = medians(samples)
    peak = next((value for part, value in PEAK_FLOPS.items() if part in card), None)
    shares = {name: rate * flops / GPU_BATCH / peak for name, rate in rates.items()} if peak else {}
    return Result(
        name=f"GPU {task} {level}",
        work=f"batches of {GPU_BATCH} on {card}",
        unit=IMAGES,
        values=rates,
        samples=samples,
        ratio=ratio_of(seconds[OURS], seconds[EAGER]),
        notes={
            "memory": ", ".join(f"{name} {value:.2f} {BYTES}" for name, value in memory.items()),
            "share of the half-precision peak": ", ".join(f"{name} {value:.1%}" for name, value in shares.items()),
        },
    )


GPU_BENCHMARKS: Mapping[str, Callable[[Settings, Machine], list[Result]]] = {
    "gpu_forward": gpu_forward,
    "gpu_step": gpu_step,
}

"""Measure the time of every kernel of a forward pass or a training step on the CPU.

    python benchmarks/kernel_profile.py forward|step [--batch_size 8] [--runs 3]

A row is a kernel of a layer, summed over the blocks; the slowest comes first. Gradients of MindSpore's operators have
rows of their own. A compiled kernel and its gradient share a row, because MindSpore's profiler gives both one name. The
kernels run one after another, so the rows add up to the time of the run, apart from the launches.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.comparison.this_project import forward_pass, training_step

NAME, MILLISECONDS = "full_op_name", "op_total_time(ms)"  # columns of the profiler's file


class Kernel(NamedTuple):
    """A kernel of a layer: how often a run calls it, and its milliseconds in a run."""

    name: str
    calls: int
    milliseconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("forward", "step"))
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    kernels, seconds = profile(arguments.task, arguments.batch_size, arguments.runs)
    total = sum(kernel.milliseconds for kernel in kernels)
    print(f"{arguments.task}: {1000 * seconds:.0f} ms without the profiler, {total:.0f} ms in the kernels")
    for kernel in kernels:
        share = kernel.milliseconds / total
        print(f"{kernel.name:45s} {kernel.calls:5d} {kernel.milliseconds:9.2f} ms {share:7.2%}")
    return 0


def profile(task: str, batch_size: int, runs: int) -> tuple[list[Kernel], float]:
    """Return the kernels, slowest first, and the seconds of a run before the profiler starts."""
    from mindspore import Profiler

    build = {"forward": forward_pass, "step": training_step}[task]
    work = build({"batch_size": batch_size})
    seconds = min(timed(work) for _ in range(3))  # the first one compiles
    with tempfile.TemporaryDirectory(prefix="beit-profile-") as folder:
        profiler = Profiler(output_path=folder, start_profile=False)
        profiler.start()
        for _ in range(runs):
            work().asnumpy()
        profiler.stop()
        profiler.analyse()
        (path,) = Path(folder).rglob("cpu_op_detail_info_*.csv")
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    return grouped(rows, runs), seconds


def timed(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work().asnumpy()
    return time.perf_counter() - begin


def grouped(rows: Iterable[Mapping[str, str]], runs: int) -> list[Kernel]:
    """Return the sums over the blocks of the rows of the profiler's file, slowest first."""
    calls: dict[str, int] = {}
    milliseconds: dict[str, float] = {}
    for row in rows:
        name = kernel_name(row[NAME])
        calls[name] = calls.get(name, 0) + 1
        milliseconds[name] = milliseconds.get(name, 0.0) + float(row[MILLISECONDS]) / runs
    kernels = [Kernel(name, calls[name], milliseconds[name]) for name in calls]
    return sorted(kernels, key=lambda kernel: -kernel.milliseconds)


def kernel_name(path: str) -> str:
    """Return the last layers and the operator of a path of scopes, without the number of the block and the operator."""
    *scopes, operator = [part for part in path.split("/") if part not in ("Default", "Gradients")]
    layers = [re.sub(r"-.*", "", re.sub(r"^\d+-", "", scope)) for scope in scopes]
    gradient = "gradient of " if path.startswith("Gradients/") else ""
    return gradient + "/".join([*layers[-2:], re.sub(r"-op\d+$", "", operator)])


if __name__ == "__main__":
    sys.exit(main())

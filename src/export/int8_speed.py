"""The speed of an int8 file relative to float32 on the machine that exports it.

Integer products are faster only on processors with instructions for them (VNNI): measured were 2.6 times the speed of
float32 with, and 0.9 to 1.1 times without.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from src.export.compare_logits import random_input
from src.export.onnx_export import OnnxOptions, export_onnx
from src.model.model_info import ModelInfo
from src.prediction.loaded_network import Network

ROUNDS = 5
# Two sessions of one file differ by several percent in speed.
FASTER = 1.1
CPU_FACTS = Path("/proc/cpuinfo")
VNNI = ("avx512_vnni", "avx_vnni", "asimddp", "i8mm")  # names of the instructions on x86 and on Arm


def int8_speed(
    exported: Network, info: ModelInfo, weights: Mapping[str, np.ndarray], options: OnnxOptions, folder: Path
) -> str:
    """Run the int8 network `exported` and its float32 one in turn, and return a line with the ratio of their speeds.

    The float32 file of `info` and `weights` is written to `folder`, and removed again.
    """
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        path = Path(temporary) / "exact.onnx"
        exact = export_onnx(info, weights, path, replace(options, precision="fp32", calibration=None))
    images = random_input(exported, options)
    seconds = in_turn(lambda: exact.run(images), lambda: exported.run(images))
    return speed_line(seconds, len(images), has_int8_instructions())


def in_turn(exact: Callable[[], object], quantized: Callable[[], object]) -> tuple[float, float]:
    """Return the least seconds of each function over `ROUNDS` alternating rounds after a warm-up."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(1 + ROUNDS):
        for way, times in zip((exact, quantized), taken):
            begin = time.perf_counter()
            way()
            times.append(time.perf_counter() - begin)
    return min(taken[0][1:]), min(taken[1][1:])


def speed_line(seconds: tuple[float, float], images: int, has_instructions: bool | None) -> str:
    """Describe the seconds of float32 and int8; `has_instructions` is None where the processor is unknown."""
    ratio = seconds[0] / seconds[1]
    measured = f"{images} images in {seconds[0]:.3g} s as fp32, in {seconds[1]:.3g} s as int8"
    if ratio >= FASTER:
        return f"int8 is {ratio:.2f} times as fast as fp32 on this machine ({measured})"
    reason = ", whose processor has no instructions for int8 products (VNNI)" if has_instructions is False else ""
    slower = f"int8 is not faster than fp32 on this machine{reason}"
    return f"{slower}: {ratio:.2f} times as fast ({measured}); the file is kept"


def has_int8_instructions(facts: Path = CPU_FACTS) -> bool | None:
    """Return whether the processor multiplies 8-bit integers at once; None if the system does not say."""
    try:
        lines = facts.read_text().splitlines()
    except OSError:
        return None
    flags = next((line.split(":")[1].split() for line in lines if line.startswith(("flags", "Features"))), None)
    return None if flags is None else any(name in flags for name in VNNI)

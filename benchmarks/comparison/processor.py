"""The processor of this machine, in words."""

from __future__ import annotations

import os
from pathlib import Path

VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}  # flag of the processor -> name


def processor() -> str:
    """Return the number of cores, the model and the vector instructions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    vectors = next((name for flag, name in VECTORS.items() if flag in flags), "neither AVX-512 nor AVX2")
    return f"{os.cpu_count()} cores ({model}, {vectors})"

"""The cap of the vector instructions of all sides, to measure on an AVX-512 processor what one with AVX2 gives."""

from __future__ import annotations

import shlex

from src.runtime.kernel_library import Unavailable, compiler

NATIVE, AVX2 = "native", "avx2"
ISAS = (NATIVE, AVX2)
# oneDNN (both sides), MKL and ATen (the reference)
CAPS = {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


def caps(isa: str) -> dict[str, str]:
    """Return the environment variables that cap the libraries of both sides; none for `NATIVE`."""
    return dict(CAPS) if isa == AVX2 else {}


def caps_of_kernels(isa: str) -> dict[str, str]:
    """Return the environment variables that cap this project's compiled kernels; none without a compiler."""
    if isa != AVX2:
        return {}
    try:
        return {"CXX": shlex.join([*compiler(), "-mno-avx512f"])}
    except Unavailable:
        return {}

"""What MindSpore's GPU back end needs of a machine: where it lies, and what of it is missing. Imports no MindSpore.

MindSpore looks for the back end only where `$CUDA_HOME/bin/nvcc` tells a version of CUDA that it knows, and then loads
it without a word if a library is missing. So this is asked before, and answered in one line.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from src.errors import UserError

BACK_END = "lib/plugin/libmindspore_gpu.so.11.6"
DRIVER = "libcuda.so.1"
# The CUDA that the back end was built with, as the driver numbers it: machine code for newer cards is made from its
# PTX by the driver, which must know that.
CUDA_VERSION = 11060


def require_gpu(target: str) -> None:
    """Raise `UserError`, with all that is missing, where `target` is GPU and MindSpore could not use one."""
    if target != "GPU":
        return
    found = missing(_package_folder("mindspore") / BACK_END, os.environ)
    if found:
        raise UserError(f"device_target is GPU, and {'; '.join(found)}; or pass --device_target CPU")


def missing(
    back_end: Path,
    environment: Mapping[str, str],
    unresolved: Callable[[Path], list[str]] | None = None,
    driver_problem: Callable[[], str | None] | None = None,
) -> list[str]:
    """What stands between the library `back_end` and a GPU, in words, each with what to do; empty where nothing does.

    Args:
        environment: of this process.
        unresolved: names the libraries that a library links and that are not found.
        driver_problem: says what is wrong with a driver that is there.
    """
    names = (unresolved or unresolved_libraries)(back_end)
    problems = []
    if DRIVER in names:
        problems.append(f"there is no NVIDIA driver ({DRIVER}): install it, so that nvidia-smi works")
    libraries = [name for name in names if name != DRIVER]
    if libraries:
        problems.append(
            f"MindSpore's back end does not find {', '.join(libraries)}: "
            f"pip install -r requirements-gpu.txt, then source scripts/gpu_env.sh"
        )
    elif not os.access(Path(environment.get("CUDA_HOME") or "/nowhere") / "bin" / "nvcc", os.X_OK):
        problems.append("CUDA_HOME names no CUDA, without which MindSpore looks for no GPU: source scripts/gpu_env.sh")
    if not problems:
        problems += filter(None, [(driver_problem or ask_driver)()])
    return problems


def unresolved_libraries(library: Path) -> list[str]:
    """The libraries that `library` links, directly or through others, and that the system does not find; by ldd."""
    listed = subprocess.run(["ldd", str(library)], capture_output=True, text=True, check=False)
    if listed.returncode:
        raise UserError(f"{library} cannot be looked into ({listed.stderr.strip()}): install MindSpore again")
    return sorted(set(re.findall(r"^\s*(\S+) => not found", listed.stdout, re.MULTILINE)))


def ask_driver(driver: str = DRIVER) -> str | None:
    """What is wrong with the driver and its devices, in words; None where nothing is."""
    cuda = ctypes.CDLL(driver)
    code = cuda.cuInit(0)
    if code:
        return f"the NVIDIA driver finds no device that it can use (cuInit gives {code}): nvidia-smi must show one"
    version = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    if version.value < CUDA_VERSION:
        return (
            f"the NVIDIA driver is one for CUDA {_dotted(version.value)}: update it to {_dotted(CUDA_VERSION)} or later"
        )
    return None


def library_folders() -> list[Path]:
    """Where the libraries are that LD_LIBRARY_PATH must name: of the installed NVIDIA packages, and MindSpore's own."""
    mindspore = _package_folder("mindspore")
    nvidia = _package_folders("nvidia")
    return [
        *(path for folder in nvidia for path in sorted(folder.glob("*/lib"))),
        mindspore / "lib",
        mindspore / "lib" / "plugin" / "gpu11.6",
    ]


def _package_folder(name: str) -> Path:
    folders = _package_folders(name)
    if not folders:
        raise UserError(f"{name} is not installed: pip install -r requirements.txt")
    return folders[0]


def _package_folders(name: str) -> list[Path]:
    """The folders of an installed package, without importing it."""
    spec = importlib.util.find_spec(name)
    return [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec is not None else []


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"

"""Requirements of MindSpore's GPU backend, and a check of which of them this machine does not meet.

MindSpore loads the backend only if `$CUDA_HOME/bin/nvcc` reports a CUDA version that it supports, and falls back
silently if a library is missing. This check runs before MindSpore is imported and reports everything in one line.
"""

import ctypes
import importlib.util
import os
import re
import subprocess
from pathlib import Path

from src.errors import UserError

BACKEND = "lib/plugin/libmindspore_gpu.so.11.6"
DRIVER = "libcuda.so.1"
# CUDA version of the backend, as the driver numbers it. The driver must support it, because it compiles the backend's
# PTX for GPUs newer than sm_80.
CUDA_VERSION = 11060


def require_gpu(target: str) -> None:
    """Raise `UserError` with every unmet requirement if `target` is GPU and MindSpore cannot use one."""
    if target == "GPU" and (problems := find_problems(_package_folder("mindspore") / BACKEND)):
        raise UserError(f"device_target is GPU but {'; '.join(problems)}; or pass --device_target CPU")


def find_problems(backend: Path) -> list[str]:
    """Return the unmet requirements of the library `backend`, each with its fix."""
    unresolved = unresolved_libraries(backend)
    libraries = [name for name in unresolved if name != DRIVER]
    problems = []
    if DRIVER in unresolved:
        problems.append(f"there is no NVIDIA driver ({DRIVER}): install it, so that nvidia-smi works")
    if libraries:
        problems.append(
            f"MindSpore's backend does not find {', '.join(libraries)}: "
            f"pip install -r requirements-gpu.txt, then source scripts/gpu_env.sh"
        )
    elif not os.access(Path(os.environ.get("CUDA_HOME") or "/nowhere", "bin", "nvcc"), os.X_OK):
        problems.append("CUDA_HOME has no bin/nvcc, from which MindSpore reads the version: source scripts/gpu_env.sh")
    return problems or list(filter(None, [driver_problem()]))


def unresolved_libraries(library: Path) -> list[str]:
    """Return the libraries that `library` links, directly or indirectly, and that the system does not find."""
    listed = subprocess.run(["ldd", str(library)], capture_output=True, text=True, check=False)
    if listed.returncode:
        raise UserError(f"ldd cannot read {library} ({listed.stderr.strip()}): install MindSpore again")
    return sorted(set(re.findall(r"^\s*(\S+) => not found", listed.stdout, re.MULTILINE)))


def driver_problem() -> str | None:
    """Return why the installed driver cannot serve the backend, with the fix; None if it can."""
    cuda = ctypes.CDLL(DRIVER)
    if code := cuda.cuInit(0):
        return f"the NVIDIA driver finds no usable device (cuInit returns {code}): nvidia-smi must show one"
    version = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    if version.value < CUDA_VERSION:
        found, needed = (f"{number // 1000}.{number % 1000 // 10}" for number in (version.value, CUDA_VERSION))
        return f"the NVIDIA driver supports CUDA {found}: update it to one for CUDA {needed} or later"
    return None


def library_folders() -> list[Path]:
    """Return the folders for LD_LIBRARY_PATH: those of the installed NVIDIA packages, then MindSpore's own."""
    mindspore = _package_folder("mindspore")
    nvidia = [path for folder in _package_folders("nvidia") for path in sorted(folder.glob("*/lib"))]
    return [*nvidia, mindspore / "lib", mindspore / "lib" / "plugin" / "gpu11.6"]


def _package_folder(name: str) -> Path:
    folders = _package_folders(name)
    if not folders:
        raise UserError(f"{name} is not installed: pip install -r requirements.txt")
    return folders[0]


def _package_folders(name: str) -> list[Path]:
    """Return the folders of an installed package without importing it."""
    spec = importlib.util.find_spec(name)
    return [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec is not None else []

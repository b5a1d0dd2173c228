"""The compiled kernels of the layers: compiled on first use, kept in the user's cache folder, and loaded.

A library is named after a hash of its source, the compiler's version and the features of the processor. So machines of
several kinds can share a home folder, and a change of the source or of the compiler makes a new library.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import BinaryIO

from src.errors import UserError
from src.files.atomic_file import write_atomically

logger = logging.getLogger("beit")

SOURCE = Path(__file__).resolve().parents[1] / "layers" / "kernels.cpp"
SWITCH = "BEIT_COMPILED_KERNELS"  # set to 0 in the environment, the operators of src/layers/cpu.py run instead
COMPILERS = ("g++", "clang++", "c++")
# Neither flag changes a result: the kernels read no floating-point exceptions and no errno. -ffast-math would assume
# that there is no NaN and no infinity, by which the loss scale sees an overflow.
FLAGS = (
    "-std=c++17", "-O3", "-fopenmp-simd", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-shared",
    "-fPIC", "-pthread",
)  # fmt: skip
COMPILE_SECONDS = 300  # takes 3 to 6 seconds; a compiler that hangs must not stop a run


class Unavailable(Exception):
    """The kernels cannot be compiled or loaded. The text gives the reason and the fix."""


@functools.cache
def kernel_library() -> Path | None:
    """Return the library, loaded and with its threads set, or None without one.

    The first call compiles it, if the cache folder has none. Unless the user switched the kernels off, None is logged
    once, with the reason and the fix.
    """
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        path = compiled(cache_folder(), compiler())
        load(path)
    except Unavailable as error:
        logger.warning(
            f"the compiled kernels are not used, and a training step takes about 1.3 times as long: {error}; "
            f"{SWITCH}=0 hides this line"
        )
        return None
    return path


def compiler() -> list[str]:
    """Return the command of the C++ compiler: that of the variable CXX, or the first of `COMPILERS` that is found."""
    if platform.system() != "Linux":
        raise Unavailable("MindSpore runs compiled kernels on Linux only")
    chosen = shlex.split(os.environ.get("CXX", ""))
    for command in [chosen] if chosen else [[name] for name in COMPILERS]:
        if shutil.which(command[0]):
            return command
    if chosen:
        raise Unavailable(f"the compiler of CXX, {chosen[0]}, is not found: correct CXX")
    raise Unavailable("there is no C++ compiler: install g++ (Debian and Ubuntu: apt install g++)")


def compiled(folder: Path, command: list[str]) -> Path:
    """Return the library in `folder`, which the compiler `command` writes unless it is there already."""
    native = "-mcpu=native" if platform.machine() == "aarch64" else "-march=native"
    words = next((i for i, word in enumerate(command) if word.startswith("-")), len(command))
    command = [*command[:words], native, *command[words:], *FLAGS]  # flags of CXX override what `native` implies
    # the predefined macros contain the compiler's version and the features of the processor
    macros = run([*command, "-dM", "-E", "-x", "c++", os.devnull])
    key = hashlib.sha256(b"\0".join([SOURCE.read_bytes(), macros, " ".join(command).encode()])).hexdigest()[:16]
    path = folder / f"kernels-{key}.so"
    if not path.exists():
        logger.info(f"compiling the kernels of the layers to {path}")
        with tempfile.TemporaryDirectory(prefix="beit-kernels-") as temporary:
            result = Path(temporary) / path.name
            run([*command, "-o", str(result), str(SOURCE)])
            try:
                write_atomically(path, lambda file: write_own(file, result.read_bytes()))
            except UserError as error:
                raise Unavailable(str(error)) from error
    require_own(path)
    return path


def write_own(file: BinaryIO, content: bytes) -> None:
    """Write a library that only the user may change, whatever the umask."""
    os.fchmod(file.fileno(), 0o700)
    file.write(content)


def run(command: list[str]) -> bytes:
    """Return the output of a compiler."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=COMPILE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]} fails ({error}): install another compiler, or set CXX to one") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = next((line for line in lines if "error" in line), f"exit code {done.returncode}")
        raise Unavailable(f"{command[0]} fails ({reason}): install a newer compiler, or set CXX to one")
    return done.stdout


def cache_folder() -> Path:
    """Return the folder of the libraries, made if needed. Only the user may write there, because a library is code."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # the specification of XDG ignores a relative path
        folder = (Path(root) if os.path.isabs(root) else Path.home() / ".cache") / "beit-mindspore"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Unavailable(f"the cache folder cannot be made ({reason}): set XDG_CACHE_HOME to a folder") from error
    require_own(folder)
    return folder


def require_own(path: Path) -> None:
    """Raise `Unavailable` if another user owns `path` or may write to it, or if it is a symbolic link."""
    try:
        status = path.lstat()
    except OSError as error:
        raise Unavailable(f"{path} cannot be read ({error.strerror}): set XDG_CACHE_HOME to another folder") from error
    others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if status.st_uid != os.geteuid() or others_write or stat.S_ISLNK(status.st_mode):
        raise Unavailable(
            f"{path} could be changed by another user: remove it, or set XDG_CACHE_HOME to another folder"
        )


def load(path: Path) -> None:
    """Load the library and give it its threads. It stays loaded, because its threads live as long as the process."""
    try:
        library = ctypes.CDLL(str(path))
        library.set_threads(thread_count())
    except (OSError, AttributeError) as error:
        raise Unavailable(
            f"{path} cannot be loaded ({error}): delete it, and the next run compiles it again"
        ) from error


def thread_count() -> int:
    """Return the number of threads of a kernel: OMP_NUM_THREADS, or the processors that this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(wanted) if wanted.isdecimal() and int(wanted) else len(os.sched_getaffinity(0))

"""The origin of a result: versions of programs, the machine, and the commit of this project."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("mindspore", "numpy", "scipy", "scikit-learn", "Pillow", "PyYAML", "onnx", "onnxruntime")


def versions() -> dict[str, str]:
    """Return the commit, Python, the packages that results depend on, and the machine."""
    found = {"commit": commit(ROOT), "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found | {"machine": f"{platform.platform()}, {os.cpu_count()} CPU cores"}


def commit(root: Path) -> str:
    """Return the commit of the repository at `root` and whether files were changed since, or why there is none."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return "unknown: the project folder is not a git repository"
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{_git(root, 'rev-parse', 'HEAD')}{' with uncommitted changes' if changed else ''}"


def _git(root: Path, *words: str) -> str | None:
    """Return the output of a git command, or None if it fails or git is missing."""
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

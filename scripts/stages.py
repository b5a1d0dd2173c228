"""Stages of a quickstart: each runs scripts of the project, and is skipped if its files are up to date."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.config import RunConfig
from src.errors import RunError

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Stage:
    """One row of the closing table: name, duration (None: reused) and the files it left."""

    name: str
    seconds: float | None
    files: tuple[Path, ...]


def stage(name: str, files: list[Path], sources: list[Path], work: Callable[[], object]) -> Stage:
    """Do `work` unless every one of `files` is there and newer than all `sources`."""
    if all(file.exists() and all(file.stat().st_mtime >= s.stat().st_mtime for s in sources) for file in files):
        return Stage(name, None, tuple(files))
    print(f"\n== {name} ==", flush=True)
    begin = time.perf_counter()
    work()
    return Stage(name, time.perf_counter() - begin, tuple(files))


def script(name: str, *arguments: object, folder: Path = ROOT) -> str:
    """Run one of the project's scripts in `folder`, print and return its output; `RunError` if it fails."""
    command = [sys.executable, str(ROOT / name), *map(str, arguments)]
    lines = []
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise RunError(f"{name} ended with exit code {process.returncode}; its message is above")
    return "".join(lines)


def train_anew(name: str, config: RunConfig, run: str, arguments: Sequence[object], done: Path) -> None:
    """Train with the script `name`, and write the path of the best checkpoint to `done`.

    The folders of an unfinished run of that name are removed first.
    """
    for root in (config.summary_root_dir, config.ckpt_root_dir, config.best_ckpt_root_dir, config.logs_root_dir):
        shutil.rmtree(ROOT / root / run, ignore_errors=True)
    script(name, *arguments)
    done.write_text(f"{ROOT / config.best_ckpt_root_dir / run / 'best.ckpt'}\n")


def print_stages(stages: Sequence[Stage]) -> None:
    """Print a row for each stage: name, duration, files."""
    print(f"  {'stage':<22}{'time':>9}  files")
    for row in stages:
        duration = "reused" if row.seconds is None else f"{row.seconds:.1f} s"
        print(f"  {row.name:<22}{duration:>9}  {', '.join(str(f.relative_to(ROOT)) for f in row.files)}")
    print(f"  {'total':<22}{sum(row.seconds or 0 for row in stages):>7.1f} s")

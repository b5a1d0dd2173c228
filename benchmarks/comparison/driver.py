"""Start the sides of a comparison and run them in turn."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.comparison.protocol import MARK

ROOT = Path(__file__).resolve().parents[2]
# Worker threads spin for a moment after their work; the other side waits until they sleep.
SETTLE_SECONDS = 0.5


class SideFailed(Exception):
    """A side ended early; the text contains the last lines that it printed."""


class Side:
    """Process that runs one repetition per request. Use it in a `with` statement."""

    def __init__(
        self, python: Path, module: str, task: str, options: Mapping[str, Any], environment: Mapping[str, str] = {}
    ) -> None:
        self.name = f"{module} {task}"
        self._process = subprocess.Popen(
            [str(python), "-m", f"benchmarks.comparison.{module}", task, json.dumps(dict(options))],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            self.facts = self._answer()
        except SideFailed:
            self.__exit__()
            raise
        self.peak_bytes = int(self.facts["peak_bytes"])

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def repeat(self) -> float:
        """Run one repetition and return its seconds."""
        assert self._process.stdin is not None
        time.sleep(SETTLE_SECONDS)
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        values = self._answer()
        self.peak_bytes = int(values["peak_bytes"])
        return float(values["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        last: list[str] = []
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line[len(MARK) :])
            last = [*last[-20:], line.rstrip()]
        raise SideFailed(f"{self.name} ended:\n" + "\n".join(last))


def run_to_end(command: Sequence[str], environment: Mapping[str, str] = {}) -> dict[str, Any]:
    """Run a program that prints its measurements once, and return them. Raises `SideFailed` if it does not."""
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    found = [line[len(MARK) :] for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not found:
        last = (done.stdout + done.stderr).splitlines()[-20:]
        raise SideFailed(f"{' '.join(command[:6])} ... ended with code {done.returncode}:\n" + "\n".join(last))
    return json.loads(found[-1])


def alternate(sides: Mapping[str, Side], rounds: int, warm_up: int) -> dict[str, list[float]]:
    """Return the seconds of every repetition. The sides alternate, so that other load affects all of them equally."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-warm_up, rounds):
        for name, side in sides.items():
            taken = side.repeat()
            if number >= 0:
                seconds[name].append(taken)
    return seconds


def time_command(command: Sequence[str]) -> float:
    """Run a program, discard its output and return its seconds."""
    begin = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin

"""The results of finished runs in a file, so that an interrupted comparison resumes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from reused_step import Trained

from src.errors import UserError
from src.files.atomic_file import write_atomically


@dataclass(frozen=True)
class Results:
    """Results of finished runs by name, stored in `path`; the weights of a run are in a file beside it."""

    path: Path
    runs: dict[str, dict[str, float]]

    @classmethod
    def open(cls, folder: Path, setting: Mapping[str, Any]) -> Results:
        """Read the results in `folder`; raises `UserError` if they are of another setting."""
        folder.mkdir(parents=True, exist_ok=True)
        path, described = folder / "results.json", folder / "setting.json"
        text = json.dumps(setting, indent=1)
        if described.exists() and described.read_text() != text:
            raise UserError(f"{described} is of another setting; give a new folder as --output")
        write_atomically(described, lambda file: file.write(text.encode()))
        return cls(path, json.loads(path.read_text()) if path.exists() else {})

    def run(self, name: str, work: Callable[[], Mapping[str, float]]) -> dict[str, float]:
        """Return the result of a run; `work` is called unless the run has finished before."""
        if name not in self.runs:
            self.runs[name] = dict(work())
            write_atomically(self.path, lambda file: file.write(json.dumps(self.runs, indent=1).encode()))
            numbers = ", ".join(f"{key} {value:.4g}" for key, value in self.runs[name].items())
            print(f"{name}: {numbers}", flush=True)
        return self.runs[name]

    def weights(self, name: str, work: Callable[[], Trained]) -> dict[str, np.ndarray]:
        """Return the weights of a run; `work` is called unless the run has finished before."""
        path = self.path.with_name(f"{name}.npz")

        def train() -> dict[str, float]:
            trained = work()
            write_atomically(path, lambda file: np.savez(file, **trained.weights))
            return trained.history[-1] | {"seconds": trained.seconds}

        self.run(name, train)
        with np.load(path) as stored:
            return dict(stored)

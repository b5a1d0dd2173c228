"""What the set-up scripts say where something is missing, and the quickstart's data set."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.tiny_project import ROOT, run


def bash(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run bash lines behind `source scripts/environment.sh`."""
    command = ["bash", "-c", f"set -euo pipefail\nsource '{ROOT}/scripts/environment.sh'\n{text}"]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}, timeout=60
    )


def write_program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "the disk is full"),
        ("WARNING: Retrying after connection broken by NewConnectionError", "the package index could not be reached"),
        ("ERROR: No matching distribution found for mindspore", "pip failed: ERROR: No matching distribution found"),
    ],
)
def test_a_failed_installation_is_explained_in_one_line(tmp_path, log, expected):
    path = tmp_path / "pip.log"
    path.write_text(f"Collecting mindspore\n{log}\n")
    done = bash(f"fail \"$(explain_pip '{path}')\"")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {expected}")
    assert len(done.stderr.splitlines()) == 1


def test_an_unsupported_python_is_named(tmp_path):
    for name in ("python3", "python", "python3.10", "python3.11", "python3.12"):
        write_program(tmp_path / name, 'case "$1" in --version) echo Python 3.9.2;; *) exit 1;; esac')
    done = bash(f"ROOT='{tmp_path}'; PATH='{tmp_path}:/usr/bin:/bin'; make_environment", PYTHON_BIN="", VIRTUAL_ENV="")
    assert done.returncode == 2
    assert done.stderr == (
        "error: no Python 3.10, 3.11 or 3.12 with venv was found (Python 3.9.2): "
        "install one, or name one in PYTHON_BIN\n"
    )


def test_requirements_are_installed_once_and_again_when_they_change(tmp_path):
    (tmp_path / ".venv").mkdir()
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("six\n")
    calls = tmp_path / "calls"
    write_program(tmp_path / "python", f'echo "$@" >> {calls}')
    text = f"ROOT='{tmp_path}'; PYTHON='{tmp_path}/python'; install main '{requirements}'"
    assert "installing requirements.txt into .venv" in bash(text).stdout
    assert bash(text).stdout == ""
    assert len(calls.read_text().splitlines()) == 1
    requirements.write_text("six>=1\n")
    bash(text)
    assert calls.read_text().splitlines()[-1].endswith(f"-r {requirements}")
    assert len(calls.read_text().splitlines()) == 2


def test_a_failed_installation_is_not_taken_for_done(tmp_path):
    (tmp_path / ".venv").mkdir()
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("six\n")
    write_program(tmp_path / "python", "echo 'ERROR: no such package'; exit 1")
    text = f"ROOT='{tmp_path}'; PYTHON='{tmp_path}/python'; install main '{requirements}'"
    for _ in range(2):
        done = bash(text)
        assert done.returncode == 2
        assert done.stderr.startswith("error: pip failed: ERROR: no such package; the whole log is in ")


def test_the_digits_are_all_there_stratified_and_as_scanned(tmp_path):
    run(sys.executable, ROOT / "scripts" / "make_digits.py", tmp_path / "digits")
    assert not (tmp_path / "digits.unfinished").exists()
    counts = {}
    for split in ("train", "val"):
        paths = list((tmp_path / "digits" / split).glob("*/*.png"))
        counts[split] = Counter(path.parent.name for path in paths)
    assert (counts["train"].total(), counts["val"].total()) == (1437, 360)
    for digit, count in Counter(map(str, load_digits().target)).items():
        assert abs(counts["val"][digit] - count / 5) < 1
    (path,) = (tmp_path / "digits").glob("*/0/0000.png")
    pixels = np.asarray(Image.open(path))
    assert np.array_equal(pixels, (load_digits().images[0] * 255 / 16).round())

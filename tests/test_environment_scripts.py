"""Errors of the scripts that set up environments, and the quickstart's data set."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from scripts.make_digits import write_few_labels
from tests.tiny_project import ROOT, run


def bash(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run lines of bash after `source scripts/environment.sh`."""
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
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "the disk of "),
        ("WARNING: Retrying after connection broken by NewConnectionError", "pip cannot reach the package index"),
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
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(part in line for part in ("3.10, 3.11 or 3.12", "(Python 3.9.2)", "PYTHON_BIN"))


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


def test_a_failed_installation_is_tried_again(tmp_path):
    (tmp_path / ".venv").mkdir()
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("six\n")
    write_program(tmp_path / "python", "echo 'ERROR: no such package'; exit 1")
    text = f"ROOT='{tmp_path}'; PYTHON='{tmp_path}/python'; install main '{requirements}'"
    for _ in range(2):
        done = bash(text)
        assert done.returncode == 2
        assert done.stderr.startswith("error: pip failed: ERROR: no such package; see ")


@pytest.mark.parametrize(
    ("words", "said", "expected"),
    [
        (
            "x --port 80",
            "MindInsight could not bind to port 80, it was already in use (pid 7)",
            "port 80 is not available; ",
        ),
        (
            "x",
            "Port 8080 below 1024 is not allowed by current user.",
            "port 8080 is not available; choose another with --po",
        ),
        ("x", "ImportError: libGL.so", "MindInsight did not start: ImportError: libGL.so"),
        (
            "--stop",
            "No mindinsight service started by current user",
            "no MindInsight of this user listens on port 8080; give",
        ),
    ],
)
def test_a_failure_of_mindinsight_is_one_line(tmp_path, words, said, expected):
    """The script runs in a copy of the project, with a MindInsight that prints `said` and fails."""
    project = fake_mindinsight(tmp_path, f"echo '{said}'; exit 1")
    done = run("bash", project / "run_mindinsight.sh", *words.split(), cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {expected}")
    assert len(done.stderr.splitlines()) == 1


def test_mindinsight_serves_the_folder_and_stops_by_its_port(tmp_path):
    project = fake_mindinsight(tmp_path, f"echo $PATH $* >> {tmp_path}/calls")
    done = run("bash", project / "run_mindinsight.sh", "x", "--port", "8081", cwd=tmp_path)
    assert done.stdout.splitlines()[-1].startswith("http://127.0.0.1:8081 shows the runs of x; stop it with ")
    done = run("bash", project / "run_mindinsight.sh", "--stop", "--port", "8081", cwd=tmp_path)
    assert done.stdout == "stopped MindInsight on port 8081\n"
    started, stopped = (tmp_path / "calls").read_text().splitlines()
    environment = tmp_path / ".venv-mindinsight"
    assert started.startswith(f"{environment}/bin:")  # MindInsight finds gunicorn on the PATH
    assert started.endswith(f"start --summary-base-dir {tmp_path}/x --workspace {environment}/workspace --port 8081")
    assert stopped.endswith("stop --port 8081")


def test_stopping_a_mindinsight_that_is_not_installed_is_an_error(tmp_path):
    project = fake_mindinsight(tmp_path, "exit 0")
    (tmp_path / ".venv-mindinsight" / "bin" / "mindinsight").unlink()
    done = run("bash", project / "run_mindinsight.sh", "--stop", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: MindInsight is not installed in {tmp_path}/.venv-mindinsight; nothing to stop\n"


def fake_mindinsight(folder: Path, text: str) -> Path:
    """Copy the project's scripts to `folder`, with summaries in `x` and a fake MindInsight that runs `text`."""
    scripts, programs = folder / "scripts", folder / ".venv-mindinsight" / "bin"
    for place in (scripts, programs, folder / "x"):
        place.mkdir(parents=True)
    for name in ("run_mindinsight.sh", "environment.sh"):
        shutil.copy(ROOT / "scripts" / name, scripts)
    shutil.copy(ROOT / "requirements-mindinsight.txt", folder)
    (folder / "x" / "events.out.events.summary.1.vm_MS").touch()
    write_program(programs / "mindinsight", text)
    write_program(programs / "python", "exit 0")
    return scripts


def test_all_digits_are_written_unchanged_with_a_stratified_split(tmp_path):
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


def test_few_labels_are_repeated_to_an_epoch_of_all_images_and_val_is_complete(tmp_path):
    for split, count in (("train", 5), ("val", 3)):
        for digit in "01":
            folder = tmp_path / "digits" / split / digit
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number}.png").write_text(f"{digit}{number}")
    write_few_labels(tmp_path / "few", tmp_path / "digits", 2)
    texts = {split: [path.read_text() for path in (tmp_path / "few" / split).glob("*/*")] for split in ("train", "val")}
    assert Counter(texts["train"]) == {"00": 3, "01": 2, "10": 3, "11": 2}
    assert len(texts["val"]) == 6
    assert not (tmp_path / "few.unfinished").exists()


def test_a_system_without_wheels_of_mindspore_is_an_error(tmp_path):
    write_program(tmp_path / "uname", "echo Darwin")
    done = bash(f"PATH='{tmp_path}:/usr/bin:/bin'; make_environment")
    (line,) = done.stderr.splitlines()
    assert "Darwin" in line
    assert "Linux" in line
    assert done.returncode == 2


def test_a_python_that_cannot_create_an_environment_is_named_with_the_reason(tmp_path):
    write_program(tmp_path / "python3.11", 'if [ "$1" = -m ]; then echo "ensurepip is not available"; exit 1; fi')
    done = bash(f"ROOT='{tmp_path}'; PATH='{tmp_path}:/usr/bin:/bin'; make_environment", PYTHON_BIN="")
    (line,) = done.stderr.splitlines()
    parts = (f"{tmp_path}/python3.11", f"{tmp_path}/.venv", "(ensurepip is not available)", "install")
    assert all(part in line for part in parts)


def test_a_wrapper_without_a_python_names_the_fix(tmp_path):
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for path in (ROOT / "scripts").glob("*.sh"):
        shutil.copy(path, scripts)
    for name in ("dirname", "basename", "readlink"):
        (tmp_path / name).symlink_to(shutil.which(name))
    done = subprocess.run(
        [shutil.which("bash"), scripts / "run_eval_gpu.sh", "config.yaml"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    message = done.stderr.splitlines()[0]
    assert message.startswith("error: no Python")
    assert "scripts/quickstart.sh" in message
    assert "PYTHON_BIN" in message

"""What the set-up scripts say where something is missing, and the quickstart's data set."""

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


@pytest.mark.parametrize(
    ("words", "said", "expected"),
    [
        (
            "x --port 80",
            "MindInsight could not bind to port 80, it was already in use (pid 7)",
            ("port 80 ", "--port"),
        ),
        (
            "x",
            "Port 8080 below 1024 is not allowed by current user.",
            ("port 8080 ", "--port"),
        ),
        ("x", "ImportError: libGL.so", ("ImportError: libGL.so",)),
        (
            "--stop",
            "No mindinsight service started by current user",
            ("no MindInsight", "port 8080", "--port"),
        ),
    ],
)
def test_a_failure_of_mindinsight_is_reported_in_one_line(tmp_path, words, said, expected):
    """Runs the script in a copy of the project's folder with a fake MindInsight that prints `said` and fails."""
    project = fake_mindinsight(tmp_path, f"echo '{said}'; exit 1")
    done = run("bash", project / "run_mindinsight.sh", *words.split(), cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert all(part in done.stderr for part in expected)
    assert len(done.stderr.splitlines()) == 1


def test_mindinsight_is_started_on_the_folder_and_stopped_on_its_port(tmp_path):
    project = fake_mindinsight(tmp_path, f"echo $PATH $* >> {tmp_path}/calls")
    done = run("bash", project / "run_mindinsight.sh", "x", "--port", "8081", cwd=tmp_path)
    assert done.stdout.splitlines()[-1].startswith("http://127.0.0.1:8081 shows the runs of x; stop it with ")
    done = run("bash", project / "run_mindinsight.sh", "--stop", "--port", "8081", cwd=tmp_path)
    assert done.stdout == "MindInsight on port 8081 is stopped\n"
    started, stopped = (tmp_path / "calls").read_text().splitlines()
    environment = tmp_path / ".venv-mindinsight"
    assert started.startswith(f"{environment}/bin:")  # where MindInsight looks for gunicorn
    assert started.endswith(f"start --summary-base-dir {tmp_path}/x --workspace {environment}/workspace --port 8081")
    assert stopped.endswith("stop --port 8081")


def test_mindinsight_that_was_never_installed_cannot_be_stopped(tmp_path):
    project = fake_mindinsight(tmp_path, "exit 0")
    (tmp_path / ".venv-mindinsight" / "bin" / "mindinsight").unlink()
    done = run("bash", project / "run_mindinsight.sh", "--stop", cwd=tmp_path, check=False)
    assert done.stderr.startswith("error: MindInsight is not installed")
    assert "SUMMARY_DIR" in done.stderr


def fake_mindinsight(folder: Path, text: str) -> Path:
    """A copy of the project's scripts below `folder`, with summaries in `x` and a fake program in its environment."""
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


def test_another_system_is_told_that_it_is_none_for_mindspore(tmp_path):
    write_program(tmp_path / "uname", "echo Darwin")
    done = bash(f"PATH='{tmp_path}:/usr/bin:/bin'; make_environment")
    assert done.stderr == "error: this needs Linux: MindSpore 2.10 has no wheels for Darwin\n"
    assert done.returncode == 2


def test_a_python_that_makes_no_environment_is_named_with_its_reason(tmp_path):
    write_program(tmp_path / "python3.11", 'if [ "$1" = -m ]; then echo "ensurepip is not available"; exit 1; fi')
    done = bash(f"ROOT='{tmp_path}'; PATH='{tmp_path}:/usr/bin:/bin'; make_environment", PYTHON_BIN="")
    assert done.stderr == (
        f"error: {tmp_path}/python3.11 cannot make a virtual environment in {tmp_path}/.venv: "
        f"ensurepip is not available\n"
    )


def test_a_wrapper_without_any_python_says_how_to_get_one(tmp_path):
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
    assert message.startswith("error: ")
    assert "scripts/quickstart.sh" in message
    assert "PYTHON_BIN" in message

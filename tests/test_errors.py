"""Exit codes and error lines of the scripts."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
from PIL import Image

from src.data.decode import rgb_image
from src.errors import RunError, UserError, doing, exit_code
from src.tools.logs import start_logging
from src.weights.checkpoint import load_checkpoint
from tests.tiny_project import ROOT


def test_the_exit_code_is_the_value_that_main_returns(capsys):
    assert exit_code(lambda: None) == 0
    assert exit_code(lambda: 143) == 143
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UserError("a.pth is empty"), 2, "error: a.pth is empty\n"),
        (RunError("the disk is full"), 1, "error: the disk is full\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            UserError("a\nb.pth: parameter 'x\x1b[2J\r' is unknown"),
            2,
            "error: a\\nb.pth: parameter 'x\\x1b[2J\\r' is unknown\n",
        ),
        (UserError("--lr\u2028_adjust\u2029 is"), 2, "error: --lr\\u2028_adjust\\u2029 is\n"),
        (UserError("ä 'q' \\ 日.pth is empty"), 2, "error: ä 'q' \\ 日.pth is empty\n"),
    ],
)
def test_an_error_is_one_line_with_control_characters_escaped(error, code, text, capsys):
    def main():
        raise error

    assert exit_code(main) == code
    assert capsys.readouterr() == ("", text)


def test_an_error_is_in_the_log_of_the_run_and_once_on_the_terminal(tmp_path, capsys):
    def main():
        raise RunError("the disk is full")

    logger = logging.getLogger("beit")
    try:
        start_logging(tmp_path / "rank_1.log", terminal=True)
        assert exit_code(main) == 1
    finally:
        start_logging(None, terminal=False)
        logger.propagate = True
    assert (tmp_path / "rank_1.log").read_text().endswith(" error: the disk is full\n")
    assert capsys.readouterr() == ("", "error: the disk is full\n")


@pytest.mark.parametrize("script", ["train.py", "eval.py", "infer.py", "export.py", "convert.py"])
def test_running_outside_the_virtual_environment_gives_a_hint_to_activate_it(script):
    """`-S` hides the installed packages."""
    done = subprocess.run([sys.executable, "-S", ROOT / script, "--help"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert f"{sys.executable} has no numpy, PIL, yaml" in line
    assert "source .venv/bin/activate" in line
    assert "pip install -r requirements.txt" in line


LOGS = """
import sys
from pathlib import Path
from src.errors import exit_code
from src.tools.logs import logger, start_logging

def main():
    start_logging(Path(sys.argv[1]) / "log", terminal=True)
    for number in range(3):
        logger.info("line %d", number)
sys.exit(exit_code(main))
"""


@pytest.mark.parametrize(("kind", "reason"), [("closed pipe", "Broken pipe"), ("full disk", "No space left")])
def test_lines_that_cannot_be_printed_end_nothing_and_are_one_warning_in_the_log(tmp_path, kind, reason):
    with open("/dev/full", "wb") as full:
        stdout = full.fileno() if kind == "full disk" else closed_pipe()
        command = [sys.executable, "-c", LOGS, tmp_path]
        done = subprocess.run(command, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line[20:] for line in (tmp_path / "log").read_text().splitlines()]
    assert [line for line in lines if line.startswith("line")] == ["line 0", "line 1", "line 2"]
    (warning,) = (line for line in lines if not line.startswith("line"))
    assert "standard output" in warning
    assert reason in warning


def test_a_full_disk_under_the_log_file_is_one_warning(tmp_path):
    (tmp_path / "log").symlink_to("/dev/full")
    command = [sys.executable, "-c", LOGS, tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("line")] == ["line 0", "line 1", "line 2"]
    assert sum("No space left" in line for line in lines) == 1


@pytest.mark.parametrize("stdout", ["full disk", "closed pipe", "none"])
def test_results_that_cannot_be_printed_are_an_error_of_one_line(stdout):
    code = "import sys\nfrom src.errors import exit_code\nsys.exit(exit_code(lambda: print('results')))"
    command = ["bash", "-c", '"$0" -c "$1" >&-', sys.executable, code]
    if stdout != "none":
        command = [sys.executable, "-c", code]
    with open("/dev/full", "wb") as full:
        target = {"full disk": full.fileno(), "none": None}.get(stdout) if stdout != "closed pipe" else closed_pipe()
        done = subprocess.run(command, cwd=ROOT, stdout=target, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == ((0, 0) if stdout == "none" else (1, 1))


def closed_pipe() -> int:
    receiver, sender = os.pipe()
    os.close(receiver)
    return sender


@pytest.mark.parametrize(("shown", "lines"), [("", 1), ("1", 6)])
def test_an_unforeseen_exception_is_one_line_that_names_the_activity_and_the_file_of_the_traceback(
    tmp_path, monkeypatch, capsys, shown, lines
):
    def main():
        with doing("reading a.pth"), doing("reading its header"):
            raise KeyError("x\ny")

    monkeypatch.setenv("BEIT_TRACEBACK", shown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert exit_code(main) == 70
    error = capsys.readouterr().err
    assert error.count("\n") >= lines
    assert ("Traceback" in error) == bool(shown)
    (traceback,) = tmp_path.iterdir()
    for part in ("KeyError", "while reading its header", str(traceback)):
        assert part in error.splitlines()[-1]
    assert "raise KeyError" in traceback.read_text()


def test_a_lack_of_memory_is_an_error_with_a_fix(capsys):
    assert exit_code(lambda: bytearray(2**62)) == 1
    assert "memory" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".ckpt", ".png"])
def test_the_line_of_an_unforeseen_exception_names_the_file_that_was_read(tmp_path, monkeypatch, capsys, suffix):
    def fails(*_):
        raise KeyError("x")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("src.weights.checkpoint.read_entries", fails)
    path = tmp_path / f"a{suffix}"
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")

    def main():
        if suffix == ".ckpt":
            load_checkpoint(path)
        with rgb_image(path):
            fails()

    assert exit_code(main) == 70
    assert str(path) in capsys.readouterr().err.splitlines()[-1]

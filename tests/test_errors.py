"""Exit codes and error lines of the scripts."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from src.errors import RunError, UserError, exit_code
from src.tools.logs import start_logging
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

"""How a script ends."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from src.errors import RunError, UserError, exit_code
from src.tools.logs import start_logging
from tests.tiny_project import ROOT


def test_a_script_ends_with_what_its_main_returns(capsys):
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
def test_what_goes_wrong_is_one_line_whatever_names_are_in_it(error, code, text, capsys):
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
def test_another_python_than_the_environments_is_told_what_it_lacks(script):
    """`-S` leaves installed packages out."""
    done = subprocess.run([sys.executable, "-S", ROOT / script, "--help"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"error: {sys.executable} has no numpy, PIL, yaml: switch the environment on (source .venv/bin/activate), "
        "or install what is missing (pip install -r requirements.txt)\n"
    )

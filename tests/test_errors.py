"""How a script ends."""

from __future__ import annotations

import pytest

from src.errors import RunError, UserError, exit_code


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

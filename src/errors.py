"""Errors that end a script with one line on standard error, and the exit codes of the scripts."""

import logging
import sys
import unicodedata
from collections.abc import Callable

logger = logging.getLogger("beit")

INTERRUPTED = 130  # 128 + SIGINT, the convention of shells


class UserError(Exception):
    """Invalid input. The text is one line: the problem, the value or file, and the fix."""


class RunError(Exception):
    """A failure of a run with valid input. The text is one line: the problem and the fix."""


def exit_code(main: Callable[[], int | None]) -> int:
    """Run a script's `main` and return its exit code.

    That is the value `main` returns (None is 0), or 2 after `UserError`, 1 after `RunError` and 130 after Ctrl-C, with
    one line on standard error and in the log of the run.
    """
    try:
        return main() or 0
    except UserError as error:
        code, text = 2, f"error: {error}"
    except RunError as error:
        code, text = 1, f"error: {error}"
    except KeyboardInterrupt:
        code, text = INTERRUPTED, "interrupted"
    text = without_control_characters(text)
    print(text, file=sys.stderr)
    if logger.hasHandlers():  # else Python would print the line a second time
        logger.error(text)
    return code


def without_control_characters(text: str) -> str:
    """Return `text` with control characters escaped: file names and parameter names may contain any."""
    return "".join(repr(letter)[1:-1] if is_control(letter) else letter for letter in text)


def is_control(letter: str) -> bool:
    """Return whether `letter` is a control character, a Unicode line separator or a surrogate of an invalid byte."""
    return unicodedata.category(letter) in ("Cc", "Zl", "Zp", "Cs")

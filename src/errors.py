"""How a script ends: what a user got wrong, what went wrong in a run, and being interrupted."""

from __future__ import annotations

import logging
import sys
import unicodedata
from collections.abc import Callable

logger = logging.getLogger("beit")

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class UserError(Exception):
    """Something the user gave is wrong. The text is one line: what, which value or file, what to do."""


class RunError(Exception):
    """A run cannot go on although its input was right. The text is one line: what happened, what to do."""


def exit_code(main: Callable[[], int | None]) -> int:
    """Run a script's `main` and return its result, or 2, 1 or 130 with one line on standard error and in the log."""
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
    """`text` with what is no letter of a line spelt out: names from files and of files may hold any of it."""
    return "".join(repr(letter)[1:-1] if is_control(letter) else letter for letter in text)


def is_control(letter: str) -> bool:
    """Whether it is a control character, a line end of Unicode, or what stands for a byte that is no UTF-8."""
    return unicodedata.category(letter) in ("Cc", "Zl", "Zp", "Cs")

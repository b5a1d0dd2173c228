"""The one kind of error that a user can cause, and how a script ends on it."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user gave is wrong. The text is one line: what, which value or file, what to do."""


def exit_code(main: Callable[[], int | None]) -> int:
    """Run a script's `main` and give its exit code: 2 with one line on standard error for a `UserError`."""
    try:
        return main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

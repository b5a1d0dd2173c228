"""Errors that end a script with one line on standard error, and the exit codes of the scripts."""

import contextlib
import errno
import logging
import os
import sys
import tempfile
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from typing import TextIO

logger = logging.getLogger("beit")

INTERRUPTED = 130  # 128 + SIGINT, the convention of shells
UNFORESEEN = 70  # EX_SOFTWARE of sysexits.h

# What `print` raises for a closed pipe, a full disk and a closed terminal.
NO_OUTPUT = (errno.EPIPE, errno.ENOSPC, errno.EIO)

SHOW_TRACEBACK = "BEIT_TRACEBACK"  # set to 1 in the environment, tracebacks of unforeseen errors are printed


class UserError(Exception):
    """Invalid input. The text is one line: the problem, the value or file, and the fix."""


class RunError(Exception):
    """A failure of a run with valid input. The text is one line: the problem and the fix."""


def exit_code(main: Callable[[], int | None]) -> int:
    """Run a script's `main` and return its exit code.

    That is the value `main` returns (None is 0), or 2 after `UserError`, 1 after `RunError` and a lack of memory, 130
    after Ctrl-C and 70 after any other exception, with one line on standard error and in the log of the run.
    """
    _open_missing_streams()
    code, text = _outcome(main)
    if text:
        _report(text)
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        discard(sys.stdout)
        if code == 0:
            code = 1
            _report(_incomplete(error))
    return code


def _outcome(main: Callable[[], int | None]) -> tuple[int, str]:
    """Run `main` and return the exit code and the line about it, empty if there is none."""
    try:
        return main() or 0, ""
    except UserError as error:
        return 2, f"error: {error}"
    except RunError as error:
        return 1, f"error: {error}"
    except KeyboardInterrupt:
        return INTERRUPTED, "interrupted"
    except MemoryError as error:
        return 1, f"error: not enough memory{_while(error)}: close other programs or lower batch_size"
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_OUTPUT and error.filename is None:
            return 1, _incomplete(error)
        return UNFORESEEN, _unforeseen(error)


def _incomplete(error: Exception) -> str:
    return f"error: standard output cannot be written ({error}): the output is incomplete"


def _report(text: str) -> None:
    text = without_control_characters(text)
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):  # a closed terminal: the exit code still says it
        discard(sys.stderr)
    if logger.hasHandlers():  # else Python would print the line a second time
        logger.error(text)


def _open_missing_streams() -> None:
    """Replace the standard streams that the caller has closed (`>&-`), which Python leaves out."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (stays open until the process ends)


def discard(stream: TextIO) -> None:
    """Send what is still written to `stream`, which failed, nowhere: Python would fail again at the end."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


@contextlib.contextmanager
def doing(activity: str, *subject: object) -> Iterator[None]:
    """Name what the block does, for example `reading FILE`, in the line of an unforeseen exception."""
    try:
        yield
    except Exception as error:
        vars(error).setdefault(
            "activity", " ".join(map(str, (activity, *subject)))
        )  # that of the innermost block, which is the most precise
        raise


def _while(error: Exception) -> str:
    activity = vars(error).get("activity")
    return f" while {activity}" if activity else ""


def _unforeseen(error: Exception) -> str:
    """Write the traceback to a file, and return the line that names it."""
    text = "".join(traceback.format_exception(error))
    if os.environ.get(SHOW_TRACEBACK) == "1":
        print(text, file=sys.stderr)
    reason = (str(error).strip().splitlines() or [""])[0]
    what = f"{type(error).__name__}{_while(error)}" + (f" ({reason})" if reason else "")
    try:
        with tempfile.NamedTemporaryFile("w", prefix="beit-traceback-", suffix=".txt", delete=False) as file:
            file.write(text)
        where = f"the traceback is in {file.name}"
    except OSError:
        where = f"{SHOW_TRACEBACK}=1 prints the traceback"
    return f"error: this is a defect of the program: {what}; {where}, please report it"


def without_control_characters(text: str) -> str:
    """Return `text` with control characters escaped: file names and parameter names may contain any."""
    if text.isprintable():  # almost all texts, ten times as fast
        return text
    return "".join(repr(letter)[1:-1] if is_control(letter) else letter for letter in text)


def is_control(letter: str) -> bool:
    """Return whether `letter` is a control character, a Unicode line separator or a surrogate of an invalid byte."""
    return unicodedata.category(letter) in ("Cc", "Zl", "Zp", "Cs")

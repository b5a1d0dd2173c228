"""Logging: the first rank prints the lines of a run, and every rank writes them into a file."""

import logging
import sys
from pathlib import Path

from tqdm import tqdm

from src.errors import discard

logger = logging.getLogger("beit")


class _Unessential(logging.Handler):
    """A handler whose failure ends nothing: the other handlers get a line about the first one."""

    target = ""
    _failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._failed:
            self._failed = True
            logger.warning("%s cannot be written (%s): the run goes on without", self.target, sys.exc_info()[1])


class _ToFile(_Unessential, logging.FileHandler):
    """The log file of a rank."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, encoding="utf-8", errors="backslashreplace")
        self.target = str(file)


class _BesideTheBar(_Unessential):
    """A handler that prints to standard output without breaking the progress bar on standard error."""

    target = "standard output"

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            encoding = sys.stdout.encoding or "utf-8"
            # a path that the terminal's encoding cannot represent must neither end the run nor cause logging errors
            tqdm.write(text.encode(encoding, "backslashreplace").decode(encoding), file=sys.stdout)
            sys.stdout.flush()
        except (OSError, ValueError):  # `train.py | head`, a closed terminal, a full disk
            self.handleError(record)
            discard(sys.stdout)


def start_logging(file: Path | None, *, terminal: bool) -> None:
    """Print the project's lines if `terminal`, and append them to `file` with date and time."""
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    if terminal:
        handler = _BesideTheBar()
        handler.addFilter(lambda record: record.levelno < logging.ERROR)  # standard error has these
        logger.addHandler(handler)
    if file is not None:
        to_file = _ToFile(file)
        to_file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        logger.addHandler(to_file)

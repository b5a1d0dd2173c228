"""Logging: the first rank prints the lines of a run, and every rank writes them into a file."""

import logging
import sys
from pathlib import Path

from tqdm import tqdm

logger = logging.getLogger("beit")


class _BesideTheBar(logging.Handler):
    """A handler that prints to standard output without breaking the progress bar on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        encoding = sys.stdout.encoding or "utf-8"
        # a path that the terminal's encoding cannot represent must neither end the run nor cause logging errors
        tqdm.write(text.encode(encoding, "backslashreplace").decode(encoding), file=sys.stdout)
        sys.stdout.flush()


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
        to_file = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
        to_file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        logger.addHandler(to_file)

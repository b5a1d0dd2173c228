"""Class names from a text file, one per line."""

from pathlib import Path

from src.errors import UserError
from src.weights.regular_file import require_regular

MAX_BYTES = 16 * 2**20


def read_class_names(path: Path, num_classes: int) -> tuple[str, ...]:
    """Return the lines of `path`: line N names class N. Raises `UserError` unless there are `num_classes` names."""
    require_regular(path, MAX_BYTES)
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as a list of class names ({error}): give a text file with one name per line"
        ) from error
    if len(names) != num_classes or not all(names):
        raise UserError(
            f"{path} has {len(names)} lines, {names.count('')} of them empty, but the checkpoint has {num_classes} "
            "classes; give one name per line"
        )
    return names

"""A list of class names in a text file, one a line."""

from __future__ import annotations

from pathlib import Path

from src.errors import UserError


def read_class_names(path: Path, num_classes: int) -> tuple[str, ...]:
    """The lines of `path`, line N the name of class N. Raises `UserError` unless there are `num_classes` of them."""
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as a list of class names ({error}): give a text file with one name a line"
        ) from error
    if len(names) != num_classes or not all(names):
        raise UserError(
            f"{path} holds {len(names)} lines, {names.count('')} of them empty: "
            f"the checkpoint has {num_classes} classes, give one name a line"
        )
    return names

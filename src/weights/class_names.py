"""Class names from a text file, one per line."""

from pathlib import Path

from src.errors import UserError, is_control
from src.files.regular_file import read_regular
from src.options.declaration import shown

SIZE_LIMIT = 10_000_000  # bytes; the names of the 21,841 classes of ImageNet have 0.5 million


def read_class_names(path: Path, num_classes: int) -> tuple[str, ...]:
    """Return the lines of `path`: line N names class N. Raises `UserError` unless there are `num_classes` names."""
    try:
        names = tuple(line.strip() for line in read_regular(path, SIZE_LIMIT).decode().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as a list of class names ({error}): give a text file with one name per line"
        ) from error
    if len(names) != num_classes or not all(names):
        raise UserError(
            f"{path} has {len(names)} lines, {names.count('')} of them empty, but the checkpoint has {num_classes} "
            "classes; give one name per line"
        )
    for number, name in enumerate(names, start=1):
        if any(map(is_control, name)):
            raise UserError(f"{path}, line {number}: {shown(name)} has a control character; remove it")
    return names

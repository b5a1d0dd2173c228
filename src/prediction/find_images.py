"""Which files a prediction is asked for."""

from __future__ import annotations

from pathlib import Path

from src.errors import UserError

FOLDER_EXTENSIONS = (".png", ".jpg", ".jpeg")


def find_images(path: Path) -> list[Path]:
    """`path` itself if it is a file, whatever its name; the png and jpeg files of its root, sorted, if it is a folder.

    Raises `UserError` where there is nothing to predict.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path} does not exist: give an image or a folder of images")
    try:
        images = sorted(file for file in path.iterdir() if file.suffix.lower() in FOLDER_EXTENSIONS and file.is_file())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): check its permissions") from error
    if not images:
        raise UserError(f"{path} has no {', '.join(FOLDER_EXTENSIONS)} file in its root: give a folder of images")
    return images

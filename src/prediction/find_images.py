"""The images that a prediction is asked for.

All paths are held in memory: 1.3 million paths of 50 letters take 155 MB, and 6 s to find and sort.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from src.errors import UserError

FOLDER_EXTENSIONS = (".png", ".jpg", ".jpeg")
LIST_SUFFIX = ".txt"


def find_images(path: Path, recursive: bool = False) -> list[str]:
    """Return the image files of `path`.

    Of a folder: the png and jpeg files in its root, with `recursive` also those in the folders inside it, sorted. Of a
    `.txt` file: the paths in it, one per line, relative to the current folder. Any other file is an image itself.
    Raises `UserError` if there is no image.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; give an image, a folder of images or a .txt list")
    if recursive and not path.is_dir():
        raise UserError(f"--recursive is for folders but {path} is a file; leave it out")
    if path.is_file() and path.suffix.lower() != LIST_SUFFIX:
        return [str(path)]
    try:
        images = sorted(_images_in(str(path), recursive, ())) if path.is_dir() else list(_listed(path))
    except OSError as error:
        place = error.filename or path
        raise UserError(f"{place} cannot be read ({error.strerror or error}); check its permissions") from error
    if images:
        return images
    if path.is_file():
        raise UserError(f"{path} holds no path; write one path per line")
    place, hint = ("in it", "") if recursive else ("in its root", " or pass --recursive to search its folders")
    raise UserError(f"{path} has no {', '.join(FOLDER_EXTENSIONS)} file {place}; give a folder of images{hint}")


def _images_in(folder: str, recursive: bool, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Yield the images of `folder` in any order. `above` identifies the folders on the way to it."""
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:  # a link to a folder above, whose images are found there
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if recursive:
                    yield from _images_in(entry.path, recursive, (*above, here))
            elif os.path.splitext(entry.name)[1].lower() in FOLDER_EXTENSIONS and entry.is_file():
                yield entry.path


def _listed(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for line in file:
            name = line.rstrip("\r\n")
            if "\0" in name:
                raise UserError(f"{path} is not a text file; give a list with one path per line")
            if name.strip():
                yield name

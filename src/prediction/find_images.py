"""Which files a prediction is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from src.errors import UserError
from src.prediction.stored_paths import StoredPaths, sorted_paths

FOLDER_EXTENSIONS = (".png", ".jpg", ".jpeg")
LIST_SUFFIX = ".txt"


def find_images(path: Path, recursive: bool = False) -> StoredPaths:
    """The files that `path` stands for.

    A folder stands for the png and jpeg files of its root, with `recursive` also for those of the folders inside it,
    sorted; a `.txt` file for the paths in it, one a line, relative ones from the current folder; any other file for
    itself. Raises `UserError` where there is nothing to predict.
    """
    if path.is_dir():
        images = StoredPaths(sorted_paths(_images_in(str(path), recursive, ())))
        if not len(images):
            inside = "in it" if recursive else "in its root"
            advice = "" if recursive else ", or pass --recursive if they lie deeper"
            raise UserError(
                f"{path} has no {', '.join(FOLDER_EXTENSIONS)} file {inside}: give a folder of images{advice}"
            )
        return images
    if not path.is_file():
        raise UserError(f"{path} does not exist: give an image or a folder of images")
    if recursive:
        raise UserError(f"{path} is a file and --recursive is for folders: leave it out")
    if path.suffix.lower() != LIST_SUFFIX:
        return StoredPaths([str(path)])
    images = StoredPaths(_listed(path))
    if not len(images):
        raise UserError(f"{path} holds no path: give one a line")
    return images


def _images_in(folder: str, recursive: bool, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """The images of `folder` in no order. `above` identifies the folders that lead here."""
    try:
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino)
        if here in above:  # a link to a folder that it lies in: its images are found there
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    if recursive:
                        yield from _images_in(entry.path, recursive, (*above, here))
                elif os.path.splitext(entry.name)[1].lower() in FOLDER_EXTENSIONS and entry.is_file():
                    yield entry.path
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror or error}): check its permissions") from error


def _listed(path: Path) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
            for line in file:
                name = line.rstrip("\r\n")
                if "\0" in name:
                    raise UserError(f"{path} is not a text file: give one with a path a line")
                if name.strip():
                    yield name
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): check its permissions") from error

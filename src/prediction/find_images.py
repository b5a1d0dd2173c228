"""The images that a prediction is asked for.

All paths are held in memory: 1.3 million paths of 50 letters take 155 MB, and 6 s to find and sort.
"""

import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from src.errors import UserError
from src.files.regular_file import leads_to_folder, open_regular, require_regular

FOLDER_EXTENSIONS = (".png", ".jpg", ".jpeg")
LIST_SUFFIX = ".txt"
LIST_LIMIT = 500_000_000  # bytes, of 10 million paths


def find_images(path: Path, recursive: bool = False) -> list[str]:
    """Return the image files of `path`.

    Of a folder: the png and jpeg files in its root, with `recursive` also those in the folders inside it, sorted. Of a
    `.txt` file: the paths in it, one per line, relative to the current folder. Any other file is an image itself.
    Raises `UserError` if there is no image.
    """
    try:
        status = os.stat(path)
        is_folder = stat.S_ISDIR(status.st_mode)
        if not is_folder:
            require_regular(path, status)
            if recursive:
                raise UserError(f"--recursive is for folders but {path} is a file; leave it out")
            if path.suffix.lower() != LIST_SUFFIX:
                return [str(path)]
        images = sorted(_images_in(str(path), recursive)) if is_folder else list(_listed(path))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give an image, a folder of images or a .txt list") from None
    except OSError as error:
        place = error.filename or path
        raise UserError(f"{place} cannot be read ({error.strerror or error}); check its permissions") from error
    if images:
        return images
    if not is_folder:
        raise UserError(f"{path} holds no path; write one path per line")
    place, hint = ("in it", "") if recursive else ("in its root", " or pass --recursive to search its folders")
    raise UserError(f"{path} has no {', '.join(FOLDER_EXTENSIONS)} file {place}; give a folder of images{hint}")


def _images_in(folder: str, recursive: bool) -> Iterator[str]:
    """Yield the images of `folder` in any order, each folder inside it once.

    A name that leads to no readable file is an image too, so that the user learns of it.
    """
    seen, waiting = set(), [folder]
    while waiting:
        folder = waiting.pop()
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link may lead to a folder above, or to one from many places
            continue
        seen.add((status.st_dev, status.st_ino))
        inside = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if leads_to_folder(entry):
                    inside.append(entry.path)
                elif os.path.splitext(entry.name)[1].lower() in FOLDER_EXTENSIONS:
                    yield entry.path
        if recursive:
            waiting += sorted(inside, reverse=True)


def _listed(path: Path) -> Iterator[str]:
    with open_regular(path, limit=LIST_LIMIT) as data:
        for line in io.TextIOWrapper(data, encoding="utf-8-sig", errors="surrogateescape", newline="\n"):
            name = line.rstrip("\r\n")
            if "\0" in name:
                raise UserError(f"{path} is not a text file; give a list with one path per line")
            if name.strip():
                yield name

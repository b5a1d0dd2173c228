"""Image folders: one subfolder per class, images at any depth below it; and images without labels, as tree or list."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from src.data.packed_image import ImageFile
from src.data.sampling import spread
from src.errors import UserError, is_control
from src.files.regular_file import leads_to_folder, read_regular

LIST_LIMIT = 2**30  # bytes of a list of images
NO_LABEL = -1  # of an image without a label
# Compared with the lower-case file name.
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")


class ImageFiles(Protocol):
    """Image files by their number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> ImageFile: ...


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """The images of a folder.

    `classes` are the sorted names of the subfolders; `labels`, int32 [N], are positions in `classes`. `paths` are
    strings, which take a third of the memory of `Path` objects: ImageNet has 1.28 million of them. In a packed folder
    they are records of shards.
    """

    root: Path
    classes: tuple[str, ...]
    paths: ImageFiles = field(repr=False)
    labels: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.paths)


def read_image_folder(root: Path, num_samples: int = -1) -> ImageFolder:
    """List the images of a folder in the order of torchvision's `ImageFolder`, following symbolic links.

    `num_samples` keeps that many images (-1: all), evenly spaced over the list: every class keeps its share to within
    one image, and `classes` keeps all classes. Raises `UserError` for a folder that is missing or has a class without
    images, and for fewer images than `num_samples`.
    """
    root = Path(root)
    classes = _class_names(root)
    files = [_image_files(root / name) for name in classes]
    empty = [name for name, found in zip(classes, files) if not found]
    if empty:
        raise UserError(
            f"image folder {root} has class folders without images: {_listed(empty)}; remove them or add images "
            f"({', '.join(IMAGE_EXTENSIONS)})"
        )
    paths = [path for found in files for path in found]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(found) for found in files])
    chosen = chosen_samples(root, len(paths), num_samples)
    if chosen is not None:
        paths, labels = [paths[index] for index in chosen], labels[chosen]
    return ImageFolder(root, tuple(classes), paths, labels)


def read_image_tree(root: Path) -> ImageFolder:
    """Return all images below `root`, without classes, with the label -1.

    The order is that of the folders, sorted by their whole path, then of the names in each. Raises `UserError` for a
    folder that is missing or has no images.
    """
    root = Path(root)
    paths = _image_files(root)
    if not paths:
        raise UserError(f"image folder {root} has no images ({', '.join(IMAGE_EXTENSIONS)}); give another folder")
    return ImageFolder(root, (), paths, np.full(len(paths), NO_LABEL, dtype=np.int32))


def read_image_list(path: Path) -> ImageFolder:
    """Return the images that the text file `path` lists, one path a line, relative to its folder, with the label -1.

    Raises `UserError` for an unreadable file, for one without paths, and for a path that does not exist.
    """
    try:
        lines = read_regular(path, LIST_LIMIT).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"list of images {path} cannot be read ({reason}); give a text file of paths") from None
    names = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not names:
        raise UserError(f"list of images {path} is empty; write the path of an image into each line")
    paths = [os.path.join(path.parent, name) for _, name in names]
    for (number, _), image in zip(names, paths):
        if not os.path.exists(image):
            raise UserError(f"{path}, line {number}: {image} does not exist; correct the path or remove the line")
    return ImageFolder(path, (), paths, np.full(len(paths), NO_LABEL, dtype=np.int32))


def keep_samples(images: ImageFolder, num_samples: int) -> ImageFolder:
    """Return `num_samples` of `images`, as `chosen_samples` chooses."""
    chosen = chosen_samples(images.root, len(images), num_samples)
    if chosen is None:
        return images
    return replace(images, paths=[images.paths[index] for index in chosen], labels=images.labels[chosen])


def chosen_samples(root: Path, images: int, num_samples: int) -> np.ndarray | None:
    """Return the numbers of the images that `num_samples` keeps, evenly spaced, int64; None for all (-1).

    Raises `UserError` for more than there are.
    """
    if num_samples == -1:
        return None
    if not 1 <= num_samples <= images:
        raise UserError(
            f"image folder {root} has {images} images, but the number of samples is {num_samples}; "
            f"set it to 1..{images}, or to -1 for all"
        )
    return spread(images, num_samples)


def check_class_names(expected: Sequence[str], folder: ImageFolder, source: str) -> None:
    """Raise `UserError` unless the classes of `folder` are the `expected` ones of `source` (in words).

    Labels are positions in the sorted classes, so different classes give the same label different meanings.
    """
    here, there = set(folder.classes), set(expected)
    for owner, other, names in (
        (f"image folder {folder.root}", source, here - there),
        (source, f"image folder {folder.root}", there - here),
    ):
        if names:
            raise UserError(
                f"{owner} has classes that {other} does not have: {_listed(sorted(names))}; use the same class folders"
            )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _class_names(root: Path) -> list[str]:
    try:
        with os.scandir(root) as entries:
            names = sorted(entry.name for entry in entries if leads_to_folder(entry))
    except (FileNotFoundError, NotADirectoryError) as error:
        problem = "does not exist" if isinstance(error, FileNotFoundError) else "is not a folder"
        raise UserError(f"image folder {root} {problem}; it must hold one subfolder of images per class") from None
    except OSError as error:
        raise UserError(
            f"cannot read image folder {root}: {error.strerror}; check the path and its permissions"
        ) from error
    if not names:
        raise UserError(f"image folder {root} has no class folders; put the images into one subfolder per class")
    odd = [name for name in names if any(map(is_control, name))]
    if odd:
        raise UserError(
            f"image folder {root}: class names must be single lines of UTF-8 text, but found {_listed(odd)}; "
            "rename these folders"
        )
    return names


def _image_files(folder: Path) -> list[str]:
    """Return the images below a class folder: folders sorted by their whole path, then names in each folder."""
    found = sorted(_walk(os.fspath(folder)))
    return [f"{place}{os.sep}{name}" for place, names in found for name in sorted(names)]


def _walk(root: str) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder from `root` down and its image names, in any order.

    A name that leads to no readable file is an image too: training replaces and counts it.
    """
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [(root, frozenset())]
    while waiting:
        place, above = waiting.pop()  # `above` identifies the folders on the way to `place`
        try:
            status = os.stat(place)
            with os.scandir(place) as entries:
                listed = [(entry.name, leads_to_folder(entry)) for entry in entries]
        except OSError as error:
            raise UserError(f"cannot read image folder {place}: {error.strerror}; check its permissions") from error
        here = (status.st_dev, status.st_ino)
        if here in above:
            raise UserError(f"image folder {place} is a link to one of its own parent folders; remove the link")
        yield place, [name for name, is_folder in listed if not is_folder and name.lower().endswith(IMAGE_EXTENSIONS)]
        waiting += [(f"{place}{os.sep}{name}", above | {here}) for name, is_folder in listed if is_folder]

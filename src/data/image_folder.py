"""Image folders: one subfolder per class, the images anywhere below it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np

from src.data.sampling import spread
from src.errors import UserError, is_control

# In lower case; a file's ending is compared without regard to case.
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")

_NAMED = 5  # so many classes are named in an error


class Paths(Sequence[Path]):
    """Paths kept as strings, which take a third of the memory of `Path` objects: ImageNet has 1.28 million of them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Paths: ...
    def __getitem__(self, index: int | slice) -> Path | Paths:
        names = self._names[index]
        return Path(names) if isinstance(names, str) else Paths(names)


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """The images of a folder. `labels`, int32 [N], are positions in `classes`, which are the subfolders, sorted."""

    root: Path
    classes: tuple[str, ...]
    paths: Sequence[Path] = field(repr=False)
    labels: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.paths)


def read_image_folder(root: Path, num_samples: int = -1) -> ImageFolder:
    """List the images of a folder as torchvision's `ImageFolder` does: classes and paths sorted as strings.

    Symbolic links are followed. `num_samples` takes that many of the images (-1: all), evenly spaced over the list:
    every class keeps its share, give or take one image, and all classes stay in `classes`. Raises `UserError` where
    there is no such folder, no class folder in it, a class folder without images, or fewer images than asked for.
    """
    root = Path(root)
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"image folder {root} {what}; it must hold one subfolder of images per class")
    classes = _class_names(root)
    files = [_image_files(root / name) for name in classes]
    empty = [name for name, found in zip(classes, files) if not found]
    if empty:
        raise UserError(
            f"image folder {root}: no images in {'class folder' if len(empty) == 1 else 'class folders'} "
            f"{_listed(empty)}; add some ({', '.join(IMAGE_EXTENSIONS)}) or remove the folder"
        )
    paths = [path for found in files for path in found]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(found) for found in files])
    if num_samples != -1:
        _check_num_samples(num_samples, len(paths), root)
        chosen = spread(len(paths), num_samples)
        paths, labels = [paths[index] for index in chosen], labels[chosen]
    return ImageFolder(root, tuple(classes), Paths(paths), labels)


def check_same_classes(train: ImageFolder, val: ImageFolder) -> None:
    """Raise `UserError` unless both folders have the same classes, without which their labels mean different things."""
    check_class_names(train.classes, val, f"the training folder {train.root}")


def check_class_names(expected: Sequence[str], folder: ImageFolder, source: str) -> None:
    """Raise `UserError` unless the folder's classes are the `expected` ones, which come from `source` (in words)."""
    unknown = sorted(set(folder.classes) - set(expected))
    if unknown:
        raise UserError(
            f"image folder {folder.root} has {_classes(len(unknown))} that {source} lacks: {_listed(unknown)}; "
            "labels would not mean the same, so give both the same class folders"
        )
    missing = sorted(set(expected) - set(folder.classes))
    if missing:
        raise UserError(
            f"image folder {folder.root} lacks {_classes(len(missing))} that {source} has: {_listed(missing)}; "
            "labels would not mean the same, so give both the same class folders"
        )


def _classes(count: int) -> str:
    return "a class" if count == 1 else f"{count} classes"


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(map(repr, names[:_NAMED])) + (f" and {rest} more" if rest > 0 else "")


def _check_num_samples(num_samples: int, size: int, root: Path) -> None:
    if num_samples < 1:
        raise UserError(f"image folder {root}: {num_samples} samples cannot be taken; give 1 or more, or -1 for all")
    if num_samples > size:
        raise UserError(
            f"image folder {root}: holds {size} images, fewer than the {num_samples} asked for; -1 takes all"
        )


def _class_names(root: Path) -> list[str]:
    try:
        with os.scandir(root) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError as error:
        raise UserError(
            f"cannot read image folder {root}: {error.strerror}; check the path and its permissions"
        ) from error
    if not names:
        raise UserError(f"image folder {root} has no class folders; put the images into one subfolder per class")
    odd = [name for name in names if any(map(is_control, name))]
    if odd:
        raise UserError(
            f"image folder {root}: {_listed(odd)} cannot be {'a class name' if len(odd) == 1 else 'class names'}, "
            f"which are lines of UTF-8 text: rename {'the folder' if len(odd) == 1 else 'these folders'}"
        )
    return names


def _image_files(folder: Path) -> list[str]:
    """The images below a class folder: folders sorted by their whole path, and the names in each."""
    found = sorted(_walk(os.fspath(folder), ()))
    return [f"{place}{os.sep}{name}" for place, names in found for name in sorted(names)]


def _walk(place: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, list[str]]]:
    """Every folder from `place` down with its images' names. `above` identifies the folders that lead here."""
    try:
        status = os.stat(place)
        with os.scandir(place) as entries:
            listed = [(entry.name, entry.is_dir()) for entry in entries]
    except OSError as error:
        raise UserError(f"cannot read image folder {place}: {error.strerror}; check its permissions") from error
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise UserError(f"image folder {place} is a link to a folder that it lies in; remove the link")
    yield place, [name for name, is_folder in listed if not is_folder and name.lower().endswith(IMAGE_EXTENSIONS)]
    for name, is_folder in listed:
        if is_folder:
            yield from _walk(f"{place}{os.sep}{name}", (*above, here))

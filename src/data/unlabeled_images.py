"""Images without labels, for pre-training: a tree of images, a list of files, or a packed folder."""

import os
import stat
from pathlib import Path

from src.data.image_folder import ImageFolder, read_image_tree, unlabeled
from src.data.packed_folder import read_packed_folder
from src.errors import UserError
from src.files.regular_file import IrregularFile, read_regular

MAX_LIST_BYTES = 2**32  # the 14 million names of ImageNet-22k take 2**29


def read_unlabeled(source: Path, packed: bool = False, num_samples: int = -1) -> ImageFolder:
    """Return the images of `source`: a packed folder if `packed`, else a list of files or any tree of images.

    `num_samples` chooses as in `read_image_folder`. Labels and class folders are allowed and have no effect. Raises
    `UserError` if there is no image, or an image of a list is missing.
    """
    source = Path(source)
    if packed:
        return read_packed_folder(source, num_samples)
    if source.is_dir():
        return read_image_tree(source, num_samples)
    return read_image_list(source, num_samples)


def read_image_list(path: Path, num_samples: int = -1) -> ImageFolder:
    """Return the images named in a text file, in its order, with the label -1.

    The file has one path per line; empty lines are skipped. A relative path starts at the folder of the file. Raises
    `UserError` for a file that is missing or names no image, and for the first line whose image does not exist.
    """
    paths = _listed_paths(path)
    if not paths:
        raise UserError(f"image list {path} names no images; write one path per line")
    return unlabeled(path, paths, num_samples)


def _listed_paths(path: Path) -> list[str]:
    try:
        content = read_regular(path, MAX_LIST_BYTES)
    except IrregularFile:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise UserError(f"{path} {reason}; give a folder of images or a text file with one path per line") from None
    folder, paths = os.path.dirname(path), []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        name = line.removesuffix(b"\r")
        if name.strip():
            found = os.path.join(folder, os.fsdecode(name))
            _require_image(found, f"line {number} of {path}")
            paths.append(found)
    return paths


def _require_image(path: str, line: str) -> None:
    """Raise `UserError` if `path` does not exist or is a folder. The decoder checks the rest and replaces bad images."""
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except FileNotFoundError:
        raise UserError(f"{line} names {path!r}, which does not exist; correct or remove the line") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{line} names {path!r}, which cannot be read ({reason}); correct or remove the line") from None
    if is_folder:
        raise UserError(f"{line} names {path!r}, which is a folder; name the images, or give the folder itself")

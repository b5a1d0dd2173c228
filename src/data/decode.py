"""From an image file to 8-bit RGB, as Pillow's `convert("RGB")` gives it."""

from __future__ import annotations

import io
import os
import warnings

from PIL import Image, UnidentifiedImageError

from src.errors import UserError

# Both tell of files that are read as they are meant to be, and nobody could act on them while training.
warnings.filterwarnings("ignore", message="Palette images with Transparency", category=UserWarning, module="PIL")
warnings.filterwarnings("ignore", message="(Possibly corrupt|Corrupt) EXIF data", category=UserWarning, module="PIL")


class UnreadableImage(UserError):
    """A file that should be an image cannot be decoded. `path` is the file, `reason` says what is wrong with it."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"cannot read image {os.fspath(path)}: {reason}; replace or remove the file")
        self.path = path
        self.reason = reason


def read_rgb(path: str | os.PathLike[str]) -> Image.Image:
    """Decode the first frame of an image file into mode RGB.

    Like timm's and torchvision's readers it lets Pillow convert (transparency is dropped, not blended; CMYK, palette,
    gray and 16-bit images become what Pillow makes of them) and leaves the EXIF orientation alone. Raises
    `UnreadableImage`.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise UnreadableImage(path, error.strerror or str(error)) from error
    if not data:
        raise UnreadableImage(path, "the file is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            # `convert` would copy what is RGB already
            return image if image.mode == "RGB" else image.convert("RGB")
    except UnidentifiedImageError as error:
        raise UnreadableImage(path, "it is not in an image format that Pillow knows") from error
    except Exception as error:  # a damaged file makes Pillow's parsers raise nearly anything, struct.error included
        raise UnreadableImage(path, f"{type(error).__name__}: {error}") from error

"""From an image file to 8-bit RGB, as Pillow's `convert("RGB")`."""

from __future__ import annotations

import io
import os
import warnings

from PIL import Image, UnidentifiedImageError

from src.errors import UserError

# Files with these warnings decode correctly, and the user cannot act on a warning during training.
warnings.filterwarnings("ignore", message="Palette images with Transparency", category=UserWarning, module="PIL")
warnings.filterwarnings("ignore", message="(Possibly corrupt|Corrupt) EXIF data", category=UserWarning, module="PIL")


class UnreadableImage(UserError):
    """Decoding the image file `path` failed, because of `reason`."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"cannot read image {os.fspath(path)}: {reason}; replace or remove the file")
        self.path = path
        self.reason = reason


def read_rgb(path: str | os.PathLike[str]) -> Image.Image:
    """Decode the first frame of an image file into mode RGB, like timm's and torchvision's readers.

    Pillow converts other modes: it drops transparency without blending. The EXIF orientation is ignored. Raises
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
            return image if image.mode == "RGB" else image.convert("RGB")  # `convert` copies RGB images
    except UnidentifiedImageError as error:
        raise UnreadableImage(path, "it is not in an image format that Pillow knows") from error
    except Exception as error:  # on damaged files Pillow's parsers raise many types, even struct.error
        raise UnreadableImage(path, f"{type(error).__name__}: {error}") from error

"""From an image file to 8-bit RGB, as Pillow's `convert("RGB")`, and the record of files that cannot be read."""

import io
import logging
import os
import threading
import warnings

from PIL import Image, UnidentifiedImageError

from src.errors import UserError, without_control_characters

logger = logging.getLogger("beit")

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


class UnreadableImages:
    """The unreadable ones of `images` training images that this process met, by epoch. Thread-safe.

    A share of `max_share` may be unreadable in an epoch.
    """

    def __init__(self, images: int, max_share: float) -> None:
        self.images, self.max_share = images, max_share
        self._found: dict[int, set[int]] = {}
        self._lock = threading.Lock()

    def add(self, epoch: int, index: int, error: UnreadableImage) -> None:
        """Record image number `index` and log it, once per epoch. Raises `UserError` if there are too many now."""
        with self._lock:
            found = self._found.setdefault(epoch, set())
            if index in found:
                return
            found.add(index)
            count = len(found)
        logger.warning(without_control_characters(f"replaced by another image: {error.path} ({error.reason})"))
        self.check(count, f"the last is {error.path}: {error.reason}")

    def count(self, epoch: int) -> int:
        """Return the number of different unreadable images of `epoch` since this process started."""
        with self._lock:
            return len(self._found.get(epoch, ()))

    def check(self, count: int, details: str) -> None:
        """Raise `UserError` with the `details` if `count` unreadable images exceed the allowed share."""
        if count > self.max_share * self.images:
            raise UserError(
                f"{count} of {self.images} training images cannot be read, more than max_bad_images "
                f"{self.max_share:g} allows ({details}); replace or remove them, or raise max_bad_images"
            )

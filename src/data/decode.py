"""From an image file to 8-bit RGB, as Pillow's `convert("RGB")`, and the record of files that cannot be read.

Image files may come from strangers. Only regular files in the formats of `FORMATS` are opened: Pillow would start
Ghostscript for PostScript, whatever the name of the file. The decoded images of all threads together stay in `MEMORY`.
"""

import contextlib
import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from typing import IO

from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from src.data.freed_memory import return_freed_memory
from src.data.memory_budget import MemoryBudget
from src.data.packed_image import DamagedRecord, ImageFile, PackedImage
from src.data.reduction import Decoded, Reduce
from src.errors import UserError, doing, without_control_characters
from src.files.regular_file import IrregularFile, open_regular

logger = logging.getLogger("beit")

# Files with these warnings decode correctly, and the user cannot act on a warning during training.
warnings.filterwarnings("ignore", message="Palette images with Transparency", category=UserWarning, module="PIL")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # at half of Pillow's limit
warnings.filterwarnings("ignore", message="(Possibly corrupt|Corrupt) EXIF data", category=UserWarning, module="PIL")

# Pillow's names of the formats of `src.data.image_folder.IMAGE_EXTENSIONS`.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
MAX_BYTES = 2**30  # of a file
MAX_PIXELS = 178_956_970  # of an image; Pillow refuses more
HELD_BYTES = 2**24  # a file up to this size is read at once, a larger one while it is decoded

# Pillow takes 4 bytes for a pixel in RGB, and as many again while it converts another mode.
BYTES_PER_PIXEL = 4
# An image of this size first gives back the freed memory that `keep_freed_memory` lets the threads keep.
LARGE_BYTES = 2**27
MEMORY = MemoryBudget(2**30)


class UnreadableImage(UserError):
    """Decoding the image file `path` failed, because of `reason`."""

    def __init__(self, path: ImageFile, reason: str) -> None:
        fix = "replace or remove the file" + (" and pack the folder again" if isinstance(path, PackedImage) else "")
        super().__init__(f"cannot read image {path}: {reason}; {fix}")
        self.path = path
        self.reason = reason


def read_rgb(path: ImageFile) -> Image.Image:
    """Decode the first frame of an image file into mode RGB, like timm's and torchvision's readers.

    Pillow converts other modes: it drops transparency without blending. The EXIF orientation is ignored. Raises
    `UnreadableImage`.
    """
    with contextlib.ExitStack() as stack:
        return _decode(path, None, stack).image


@contextlib.contextmanager
def rgb_image(path: ImageFile, reduce: Reduce | None = None) -> Iterator[Decoded]:
    """Yield the image of `read_rgb`, which takes its share of `MEMORY` until the end of the block and is then closed.

    A JPEG file is decoded at 1/`reduce(size)` of its size, if `reduce` is given.
    """
    with contextlib.ExitStack() as stack:
        decoded = _decode(path, reduce, stack)
        with doing("preparing", path):
            yield decoded
        decoded.image.close()  # frees its memory before its share is free


def _decode(path: ImageFile, reduce: Reduce | None, stack: contextlib.ExitStack) -> Decoded:
    """Return the image in mode RGB; `stack` gets its share of `MEMORY` and the open file."""
    try:
        image = stack.enter_context(Image.open(stack.enter_context(_open(path)), formats=FORMATS))
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise UnreadableImage(path, f"it has {width} x {height} pixels, more than {MAX_PIXELS}")
        reduction = 1 if reduce is None else _reduce(image, reduce((width, height)))
        needed = (1 if image.mode == "RGB" else 2) * BYTES_PER_PIXEL * image.width * image.height
        stack.enter_context(MEMORY.taken(needed))
        if needed >= LARGE_BYTES:
            return_freed_memory()
        image.load()
        if image.mode == "RGB":
            return Decoded(image, (width, height), reduction)
        rgb = image.convert("RGB")  # `convert` copies RGB images
        image.close()
        return Decoded(rgb, (width, height), reduction)
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(path, f"it is in none of the formats {', '.join(FORMATS)}") from error
    except DamagedRecord as error:
        raise UnreadableImage(path, "its record is damaged") from error
    except IrregularFile as error:
        raise UnreadableImage(path, f"it {error.reason}") from error
    except Exception as error:  # on damaged files Pillow's parsers raise many types, even struct.error
        reason = error.strerror if isinstance(error, OSError) else None
        raise UnreadableImage(path, reason or f"{type(error).__name__}: {error}") from error


def _reduce(image: Image.Image, reduction: int) -> int:
    """Let libjpeg decode `image` at 1/`reduction` of its size; return the reduction, which is 1 for other formats."""
    if reduction == 1 or not isinstance(image, JpegImageFile):
        return 1
    # Pillow takes the largest reduction after which no side is smaller than the given one
    image.draft(None, (image.width // reduction, image.height // reduction))
    return reduction


def _open(path: ImageFile) -> IO[bytes]:
    file: IO[bytes]
    if isinstance(path, PackedImage):
        section = path.open()
        file, size = io.BufferedReader(section), section.size
    else:
        file = open_regular(path, limit=MAX_BYTES)
        size = os.fstat(file.fileno()).st_size
    if size > HELD_BYTES:
        return file
    with file:
        data = file.read()
    if not data:
        raise UnreadableImage(path, "the file is empty")
    return io.BytesIO(data)


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

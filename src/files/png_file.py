"""PNG files, written atomically."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from src.files.atomic_file import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_png(picture: Image.Image | Figure, path: Path) -> None:
    """Write a picture or a chart to `path`. Raises `UserError` if the system refuses to write."""
    save = picture.save if isinstance(picture, Image.Image) else picture.savefig
    write_atomically(path, lambda file: save(file, format="png"))

"""Atomic writing of PNG files."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from src.files.atomic_file import write_atomically


def save_png(picture: Image.Image, path: Path) -> None:
    """Write `picture` to `path` atomically. Raises `UserError` where the system refuses to write."""
    write_atomically(path, lambda file: picture.save(file, "PNG"))

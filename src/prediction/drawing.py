"""The pictures that a prediction leaves: PNG files that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from src.files.atomic_file import write_atomically
from src.prediction.attention_picture import attention_picture
from src.prediction.batches import as_image
from src.prediction.contact_sheet import Records, contact_sheet
from src.prediction.predictor import Predictor


def draw_contact_sheet(path: Path, records: Records, class_names: tuple[str, ...]) -> None:
    """Write thumbnails with their predictions to `path`. Raises `UserError` where the system refuses to write."""
    _save(contact_sheet(records, class_names), path)


def draw_attention(path: Path, predictor: Predictor, image: str) -> None:
    """Write `image` with its attention to `path`. Raises `UserError` where the system refuses to write."""
    _save(attention_picture(as_image(image), predictor.attention(image), predictor.info), path)


def _save(picture: Image.Image, path: Path) -> None:
    write_atomically(path, lambda file: picture.save(file, "PNG"))
